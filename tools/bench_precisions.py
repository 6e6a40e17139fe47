"""Size, error and time of an encoder's precisions on the models and validation rows of a run: int8 both ways, and int4.

    taskset -c 1 python tools/bench_precisions.py runs/demo --seq 48 --openvino --out precisions.json

`mean` and `largest` are differences of the logits from fp32's, relative to their mean and largest; `same` the share of
rows with the same prediction. int4 is onnxruntime's MatMulNBits, computed with int8 activations (accuracy level 4), and
its GatherBlockQuantized for tables; `int4 tables` has those and dynamic int8 products. CPU time, batch 1, one thread;
differences are onnxruntime's, of the files that OpenVINO times too.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import torch
from bench_shapes import Entry, Feed, Files, Subject, exported, logits, measure, run_subject
from shapes import size_of, this_processor

from rmtkd_edge.export.bundle import versions
from rmtkd_edge.export.stage import saturates
from rmtkd_edge.families import dynamic_int8
from rmtkd_edge.families.base import QuantiseOptions, family_of
from rmtkd_edge.families.dynamic_int8 import DynamicInt8, quantise_onnx

BLOCKS = (32, 64, 128)


def write(files: Files, name: str, subject: Subject, openvino: bool) -> None:
    """Write the files of a model in every precision; its fp32 one comes first."""
    model = subject.models[name]()
    family, narrow = family_of(model), saturates(None, this_processor().sets)
    fast = files.add(name, "fast fp32", partial(exported, model, "fast"))
    portable = files.add(name, "portable fp32", partial(exported, model, "portable"))
    for graph, source in (("fast", fast), ("portable", portable)):
        for scales in family.int8_scales:
            options = QuantiseOptions(narrow, 1, scales)
            make = partial(family.quantise, source, calibration=subject.calibration, options=options)
            path = files.add(name, f"{graph} int8 {scales}", make)
            if openvino and graph == "portable":
                files.found[f"{name}, int8 {scales} in OpenVINO"] = Entry(name, path, openvino=True)
    if openvino:
        files.found[f"{name}, fp32 in OpenVINO"] = Entry(name, portable, openvino=True)
    for block in BLOCKS:
        files.add(name, f"int4, blocks of {block}", partial(int4, fast, block=block, operators=("MatMul", "Gather")))
        files.add(
            name, f"int4 tables, blocks of {block}", partial(int4_tables, fast, subject.calibration, narrow, block)
        )


def int4(source: Path, target: Path, block: int, operators: Sequence[str]) -> None:
    """Write a file with the weights of its products, or its tables, in 4 bits, symmetric, a scale for every block."""
    model = onnx.load(str(source))
    del model.graph.value_info[:]
    onnx.save(in_four_bits(model, block, operators), str(target))


def int4_tables(source: Path, calibration: Sequence[Feed], narrow: bool, block: int, target: Path) -> None:
    """Write dynamic int8 with tables in 4 bits."""

    def tables(model: onnx.ModelProto) -> None:
        model.CopyFrom(in_four_bits(model, block, ("Gather",)))

    with mock.patch.object(dynamic_int8, "quantise_tables", tables):
        quantise_onnx(source, target, DynamicInt8(reduce_range=narrow), calibration=calibration)


def in_four_bits(model: onnx.ModelProto, block: int, operators: Sequence[str]) -> onnx.ModelProto:
    """Return a model with the constants that `operators` read in 4 bits."""
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    how = DefaultWeightOnlyQuantConfig(
        block_size=block,
        is_symmetric=True,
        accuracy_level=4,
        quant_format=QuantFormat.QOperator,
        op_types_to_quantize=tuple(operators),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )
    quantiser = MatMulNBitsQuantizer(model, algo_config=how)
    quantiser.process()
    return quantiser.model.model


def compare(files: Files, subject: Subject, rounds: int) -> list[dict[str, Any]]:
    """Return one row a file: size, distance from the model's own fp32 file, and its time over that file's."""
    times, rows = measure(files.found, subject.feed, rounds, 1), []
    for label, entry in files.found.items():
        first = f"{entry.shape}, fast fp32"
        mine, theirs = times[label]["cpu"], times[first]["cpu"]
        row: dict[str, Any] = {"model": label, "bytes": size_of(entry.path)}
        row["cpu_median_ms"] = 1e3 * statistics.median(mine)
        row["cpu_ratio"] = statistics.median(b / a for a, b in zip(mine, theirs, strict=True))
        wanted, found = (logits(path, subject.checks) for path in (files.found[first].path, entry.path))
        row["mean"] = float(np.abs(found - wanted).mean() / np.abs(wanted).mean())
        row["largest"] = float(np.abs(found - wanted).max() / np.abs(wanted).max())
        row["same"] = float((found.argmax(1) == wanted.argmax(1)).mean())
        row["quantisation"] = entry.quantisation
        rows.append(row)
    return rows


def main() -> None:
    """Write the files, compare them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, help="the run's data, where they have moved")
    parser.add_argument("--seq", type=int, default=128, help="tokens of what is timed")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--openvino", action="store_true", help="time OpenVINO on the portable files too")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # the quantisers tell every node
    subject = run_subject(args.run, args.data, 1, args.seq)
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder))
        for name in subject.models:
            write(files, name, subject, args.openvino)
        rows = compare(files, subject, args.rounds)
    for row in rows:
        print(
            f"{row['model']:38s} {row['bytes'] / 1e6:7.2f} MB {row['cpu_median_ms']:8.2f} ms {row['cpu_ratio']:6.2f}x "
            f"mean {row['mean']:.4f} largest {row['largest']:.3f} same {row['same']:.3f}"
        )
    if args.out:
        facts = {"machine": asdict(this_processor()), "versions": versions(), "seq": args.seq, "rounds": args.rounds}
        args.out.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
