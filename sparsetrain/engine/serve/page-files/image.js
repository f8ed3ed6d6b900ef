// From an image to the numbers that a classifier takes, and from its scores to the best classes.

const MARGIN = 256 / 224; // of the shorter side over the middle that is seen: as photographs are tested

/** How a model classifies images; null if it does not. */
export function classifier(model) {
  const [input] = model.inputs;
  const output = model.outputs.find((o) => o.datatype === "FP32" && o.shape.length === 2);
  const [batch, channels, height, width] = input?.shape ?? [];
  const fits = input?.shape.length === 4 && input.datatype === "FP32" && (batch < 0 || batch === 1);
  if (model.inputs.length !== 1 || !fits || ![1, 3].includes(channels) || !output) return null;
  const { mean, std, classes } = model.parameters ?? {};
  return {
    input: input.name, output: output.name, channels, height, width,
    mean: perChannel(mean, channels, 0), std: perChannel(std, channels, 1),
    classes: Array.isArray(classes) ? classes : [], normalised: mean != null || std != null,
  };
}

/** Draw the middle of an image, and give its pixels as [channels, height, width]. */
export function pixels(image, canvas, { channels, height, width, mean, std }) {
  const margin = Math.min(width, height) >= 96 ? MARGIN : 1;
  const shrink = margin * Math.max(width / image.width, height / image.height);
  const [wide, high] = [image.width * shrink, image.height * shrink];
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.imageSmoothingQuality = "high";
  pen.fillStyle = "white"; // behind what is transparent
  pen.fillRect(0, 0, width, height);
  pen.drawImage(image, (width - wide) / 2, (height - high) / 2, wide, high);
  const { data } = pen.getImageData(0, 0, width, height);
  const count = width * height;
  return Float32Array.from({ length: channels * count }, (_, i) => {
    const channel = Math.floor(i / count);
    const value = channels === 1 ? grey(data, 4 * i) : data[4 * (i % count) + channel];
    return (value / 255 - mean[channel]) / std[channel];
  });
}

/** [{name, share}] of the most likely classes; scores that are no probabilities become some. */
export function best(scores, classes, count = 5) {
  const sum = scores.reduce((a, b) => a + b, 0);
  const done = Math.abs(sum - 1) < 1e-3 && scores.every((s) => s >= 0);
  const shares = done ? scores : softmax(scores);
  const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, count);
  const named = classes.length === scores.length;
  return order.map((i) => ({ name: named ? String(classes[i]) : `class ${i}`, share: shares[i] }));
}

function softmax(scores) {
  const most = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = scores.map((s) => Math.exp(s - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((p) => p / sum);
}

function grey(data, at) {
  return 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
}

function perChannel(given, channels, otherwise) {
  const values = Array.isArray(given) ? given : [given ?? otherwise];
  return Array.from({ length: channels }, (_, i) => Number(values[i] ?? values[0]));
}
