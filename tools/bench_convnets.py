"""What width, alignment and int8 bring a ResNet-50 (CIFAR stem, 32 x 32) on a processor; random weights.

    taskset -c 1 python tools/bench_convnets.py --rounds 30 --out convnets.json

One thread, batch 8. Models take turns within every round, so that a busy machine slows all of them; ratios are to the
uncompressed fp32 model of the same rounds. `unaligned` has one channel fewer in every width than `aligned`: what a rank
that nobody rounded looks like. int8 is static QDQ, calibrated on random images. Nothing here says how accurate it is.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from bench_shapes import cpu_facts, measure, print_table, summarise

from rmtkd_edge.export.bundle import versions
from rmtkd_edge.families.resnet.quantise import quantise_convnet
from rmtkd_edge.families.resnet.graph import export_convnet
from rmtkd_edge.families.encoder.graph import GraphOptions
from rmtkd_edge.export.stage import SUMS_IN_32_BITS
from rmtkd_edge.families.resnet.sources import sources as resnet
from rmtkd_edge.families.resnet.module import ConvNet
from rmtkd_edge.families.resnet.spec import ConvNetSpec
from rmtkd_edge.families.encoder.spec import ranks_of
from rmtkd_edge.machine import detect_machine


def cut(base: ConvNetSpec, inner: float, stream: float, less: int = 0) -> ConvNetSpec:
    """Return the shape with these shares of the inner widths and of the streams, minus `less` channels where cut."""
    ranks = {}
    for site in base.sites():
        share = inner if site.kind == "inner" else stream
        if share < 1:
            ranks[site.name] = int(share * site.width) - less
    return base.with_ranks(ranks)


def shapes(depth: int, side: int) -> dict[str, ConvNetSpec]:
    """Return the shapes by name; the uncompressed one is `base`."""
    base = resnet.resnet_spec(depth, tuple("abcdefghij"), stem="cifar", image_size=side)
    return {
        "base": base,
        "inner x 0.5": cut(base, 0.5, 1),
        "inner x 0.5, unaligned": cut(base, 0.5, 1, less=1),
        "inner, streams x 0.75": cut(base, 0.75, 0.75),
        "inner x 0.5, streams x 0.75": cut(base, 0.5, 0.75),
        "inner x 0.5, streams x 0.75, unaligned": cut(base, 0.5, 0.75, less=1),
        "inner, streams x 0.5": cut(base, 0.5, 0.5),
    }


def prepare(folder: Path, found: dict[str, ConvNetSpec], batch: np.ndarray) -> dict[str, tuple[str, Path]]:
    """Return, by label, the shape and the file of every model; the reference comes first."""
    files: dict[str, tuple[str, Path]] = {}
    reduce_range = not SUMS_IN_32_BITS & set(detect_machine().instruction_sets)
    for name, spec in found.items():
        torch.manual_seed(0)
        fp32 = folder / f"{len(files)}.onnx"
        export_convnet(resnet.initialise(ConvNet(spec)).eval(), fp32, GraphOptions())
        files[f"{name}, fp32"] = (name, fp32)
        int8 = folder / f"{len(files)}.onnx"
        quantise_convnet(fp32, int8, [batch], reduce_range=reduce_range)
        files[f"{name}, int8"] = (name, int8)
    return files


def main() -> None:
    """Write the models, time them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=32, help="pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file for the figures and the raw seconds")
    args = parser.parse_args()
    torch.set_num_threads(1)
    batch = np.random.default_rng(0).standard_normal((args.batch, 3, args.side, args.side), dtype=np.float32)
    found = shapes(args.depth, args.side)
    with tempfile.TemporaryDirectory() as folder:
        models = prepare(Path(folder), found, batch)
        files = {label: path for label, (_, path) in models.items()}
        times = measure(files, {"pixel_values": batch}, args.rounds, args.threads)
        rows = summarise(models, times, found)
    print_table(rows)
    if args.out:
        facts = {"machine": cpu_facts(), "versions": versions(), "options": vars(args) | {"out": str(args.out)}}
        facts |= {"ranks": {name: ranks_of(spec) for name, spec in found.items()}, "rows": rows, "seconds": times}
        args.out.write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
