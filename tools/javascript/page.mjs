// The page's part: fetches one command after another from the host, and posts the answers back.
import * as ort from "../ort/ort.wasm.min.mjs";
import { commands } from "./measure.mjs";

ort.env.wasm.wasmPaths = new URL("../ort/", import.meta.url).href;
ort.env.wasm.numThreads = Number(new URL(location.href).searchParams.get("threads"));

async function read(file) {
  const got = await fetch(`../bundle/${file}`);
  if (!got.ok) throw new Error(`${file}: HTTP ${got.status}`);
  return got.arrayBuffer();
}

const answer = commands(ort, {
  provider: "wasm",
  read,
  async model(file, external) {
    const weights = external.map(async ({ path, file }) => ({ path, data: new Uint8Array(await read(file)) }));
    const externalData = await Promise.all(weights);
    return [new Uint8Array(await read(file)), externalData.length ? { externalData } : {}];
  },
  cpuNs: () => null, // a page cannot read it; the host can
  facts: async () => ({
    user_agent: navigator.userAgent,
    cross_origin_isolated: crossOriginIsolated,
    onnxruntime: ort.env.versions.web,
  }),
});

for (;;) {
  const got = await fetch("../next");
  if (got.status === 204) continue; // nothing yet
  if (!got.ok) break; // the host has finished
  const reply = await answer(await got.json());
  await fetch("../reply", { method: "POST", body: JSON.stringify({ ...reply, wasm_threads: ort.env.wasm.numThreads }) });
}
