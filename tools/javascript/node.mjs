// node node.mjs FOLDER_OF_NODE_MODULES BUNDLE: answers commands, a JSON object a line, from standard input.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { commands } from "./measure.mjs";

const [modules, bundle] = process.argv.slice(2);
const ort = createRequire(join(modules, "package.json"))("onnxruntime-node");

const answer = commands(ort, {
  provider: "cpu",
  async read(file) {
    const bytes = await readFile(join(bundle, file));
    return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  },
  model: async (file) => [join(bundle, file), {}], // files of weights next to it are found by onnxruntime
  cpuNs() {
    const { user, system } = process.cpuUsage(); // of all threads, in microseconds
    return (user + system) * 1e3;
  },
  facts: async () => ({ node: process.versions.node, v8: process.versions.v8, onnxruntime: ort.env.versions.node }),
});

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(await answer(JSON.parse(line))) + "\n");
}
