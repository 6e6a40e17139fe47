"""What width, graph and int8 each bring: BERT-base against shapes with 80.9 % fewer parameters, random weights.

    taskset -c 1 python tools/bench_shapes.py --rounds 30 --out shapes.json

One thread, batch 1, 128 tokens. Models take turns within every round, so that a busy machine slows all of them; ratios
are to the uncompressed fp32 model as torch.onnx.export writes it, from the same rounds. `cpu` is the process's CPU time
an inference, which other processes disturb least; `min` the fastest round. Random weights say nothing about accuracy.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from rmtkd_edge.export.bundle import versions
from rmtkd_edge.families.encoder.graph import GraphOptions
from rmtkd_edge.families.encoder.quantise import QuantiseOptions, quantise_onnx
from rmtkd_edge.sessions import open_session
from rmtkd_edge.families.encoder.to_onnx import export_onnx
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec, Spec, count_parameters, ranks_of, with_ranks

TORCH = GraphOptions(attention="plain", norm="layer", gelu="plain", first_token=False)
SHIPPED = GraphOptions()
STEPS = {
    "torch graph": TORCH,
    "+ attention, GELU": GraphOptions(norm="layer", first_token=False),
    "+ norm": GraphOptions(first_token=False),
    "+ first token": SHIPPED,
}
INT8 = {
    "int8": QuantiseOptions(),
    "int8 per tensor": QuantiseOptions(per_channel=False),
    "int8 8 bits": QuantiseOptions(reduce_range=False),
    "uint8 weights": QuantiseOptions(weight="uint8", reduce_range=False),
}


def base_spec() -> EncoderSpec:
    """Return BERT-base's shape."""
    layer = LayerSpec(12, 64, 64, 3072, 64**-0.5)
    return EncoderSpec("bert", 30522, 512, 2, 768, (layer,) * 12, 768, ("negative", "positive"))


def cut(spec: EncoderSpec, stream: int, head: int, ffn: int) -> EncoderSpec:
    """Return the spec with these widths in every layer; `head` is a head's query, key and value width."""
    ranks = {"stream": stream, "head": stream}
    for i in range(len(spec.layers)):
        ranks |= {f"layer.{i}.qk": head, f"layer.{i}.value": head, f"layer.{i}.ffn": ffn}
    return with_ranks(spec, ranks)


def shapes(target: float, alignment: int) -> dict[str, EncoderSpec]:
    """Return the widest aligned shapes that remove at least `target` of the parameters.

    All sites: 0.375 of every width, the FFN takes what is left. Wide stream: 352 channels, 16 a head. Hidden only: the
    stream alone is cut, as in the paper.
    """
    base = base_spec()
    goal = (1 - target) * count_parameters(base)

    def widest(make):
        found = [spec for width in range(alignment, 3073, alignment) if count_parameters(spec := make(width)) <= goal]
        return found[-1]

    return {
        "base": base,
        "all sites": widest(lambda f: cut(base, 288, 24, f)),
        "wide stream": widest(lambda f: cut(base, 352, 16, f)),
        "hidden only": widest(lambda d: with_ranks(base, {"stream": d})),
    }


def write(spec: EncoderSpec, path: Path, options: GraphOptions) -> Path:
    """Write a random encoder of a shape whose activations neither vanish nor grow."""
    torch.manual_seed(0)
    encoder = Encoder(spec).eval()
    for name, parameter in encoder.named_parameters():
        if "norm" in name and name.endswith("weight"):
            torch.nn.init.ones_(parameter)
        else:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5 / 2)
    export_onnx(encoder, path, options)
    return path


def prepare(folder: Path, target: float, alignment: int, every: bool) -> dict[str, tuple[str, Path]]:
    """Return, by label, the shape and the file of every model; the reference comes first."""
    found = {}
    for name, spec in shapes(target, alignment).items():
        stem = name.replace(" ", "-")
        steps = STEPS if every else {"torch graph": TORCH, "shipped": SHIPPED}
        for step, options in steps.items():
            found[f"{name}, {step}"] = (name, write(spec, folder / f"{stem}-{len(found)}.onnx", options))
        fp32 = next(reversed(found.values()))[1]
        for kind, how in INT8.items() if every and name == "all sites" else [("int8", INT8["int8"])]:
            path = folder / f"{stem}-{len(found)}.onnx"
            quantise_onnx(fp32, path, how, calibration=[random_batch(64)])
            found[f"{name}, {kind}"] = (name, path)
    return found


def random_batch(seq: int) -> dict[str, np.ndarray]:
    """Return one sequence of random tokens, int64 (1, seq)."""
    ids = np.random.default_rng(0).integers(5, 30000, (1, seq))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def measure(
    files: dict[str, Path], feed: dict[str, np.ndarray], rounds: int, threads: int
) -> dict[str, dict[str, list[float]]]:
    """Return wall and CPU seconds of every round by label; models take turns, each runs once unmeasured in front."""
    sessions = {label: open_session(path, threads=threads) for label, path in files.items()}
    times: dict[str, dict[str, list[float]]] = {label: {"wall": [], "cpu": []} for label in files}
    for turn in range(rounds + 2):
        for label, session in sessions.items():
            session.run(None, feed)
            wall, cpu = time.perf_counter(), time.process_time()
            session.run(None, feed)
            if turn >= 2:
                times[label]["wall"].append(time.perf_counter() - wall)
                times[label]["cpu"].append(time.process_time() - cpu)
    return times


def summarise(models: dict[str, tuple[str, Path]], times: dict, specs: Mapping[str, Spec]) -> list[dict]:
    """Return one row a model with its ratios to the first one."""
    rows = []
    first = next(iter(models))
    for label, (name, path) in models.items():
        row = {"model": label, "parameters": count_parameters(specs[name]), "bytes": path.stat().st_size}
        row["reduction"] = 1 - row["parameters"] / count_parameters(specs[models[first][0]])
        for kind in ("wall", "cpu"):
            mine, theirs = times[label][kind], times[first][kind]
            row |= {f"{kind}_median_ms": 1e3 * statistics.median(mine), f"{kind}_min_ms": 1e3 * min(mine)}
            row[f"{kind}_ratio"] = statistics.median(b / a for a, b in zip(mine, theirs, strict=True))
            row[f"{kind}_ratio_min"] = min(theirs) / min(mine)
        row["bytes_ratio"] = models[first][1].stat().st_size / row["bytes"]
        rows.append(row)
    return rows


def cpu_facts() -> dict[str, object]:
    """Return the processor's name and those of its instruction sets that matter here."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return {"model": fields.get("model name", platform.processor()), "sets": [name for name in wanted if name in flags]}


def print_table(rows: list[dict]) -> None:
    """Print one line a model."""
    print(
        f"{'model':32s} {'params':>7s} {'MB':>7s} {'smaller':>8s} {'cpu ms':>8s} {'min ms':>8s} {'cpu':>7s} {'min':>7s}"
    )
    for row in rows:
        size = f"{row['parameters'] / 1e6:6.1f}M {row['bytes'] / 1e6:7.1f} {row['bytes_ratio']:7.1f}x"
        speed = f"{row['cpu_median_ms']:8.1f} {row['wall_min_ms']:8.1f}"
        print(f"{row['model']:32s} {size} {speed} {row['cpu_ratio']:6.2f}x {row['wall_ratio_min']:6.2f}x")


def main() -> None:
    """Write the models, time them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seq", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--reduction", type=float, default=0.809)
    parser.add_argument("--alignment", type=int, default=16)
    parser.add_argument("--all", action="store_true", help="every graph rewrite and every way of int8 on its own")
    parser.add_argument("--out", type=Path, help="JSON file for the figures and the raw seconds")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        models = prepare(Path(folder), args.reduction, args.alignment, args.all)
        files = {label: path for label, (_, path) in models.items()}
        times = measure(files, random_batch(args.seq), args.rounds, args.threads)
        rows = summarise(models, times, shapes(args.reduction, args.alignment))
    print_table(rows)
    if args.out:
        ranks = {name: ranks_of(spec) for name, spec in shapes(args.reduction, args.alignment).items()}
        facts = {"machine": cpu_facts(), "versions": versions(), "options": vars(args) | {"out": str(args.out)}}
        facts |= {
            "ranks": ranks,
            "graph": asdict(SHIPPED),
            "int8": asdict(INT8["int8"]),
            "rows": rows,
            "seconds": times,
        }
        args.out.write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
