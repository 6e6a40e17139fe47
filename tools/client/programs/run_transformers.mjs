// node run_transformers.mjs JOB ANSWER NODE_MODULES: run an exported folder with transformers.js (see running.py).
import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";

const [jobPath, answerPath, modules] = process.argv.slice(2);
const job = JSON.parse(await readFile(jobPath, "utf8"));
const hf = createRequire(join(modules, "package.json"))("@huggingface/transformers");
hf.env.allowRemoteModels = false;

const kinds = {
  async text() {
    const tokenizer = await hf.AutoTokenizer.from_pretrained(job.folder);
    return [hf.AutoModelForSequenceClassification, (items) => {
      const pairs = Array.isArray(items[0]);
      const more = pairs ? { text_pair: items.map(([, second]) => second), return_token_type_ids: true } : {};
      return tokenizer(pairs ? items.map(([first]) => first) : items, { ...more, padding: true, truncation: true });
    }];
  },
  async image() {
    const processor = await hf.AutoProcessor.from_pretrained(job.folder);
    const read = (paths) => Promise.all(paths.map((path) => hf.RawImage.read(path)));
    return [hf.AutoModelForImageClassification, async (paths) => processor(await read(paths))];
  },
};

const [kind, prepared] = await kinds[job.modality]();
const model = await kind.from_pretrained(job.folder, { dtype: job.dtype });
const outputs = [];
for (const items of job.items) outputs.push((await model(await prepared(items))).logits.tolist());
const id2label = model.config.id2label;
const labels = Object.keys(id2label).map((_, i) => id2label[i]);
const versions = { "transformers.js": hf.env.version, node: process.versions.node };
await writeFile(answerPath, JSON.stringify({ outputs, labels, versions }));
