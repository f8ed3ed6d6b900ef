// The Open Inference Protocol, version 2, with tensors as bytes.

const TYPES = {
  FP32: Float32Array, FP64: Float64Array, INT8: Int8Array, INT16: Int16Array, INT32: Int32Array,
  INT64: BigInt64Array, UINT8: Uint8Array, UINT16: Uint16Array, UINT32: Uint32Array,
  UINT64: BigUint64Array, BOOL: Uint8Array,
};

export async function models() {
  const found = await json(await fetch("/v2/repository/index", { method: "POST" }));
  return found.map((model) => model.name);
}

export async function metadata(name) {
  return json(await fetch(address(name)));
}

export async function isReady(name) {
  return (await fetch(`${address(name)}/ready`)).ok;
}

/** An array of zeros for a tensor of one item. */
export function zeros(tensor) {
  const shape = tensor.shape.map((size) => (size < 0 ? 1 : size));
  return new TYPES[tensor.datatype](shape.reduce((a, b) => a * b, 1));
}

/** One item for each input, arrays by name; gives arrays by name. */
export async function infer(model, arrays) {
  const inputs = model.inputs.map((tensor) => ({
    name: tensor.name,
    datatype: tensor.datatype,
    shape: tensor.shape.map((size) => (size < 0 ? 1 : size)),
    parameters: { binary_data_size: arrays[tensor.name].byteLength },
  }));
  const asked = JSON.stringify({ inputs, parameters: { binary_data_output: true } });
  const head = new TextEncoder().encode(asked);
  const answer = await fetch(`${address(model.name)}/infer`, {
    method: "POST",
    headers: { "Inference-Header-Content-Length": head.length },
    body: new Blob([head, ...model.inputs.map((tensor) => arrays[tensor.name])]),
  });
  return answer.ok ? outputs(answer) : json(answer);
}

/** Samples of the server's metrics that belong to a model or to none, by name. */
export async function metrics(model) {
  const found = {};
  for (const line of (await (await fetch("/metrics")).text()).split("\n")) {
    const parts = line.match(/^(\w+)(?:\{(.*)\})? (\S+)$/);
    if (!parts || (parts[2] && !parts[2].includes(`model=${JSON.stringify(model)}`))) continue;
    const code = (parts[2] || "").match(/code="(\d+)"/);
    found[parts[1] + (code ? ` ${code[1]}` : "")] = Number(parts[3]);
  }
  return found;
}

async function outputs(answer) {
  const length = Number(answer.headers.get("Inference-Header-Content-Length"));
  const buffer = await answer.arrayBuffer();
  const head = JSON.parse(new TextDecoder().decode(buffer.slice(0, length)));
  const found = {};
  let begin = length;
  for (const { name, datatype, shape, parameters } of head.outputs) {
    const end = begin + parameters.binary_data_size;
    found[name] = { shape, data: new TYPES[datatype](buffer.slice(begin, end)) };
    begin = end;
  }
  return found;
}

async function json(answer) {
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function address(name) {
  return `/v2/models/${encodeURIComponent(name)}`;
}
