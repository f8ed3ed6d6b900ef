// The page: a model is chosen, an image dropped or inputs sent, and what came of it is drawn.

import { bars, histogram, quantile, table } from "/chart.js";
import { best, classifier, pixels } from "/image.js";
import * as protocol from "/protocol.js";

const AGAIN = 50;
const EVERY = 2000; // ms between looks at the metrics
const at = Object.fromEntries([...document.querySelectorAll("[id]")].map((e) => [e.id, e]));
let model, how, last; // what is chosen, how it classifies (or null), the last inputs by name
let times = [];

async function choose(name) {
  const found = await protocol.metadata(name);
  if (name !== at.model.value) return; // another one was chosen meanwhile
  model = found;
  how = classifier(model);
  [last, times] = [undefined, []];
  at.classify.hidden = !how;
  at.call.hidden = Boolean(how);
  at.again.disabled = true;
  at.seen.hidden = true;
  at.hint.hidden = false;
  at.made.textContent = how ? taken() : "";
  at.top.replaceChildren();
  at.results.replaceChildren();
  const row = (kind) => (t) => [kind, t.name, t.datatype, `[${t.shape.join(", ").replace("-1", "batch")}]`];
  const rows = [...model.inputs.map(row("in")), ...model.outputs.map(row("out"))];
  table(at.tensors, ["", "name", "type", "shape"], rows);
  drawTimes();
  await look();
}

function taken() {
  const colour = how.channels === 1 ? "grey" : "RGB";
  const scale = how.normalised
    ? `then (x - mean) / std with mean ${how.mean.join(", ")} and std ${how.std.join(", ")}`
    : "not normalised, since the file has no mean and std";
  return `Its middle, scaled to ${how.width} x ${how.height}, ${colour}, 0 to 1, ${scale}.`;
}

async function classify(file) {
  const image = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name || "this"} is no image that this browser reads`);
  });
  at.seen.hidden = false;
  at.hint.hidden = true;
  await send({ [how.input]: pixels(image, at.seen, how) });
}

async function send(arrays) {
  last = arrays;
  const found = await timed();
  if (how) bars(at.top, best(Array.from(found[how.output].data), how.classes));
  else table(at.results, ["output", "shape", "first values"], Object.entries(found).map(shown));
  at.again.disabled = false;
  drawTimes();
  await look();
}

async function timed() {
  const begun = performance.now();
  const found = await protocol.infer(model, last);
  times.push(performance.now() - begun);
  return found;
}

async function again() {
  at.again.disabled = true;
  try {
    for (let i = 0; i < AGAIN; i++) {
      await timed();
      drawTimes();
    }
  } finally {
    at.again.disabled = false;
  }
}

function random() {
  const arrays = {};
  for (const tensor of model.inputs) {
    const zeros = protocol.zeros(tensor);
    arrays[tensor.name] = tensor.datatype.startsWith("FP") ? zeros.map(() => Math.random() * 2 - 1) : zeros;
  }
  return send(arrays);
}

function shown([name, { shape, data }]) {
  const first = [...data.slice(0, 4)].map((v) => (typeof v === "number" ? v.toPrecision(4) : v));
  return [name, `[${shape.join(", ")}]`, first.join(", ") + (data.length > 4 ? ", ..." : "")];
}

function drawTimes() {
  at.histogram.toggleAttribute("hidden", !times.length);
  if (!times.length) return;
  histogram(at.histogram, times);
  const sorted = [...times].sort((a, b) => a - b);
  const [mid, high, top] = [0.5, 0.95, 0.99].map((q) => quantile(sorted, q).toFixed(1));
  at.latency.textContent = `${times.length} requests from this page: p50 ${mid} ms, p95 ${high} ms, p99 ${top} ms.`;
}

async function look() {
  const [ready, m] = await Promise.all([protocol.isReady(model.name), protocol.metrics(model.name)]);
  at.state.textContent = ready ? "ready" : "not ready";
  at.state.classList.toggle("off", !ready);
  const of = (name) => m[`sparsetrain_serve_${name}`] ?? 0;
  const mean = (name, scale) => (scale * of(`${name}_sum`) / (of(`${name}_count`) || 1)).toFixed(1);
  const bad = Object.entries(m).filter(([n]) => /requests_total [45]/.test(n));
  table(at.metrics, [], [
    ["requests answered", of("requests_total 200")],
    ["errors", bad.reduce((sum, [, count]) => sum + count, 0)],
    ["waiting", of("queue_requests")],
    ["mean latency in the server", `${mean("request_seconds", 1000)} ms`],
    ["mean call of the network", `${mean("compute_seconds", 1000)} ms`],
    ["mean batch", mean("batch_items", 1)],
    ["memory of the server", `${((m.process_resident_memory_bytes ?? 0) / 2 ** 20).toFixed(0)} MiB`],
  ]);
}

/** Run what a person asked for; what goes wrong is said. */
function guarded(action) {
  return async (...given) => {
    at.message.hidden = true;
    try {
      await action(...given);
    } catch (error) {
      at.message.textContent = error.message;
      at.message.hidden = false;
    }
  };
}

const give = guarded((files) => (how && files.length ? classify(files[0]) : undefined));
at.file.addEventListener("change", () => give(at.file.files));
at.drop.addEventListener("dragover", (event) => { event.preventDefault(); at.drop.classList.add("over"); });
at.drop.addEventListener("dragleave", () => at.drop.classList.remove("over"));
at.drop.addEventListener("drop", (event) => {
  event.preventDefault();
  at.drop.classList.remove("over");
  give(event.dataTransfer.files);
});
at.drop.addEventListener("keydown", (event) => { if (event.key === "Enter") at.file.click(); });
document.addEventListener("paste", (event) => give(event.clipboardData.files));
at.again.addEventListener("click", guarded(again));
at.random.addEventListener("click", guarded(random));
at.model.addEventListener("change", guarded(() => choose(at.model.value)));
at.theme.addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  const asked = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark || asked ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
});

await guarded(async () => {
  at.model.append(...(await protocol.models()).map((name) => new Option(name)));
  await choose(at.model.value);
})();
setInterval(() => { if (!document.hidden && model) look().catch(() => at.state.replaceChildren("gone")); }, EVERY);
