"""Random shapes with random weights through the whole export, in both graphs: does every one of them come out right?

    python tools/random_shapes.py --count 300 --seed 0 --out FILE.jsonl

Shape number i depends on the seed and on i alone; numbers that FILE has are not run again. A shape is right where the
export proves it (fold, graph, several batch sizes and lengths, padded rows) and int8 either keeps the predictions or is
refused with the reason. The labels are what the model itself predicts, its classifier centred so that it predicts
several: so the fp32 file scores 1, and the recipe's own rule, `export.max_drop`, refuses int8 that changes more than
1 % of the predictions. Random weights decide many rows by next to nothing, which trained ones do not: int8 is judged on
the half of the rows with the larger margins.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmtkd_edge.api.export import export
from rmtkd_edge.config.recipe import Export
from rmtkd_edge.errors import RmtkdError
from rmtkd_edge.families.base import Spec, call, family_of, spec_from_dict
from rmtkd_edge.run.records.export import ExportRecord

ROWS, SCORED = 64, 256  # that prove and calibrate; of whose clearer half int8 is judged
GRAPHS = ("fast", "portable")
CONSTANT = 1e-4  # of the largest output: with less between its rows a model says nothing of them
FAR = 0.5  # of the largest output: int8 that is kept and this far off is looked into
TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "mpnet", "albert", "deberta-v2")
POOLERS = {"distilbert": "relu", "electra": "gelu", "deberta-v2": "gelu"}

Batch = dict[str, Tensor]


def random_spec(seed: int, number: int) -> Spec:
    """Return shape `number` of a seed: two encoders, then a ResNet."""
    rng = np.random.default_rng([seed, number])
    return spec_from_dict(_resnet(rng) if number % 3 == 2 else _encoder(rng))


def _encoder(rng: np.random.Generator) -> dict[str, Any]:
    kind = str(rng.choice(TYPES))
    padded = kind in ("roberta", "xlm-roberta", "camembert", "mpnet")  # positions are counted from the padding token
    longest, width = int(rng.integers(4, 97)), int(rng.integers(1, 97))
    layers = []
    for _ in range(rng.integers(1, 5)):
        qk, uncut = int(rng.integers(1, 33)), int(rng.integers(1, 65))
        inner = {"value": int(rng.integers(1, 33)), "ffn": int(rng.integers(1, 193))}
        layers.append({"heads": int(rng.integers(1, 9)), "qk": qk, "scale": max(qk, uncut) ** -0.5, **inner})
    if kind == "mpnet":  # all layers share the bias of their heads
        layers = [{**layer, "heads": layers[0]["heads"]} for layer in layers]
    distances = _distances(rng, longest) if kind == "deberta-v2" else {}
    factorised = kind == "albert" or (kind == "electra" and rng.random() < 0.7)
    embedding = int(rng.integers(1, 65)) if factorised else None
    return {
        "family": "encoder",
        "model_type": kind,
        "vocab": int(rng.integers(8, 2000)),
        "positions": longest + (2 if padded else 0),
        "type_vocab": 0 if kind in ("distilbert", "mpnet") else 1 if padded else int(rng.integers(1, 5)),
        "width": width,
        "layers": layers[:1] if kind == "albert" else layers,
        "repeats": len(layers) if kind == "albert" else 1,
        "pooler_width": int(rng.integers(1, 97)),
        "labels": _labels(rng),
        "embedding_size": embedding,
        "activation": str(rng.choice(["gelu", "gelu", "gelu", "gelu_new", "relu", "silu"])),
        "pooler_activation": POOLERS.get(kind, "tanh"),
        "eps": float(rng.choice([1e-12, 1e-5])),
        "pad_id": 1 if padded else 0,
        "position_offset": 2 if padded else 0,
        "raw": {},
        "relative_positions": kind == "mpnet",
        "embedding_rank": int(rng.integers(1, max(2, embedding or width))) if rng.random() < 0.3 else None,
        **distances,
    }


def _distances(rng: np.random.Generator, longest: int) -> dict[str, Any]:
    """Return what a DeBERTa has of its own: which terms, and how distances share rows of their table."""
    buckets = int(rng.choice([0, *range(2, 33)]))
    farthest = int(rng.integers(2, 2 * longest + 3))
    c2p, p2c = [(True, True), (True, False), (False, True)][rng.integers(3)]
    shape = {"span": buckets or farthest, "buckets": buckets, "farthest": farthest, "c2p": c2p, "p2c": p2c}
    return {
        "disentangled": {**shape, "shared": bool(rng.random() < 0.5)},
        "position_table": bool(rng.random() < 0.5),
        "type_vocab": int(rng.integers(0, 3)),
    }


def _resnet(rng: np.random.Generator) -> dict[str, Any]:
    block, stem = str(rng.choice(["basic", "bottleneck"])), str(rng.choice(["cifar", "imagenet"]))
    inner = 1 if block == "basic" else 2
    before = first = int(rng.integers(1, 49))
    stages = []
    for i in range(rng.integers(1, 5)):
        blocks = []
        width = first if i == 0 and rng.random() < 0.5 else int(rng.integers(1, 65))
        for j in range(rng.integers(1, 4)):
            stride = int(rng.integers(1, 3)) if j == 0 and i > 0 else 1
            needed = j == 0 and (i > 0 or width != before)  # later stages have streams of their own
            blocks.append({"inner": rng.integers(1, 65, inner).tolist(), "stride": stride, "downsample": bool(needed)})
        stages.append({"width": width, "blocks": blocks})
        before = width
    spec = {
        "family": "resnet",
        "block": block,
        "stem": stem,
        "stem_width": first,
        "stages": stages,
        "labels": _labels(rng),
        "image_size": int(rng.integers(8, 41)),
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "eps": 1e-5,
        "raw": {},
        "factors": {},
    }
    places = spec_from_dict(spec).places()  # type: ignore[attr-defined]
    factors = {place: int(rng.integers(1, out)) for place, out in places.items() if out > 1 and rng.random() < 0.15}
    return {**spec, "factors": factors}


def _labels(rng: np.random.Generator) -> list[str]:
    return [f"label {i}" for i in range(rng.integers(2, 8))]


def model_of(spec: Spec, seed: int) -> Any:
    """Return a model of a shape whose outputs depend on its inputs: weights of variance 1 / fan-in, no bias of 0."""
    family, generator = family_of(spec), torch.Generator().manual_seed(seed)
    model = family.initialise(family.build(spec), seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1 and not name.startswith("embeddings."):
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            else:
                parameter.add_(0.1 * noise)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.mul_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model.eval()


def batches_of(spec: Spec, seed: int) -> list[Batch]:
    """Return batches of random inputs of random sizes, rows padded and second segments among them."""
    rng, found, rows = np.random.default_rng(seed), list[Batch](), 0
    while rows < ROWS + SCORED:
        size = int(rng.integers(1, 33))
        inputs = spec.example_inputs(size, None, int(rng.integers(2**31)))
        if spec.max_length is not None:
            inputs = spec.padded_inputs(size, int(rng.integers(1, spec.max_length + 1)), int(rng.integers(2**31)))
        if "token_type_ids" in inputs:
            types = rng.integers(0, spec.to_dict()["type_vocab"], inputs["token_type_ids"].shape)
            inputs["token_type_ids"] = types * inputs["attention_mask"]
        found.append({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()})
        rows += size
    return found


@torch.no_grad()
def labelled(model: Any, batches: list[Batch]) -> list[Batch]:
    """Return batches with the model's own predictions, its classifier centred in place so that these differ.

    Of the batches after the first 64 rows those rows stay whose margin is at least the median.
    """
    outputs = [call(model, batch) for batch in batches]
    whole = torch.cat(outputs)
    middle = whole.mean(0)
    if (whole - middle).abs().max() < CONSTANT * whole.abs().max():  # a norm over one channel
        middle = torch.zeros_like(middle)
    model.classifier.bias -= middle
    centred = [out - middle for out in outputs]
    best = [out.topk(2, 1).values for out in centred]
    margins = [two[:, 0] - two[:, 1] for two in best]
    least, found, rows = torch.cat(margins).median(), list[Batch](), 0
    for batch, out, margin in zip(batches, centred, margins, strict=True):
        clear = (margin >= least) | torch.tensor(rows < ROWS)
        rows += len(out)
        if clear.any():
            found.append({name: value[clear] for name, value in {**batch, "labels": out.argmax(1)}.items()})
    return found


def check(spec: Spec, seed: int) -> dict[str, Any]:
    """Return what the export of a shape says, by graph: figures of fp32 and int8, or the error."""
    model = model_of(spec, seed)
    batches, found = labelled(model, batches_of(spec, seed)), dict[str, Any]()
    for graph in GRAPHS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                done = export(model, Path(folder) / "model", loader=batches, options=Export(graph=graph))
            except (RmtkdError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AssertionError) as err:
                table = getattr(err, "table", [])
                found[graph] = {"error": f"{type(err).__name__}: {err}"[:1000], "table": table}
            else:
                found[graph] = _figures(done.record)
    return found


def _figures(record: ExportRecord) -> dict[str, Any]:
    int8 = record.variants["int8"]
    return {
        "onnx_float32": record.verification.onnx_float32,
        "shapes": len(record.verification.shapes),
        "int8_difference": int8.relative_difference,
        "int8_same": None if int8.validation is None else int8.validation.value,
        "refused": int8.refused,
    }


def outcome(found: Mapping[str, Any]) -> str:
    """Return what became of one graph of a shape: `right`, `int8 refused`, `int8 far off` or `failed`."""
    if "error" in found:
        return "failed"
    if found["refused"]:
        return "int8 refused"
    return "int8 far off" if found["int8_difference"] > FAR else "right"


def main() -> None:
    """Check shapes, append a line for each, and show what became of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="one line a shape; what it has is not run again")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = args.out.read_text(encoding="utf-8").splitlines() if args.out.is_file() else []
    done = {line["number"]: line for line in map(json.loads, lines) if line["seed"] == args.seed}
    for number in range(args.count):
        if number in done:
            continue
        start, spec = time.monotonic(), random_spec(args.seed, number)
        facts = {"family": spec.family, "type": spec.model_type, "parameters": spec.count_parameters()}
        graphs = check(spec, number)
        done[number] = {"number": number, "seed": args.seed, **facts, "graphs": graphs}
        done[number]["seconds"] = round(time.monotonic() - start, 1)
        with open(args.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(done[number]) + "\n")
        print(number, spec.model_type, {graph: outcome(found) for graph, found in graphs.items()}, file=sys.stderr)
    chosen = [done[number] for number in range(args.count)]
    for graph in GRAPHS:
        counts = Counter((line["family"], outcome(line["graphs"][graph])) for line in chosen)
        print(graph, {f"{family}: {what}": n for (family, what), n in sorted(counts.items())})


if __name__ == "__main__":
    main()
