"""What width, graph and int8 each bring: uncompressed models against narrower shapes, random weights.

    taskset -c 1 python tools/bench_shapes.py --rounds 30 --out shapes.json
    taskset -c 1 python tools/bench_shapes.py --family resnet --rounds 30 --out resnet.json
    taskset -c 1 python tools/bench_shapes.py --reduce-range --shapes "all sites"
    taskset -c 1 python tools/bench_shapes.py --reduce-range --run runs/demo [--data DIR]

`encoder` is BERT-base (batch 1, 128 tokens), `resnet` a ResNet-50 with a CIFAR stem (batch 8, 32 x 32). One thread.
Models take turns within every round, so that a busy machine slows all of them; ratios are to the first model of the
same rounds: the uncompressed fp32 one, of an encoder as torch.onnx.export writes it. `cpu` is the process's CPU time an
inference, which other processes disturb least; `min` the fastest round; `linear` the share of the machine's rate of
products that the linear layers reach. Random weights say nothing about accuracy.

A ResNet's `unaligned` shape has one channel fewer in every width that is cut: what a rank that nobody rounded looks
like. --reduce-range puts the int8 file with 7 bits of weight next to the one with 8, and compares the logits of both
with fp32's; with --run on the models and validation rows of a run, which are real ones.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from gemm_rate import FLOAT_PRODUCTS, INT8_PRODUCTS, linear_rate, machine_rate
from other_tools import nncf_int8, openvino_runner, optimum_int8
from shapes import cut, encoder_spec, random_model, resnet_spec, size_of, tensors, this_processor

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.config.settings import Graph
from rmtkd_edge.export.bundle import versions
from rmtkd_edge.export.portable import make_portable
from rmtkd_edge.export.rows import rows_of_dataset
from rmtkd_edge.export.stage import saturates
from rmtkd_edge.families.base import QuantiseOptions, Site, Spec, family_of, ranks_of
from rmtkd_edge.families.encoder.graph import GraphOptions
from rmtkd_edge.families.encoder.graph import export as export_encoder
from rmtkd_edge.families.onnx_program import export_module
from rmtkd_edge.families.store import load_model
from rmtkd_edge.profile.ratios import ratio_of_medians
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import PREPROCESSING, ROLES, read_recipe
from rmtkd_edge.sessions import open_session, run_session
from rmtkd_edge.tasks.base import find_task

Feed = Mapping[str, Any]
Times = dict[str, dict[str, list[float]]]

GRAPHS = {  # an encoder's steps from torch's graph to the one that ships, which adds the norms
    "+ first token, GELU": GraphOptions(attention="plain", norm="layer"),
    "+ attention": GraphOptions(norm="layer"),
}
RUNTIME_INT8: dict[str, dict[str, Any]] = {  # onnxruntime's own dynamic int8, without smoothing and int8 tables
    "runtime's int8": {"per_channel": True},
    "runtime's int8 per tensor": {"per_channel": False},
    "runtime's int8, uint8 weights": {"per_channel": True, "weight": "QUInt8"},
}
BITS = {"int8, 7 bits": True, "int8, 8 bits": False}  # reduce_range by label
CHECKED = 32  # random rows that logits are compared on
ENCODER_TARGET, RESNET_TARGET = 0.809, 0.477  # shares of the parameters
WARMUP = 2  # rounds that are not counted


@dataclass(frozen=True)
class Entry:
    """A model's file, the name of its shape, how int8 was made, and whether OpenVINO runs it."""

    shape: str
    path: Path
    quantisation: Mapping[str, Any] | None = None
    openvino: bool = False


@dataclass(frozen=True)
class Subject:
    """Models to measure.

    Attributes:
        models: by the name of their shape; the first is what the others are compared with.
        feed: what is timed.
        calibration: batches that int8 is made with.
        checks: batches that logits are compared on.
    """

    models: Mapping[str, Callable[[], Any]]
    specs: Mapping[str, Spec]
    feed: Feed
    calibration: Sequence[Feed]
    checks: Sequence[Feed] = field(default_factory=tuple)


def encoder_shapes(target: float, alignment: int) -> dict[str, Spec]:
    """Return BERT-base and the widest aligned shapes that remove at least `target` of its parameters.

    All sites: 0.375 of every width, the FFN takes what is left. Wide stream: 352 channels, 16 a head. Hidden only: the
    stream alone is cut, as in the paper.
    """
    base = encoder_spec()
    goal = (1 - target) * base.count_parameters()

    def layers(stream: int, head: int, ffn: int) -> Spec:
        return cut(base, {"stream": stream, "pooler": stream, "qk": head, "value": head, "ffn": ffn})

    def widest(make: Callable[[int], Spec]) -> Spec:
        every = (make(width) for width in range(alignment, 3073, alignment))
        return [spec for spec in every if spec.count_parameters() <= goal][-1]

    return {
        "base": base,
        "all sites": widest(lambda ffn: layers(288, 24, ffn)),
        "wide stream": widest(lambda ffn: layers(352, 16, ffn)),
        "hidden only": widest(lambda stream: cut(base, {"stream": stream})),
    }


def resnet_shapes(depth: int, side: int, target: float, alignment: int) -> dict[str, Spec]:
    """Return a ResNet and narrower ones by name.

    All sites and inner only: the widest aligned ones that remove at least `target` of its parameters, at one share of
    every width. Early stages: half of every width before the last stage, which takes what is left.
    """
    base = resnet_spec(depth, side)
    goal = (1 - target) * base.count_parameters()

    def shape(share: Callable[[Site], float]) -> Spec:
        widths = {site.name: site.width * share(site) / alignment for site in base.sites() if not site.latent}
        return base.with_ranks({name: alignment * max(1, int(width)) for name, width in widths.items()})

    def widest(make: Callable[[float], Spec]) -> Spec:
        every = (make(share / 64) for share in range(1, 65))
        return [spec for spec in every if spec.count_parameters() <= goal][-1]

    return {
        "base": base,
        "all sites": widest(lambda f: shape(lambda site: f)),
        "inner only": widest(lambda f: shape(lambda site: f if site.kind == "inner" else 1)),
        "early stages": widest(lambda f: shape(lambda site: f if site.name.startswith("layer.4") else 0.5)),
        "inner x 0.5": cut(base, {"inner": 0.5}),
        "inner x 0.5, unaligned": cut(base, {"inner": 0.5}, less=1),
        "inner, streams x 0.75": cut(base, {"inner": 0.75, "stream": 0.75}),
        "inner x 0.5, streams x 0.75": cut(base, {"inner": 0.5, "stream": 0.75}),
        "inner x 0.5, streams x 0.75, unaligned": cut(base, {"inner": 0.5, "stream": 0.75}, less=1),
        "inner, streams x 0.5": cut(base, {"inner": 0.5, "stream": 0.5}),
    }


def random_subject(args: argparse.Namespace) -> Subject:
    """Return the shapes of a family with random weights and inputs."""
    if args.family == "resnet":
        target = RESNET_TARGET if args.reduction is None else args.reduction
        specs, batch, sequence = resnet_shapes(args.depth, args.side, target, args.alignment), args.batch or 8, None
    else:
        target = ENCODER_TARGET if args.reduction is None else args.reduction
        specs, batch, sequence = encoder_shapes(target, args.alignment), args.batch or 1, args.seq
    if args.shapes:
        specs = {name: spec for name, spec in specs.items() if name in args.shapes}
    first = next(iter(specs.values()))
    feed, checks = first.example_inputs(batch, sequence, 0), first.example_inputs(CHECKED, sequence, 1)
    calibration = feed if sequence is None else first.example_inputs(1, 64, 0)
    models = {name: partial(random_model, spec) for name, spec in specs.items()}
    return Subject(models, specs, feed, [tensors(calibration)], [checks])


def run_subject(path: Path, data: Path | None, batch: int, seq: int) -> Subject:
    """Return the original and the compressed model of a run, with rows of its data."""
    run = Run.open(path)
    recipe = read_recipe(run)
    task = find_task(recipe.task.kind)
    known = run.stage("compress").get("data")
    dataset = task.load(recipe, data or (Path(known) if known else None), kept=run.path_of(PREPROCESSING))
    roles = [ROLES[role] for role in ("baseline", "candidate")]
    models = {role.name: load_model(run, role.checkpoint) for role in roles}
    folded = {name: family_of(model).fold(model).eval() for name, model in models.items()}
    specs = {name: model.spec for name, model in folded.items()}
    spec = next(iter(specs.values()))
    rows = rows_of_dataset(task, dataset, recipe, spec)
    length = None if spec.max_length is None else min(seq, spec.max_length)
    feed = spec.example_inputs(batch, length, 0)
    made = {name: partial(returned, model) for name, model in folded.items()}
    return Subject(made, specs, feed, rows.calibration, rows.validation)


def returned(model: Any) -> Any:
    """Return a model that is there already."""
    return model


@dataclass
class Files:
    """The files that were written into a folder, by label."""

    folder: Path
    found: dict[str, Entry] = field(default_factory=dict)

    def add(self, shape: str, label: str, write: Callable[[Path], Any], openvino: bool = False) -> Path:
        """Write one more file and return it; what `write` returns, where it is a table, says how int8 was made."""
        path = self.folder / f"{len(self.found)}.{'xml' if openvino else 'onnx'}"
        done = write(path)
        self.found[f"{shape}, {label}"] = Entry(shape, path, done if isinstance(done, dict) else None, openvino)
        return path


def prepare(folder: Path, subject: Subject, args: argparse.Namespace) -> dict[str, Entry]:
    """Return the file of every model by label; what the others are compared with comes first."""
    files = Files(folder)
    for name, make in subject.models.items():
        graphs = write_fp32(files, name, make(), args)
        write_int8(files, name, graphs, subject, args)
    return files.found


def write_fp32(files: Files, name: str, model: Any, args: argparse.Namespace) -> dict[str, Path]:
    """Write the fp32 files of a model and return, by graph, those that int8 is made of."""
    family = family_of(model)
    if family.modality != "text" or args.reduce_range:
        return {"": files.add(name, "fp32", partial(family.export, model, options=Export(), metadata={}))}
    torch_graph = files.add(name, "torch graph", partial(plain_export, model))
    if name == "base":
        files.add(name, "Optimum's int8", partial(optimum_int8, torch_graph))
    for label, options in (GRAPHS if args.all else {}).items():
        files.add(name, label, partial(export_encoder, model, options=options))
    graphs: tuple[Graph, ...] = ("fast", "portable")
    return {f"{g} ": files.add(name, f"{g} fp32", partial(exported, model, g)) for g in graphs}


def exported(model: Any, graph: Graph, path: Path) -> None:
    """Write the file of a graph as it ships."""
    family_of(model).export(model, path, options=Export(graph=graph), metadata={})
    if graph == "portable":
        make_portable(path)


def write_int8(files: Files, name: str, graphs: Mapping[str, Path], subject: Subject, args: argparse.Namespace) -> None:
    """Write the int8 files of a model, and what OpenVINO makes of the portable ones."""
    family, here = family_of(subject.specs[name]), saturates(None, this_processor().sets)
    every = args.all and name != "base"
    ways = BITS if args.reduce_range else {"int8": here}
    if every and not args.reduce_range:
        ways |= {label: reduce_range for label, reduce_range in BITS.items() if reduce_range != here}
    for label, reduce_range in ways.items():
        options = QuantiseOptions(reduce_range, args.threads)
        for graph, fp32 in graphs.items():
            write = partial(family.quantise, fp32, calibration=subject.calibration, options=options)
            files.add(name, f"{graph}{label}", write)
    if args.openvino:
        source = list(graphs.values())[-1]
        files.add(name, "fp32 in OpenVINO", partial(as_openvino, source), openvino=True)
        if name != "base":  # minutes
            nncf = partial(nncf_int8, source, calibration=subject.calibration)
            files.add(name, "NNCF's int8 in OpenVINO", nncf, openvino=True)
    fp32 = next(iter(graphs.values()))
    for label, settings in RUNTIME_INT8.items() if every and family.modality == "text" else ():
        files.add(name, label, partial(runtime_int8, fp32, reduce_range=here, **settings))


def as_openvino(source: Path, path: Path) -> None:
    """Write an ONNX file as an OpenVINO model."""
    import openvino

    openvino.save_model(openvino.Core().read_model(str(source)), str(path), compress_to_fp16=False)


def plain_export(model: Any, path: Path) -> list[Path]:
    """Write a folded model as torch.onnx.export writes it, without a rewrite of the graph."""
    inputs = model.spec.inputs
    sample = tensors(model.spec.example_inputs(2, 16, 0))
    axes = {item.name: {i: axis for i, axis in enumerate(item.shape) if isinstance(axis, str)} for item in inputs}
    return export_module(model, path, sample, axes, opset=Export().opset, metadata={})


def runtime_int8(source: Path, target: Path, reduce_range: bool, per_channel: bool, weight: str = "QInt8") -> None:
    """Write what onnxruntime's quantize_dynamic makes of the products of a file."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(source))
    del model.graph.value_info[:]  # the quantiser fails on that of initialisers
    quantize_dynamic(
        model,
        str(target),
        op_types_to_quantize=["MatMul"],
        per_channel=per_channel,
        reduce_range=reduce_range and weight == "QInt8",
        weight_type=getattr(QuantType, weight),
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
    )


def measure(files: Mapping[str, Entry], feed: Feed, rounds: int, threads: int) -> Times:
    """Return wall and CPU seconds of every round by label; models take turns, each runs once unmeasured before."""
    runners = {label: runner(entry, threads) for label, entry in files.items()}
    times: Times = {label: {"wall": [], "cpu": []} for label in files}
    for turn in range(rounds + WARMUP):
        for label, run in runners.items():
            run(feed)
            wall, cpu = time.perf_counter(), time.process_time()
            run(feed)
            if turn >= WARMUP:
                times[label]["wall"].append(time.perf_counter() - wall)
                times[label]["cpu"].append(time.process_time() - cpu)
    return times


def runner(entry: Entry, threads: int) -> Callable[[Feed], Any]:
    """Return what runs a file once."""
    if entry.openvino:
        return openvino_runner(entry.path, threads)
    return partial(run_session, open_session(entry.path, threads=threads))


def linear_shares(models: Mapping[str, Entry], subject: Subject, threads: int) -> dict[str, Any]:
    """Return the machine's rate of products, and by label the rate of the linear layers of a file and its share."""
    rates = {kind: machine_rate(threads, int8=kind == "int8") for kind in ("fp32", "int8")}
    found: dict[str, Any] = {"machine": rates}
    for label, entry in models.items():
        kind, names = ("int8", INT8_PRODUCTS) if "int8" in label else ("fp32", FLOAT_PRODUCTS)
        if not entry.openvino and family_of(subject.specs[entry.shape]).modality == "text":
            rate = linear_rate(entry.path, subject.feed, threads, names)
            found[label] = {"rate": rate, "share": rate / rates[kind]}
    return found


def summarise(models: Mapping[str, Entry], times: Times, specs: Mapping[str, Spec]) -> list[dict[str, Any]]:
    """Return one row a model with its ratios to the first one."""
    rows = []
    first, reference = next(iter(models.items()))
    for label, entry in models.items():
        row: dict[str, Any] = {"model": label, "parameters": specs[entry.shape].count_parameters()}
        row["bytes"] = size_of(entry.path)
        row["reduction"] = 1 - row["parameters"] / specs[reference.shape].count_parameters()
        for kind in ("wall", "cpu"):
            mine, theirs = times[label][kind], times[first][kind]
            row |= {f"{kind}_median_ms": 1e3 * statistics.median(mine), f"{kind}_min_ms": 1e3 * min(mine)}
            row[f"{kind}_ratio"] = statistics.median(b / a for a, b in zip(mine, theirs, strict=True))
            row[f"{kind}_ratio_min"] = min(theirs) / min(mine)
        row["bytes_ratio"] = size_of(reference.path) / row["bytes"]
        rows.append(row)
    return rows


def compare_ranges(models: Mapping[str, Entry], times: Times, subject: Subject) -> list[dict[str, Any]]:
    """Return, for every shape, 7 bits of weight against 8: the time's ratio, and both files' distance from fp32.

    `cpu_ratio` is the CPU time with 7 bits over that with 8, with its 95 % interval; a distance is the largest
    difference of the logits relative to the largest of them, `same_answers` the share of rows with the same largest.
    """
    rows = []
    for name in subject.models:
        seven, eight = (f"{name}, {label}" for label in BITS)
        rounds = [[[value] for value in times[label]["cpu"]] for label in (seven, eight)]
        ratio, ends = ratio_of_medians(rounds[0], rounds[1], 0)
        row: dict[str, Any] = {"model": name, "cpu_ratio": ratio, "ci95": ends}
        wanted = logits(models[f"{name}, fp32"].path, subject.checks)
        row["rows"] = len(wanted)
        for bits, label in (("7_bits", seven), ("8_bits", eight)):
            found = logits(models[label].path, subject.checks)
            row[f"difference_{bits}"] = float(np.abs(found - wanted).max() / np.abs(wanted).max())
            row[f"mean_difference_{bits}"] = float(np.abs(found - wanted).mean() / np.abs(wanted).mean())
            row[f"same_answers_{bits}"] = float((found.argmax(1) == wanted.argmax(1)).mean())
        rows.append(row)
    return rows


def logits(path: Path, batches: Sequence[Feed]) -> np.ndarray:
    """Return the outputs of a file for batches, (rows, labels)."""
    session = open_session(path, threads=1)
    return np.concatenate([run_session(session, batch) for batch in batches])


def print_table(rows: Sequence[Mapping[str, Any]], linear: Mapping[str, Any]) -> None:
    """Print one line a model."""
    head = ("params", "MB", "smaller", "cpu ms", "min ms", "cpu", "min", "linear")
    width = max(len(str(row["model"])) for row in rows) + 2
    print(f"{'model':{width}s}" + " ".join(f"{name:>8s}" for name in head))
    for row in rows:
        size = f"{row['parameters'] / 1e6:7.1f}M {row['bytes'] / 1e6:8.1f} {row['bytes_ratio']:7.1f}x"
        speed = f"{row['cpu_median_ms']:8.1f} {row['wall_min_ms']:8.1f}"
        share = f"{linear[row['model']]['share']:8.0%}" if row["model"] in linear else ""
        print(f"{row['model']:{width}s}{size} {speed} {row['cpu_ratio']:7.2f}x {row['wall_ratio_min']:7.2f}x {share}")
    print("machine, 1e9 operations a second:", {kind: round(r / 1e9) for kind, r in linear["machine"].items()})


def print_ranges(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one line a shape."""
    print("\n7 bits of weight (reduce_range) against 8; distances of the logits from fp32's")
    for row in rows:
        ends = "" if row["ci95"] is None else " ({:.3f} to {:.3f})".format(*row["ci95"])
        print(f"{row['model']}: {row['cpu_ratio']:.3f}x the CPU time{ends}, {row['rows']} rows")
        for bits in ("7_bits", "8_bits"):
            largest, mean = row[f"difference_{bits}"], row[f"mean_difference_{bits}"]
            same = row[f"same_answers_{bits}"]
            print(f"  {bits.replace('_', ' ')}: largest {largest:.2e}, mean {mean:.2e}, same predictions {same:.1%}")


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("encoder", "resnet"), default="encoder")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, help="default: 1 for an encoder, 8 for a ResNet")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seq", type=int, default=128, help="encoder: tokens")
    parser.add_argument("--reduction", type=float, help="share of the parameters that is gone: 0.809, resnet 0.477")
    parser.add_argument("--alignment", type=int, default=16, help="multiple of widths")
    parser.add_argument("--depth", type=int, default=50, help="resnet: layers")
    parser.add_argument("--side", type=int, default=32, help="resnet: pixels")
    parser.add_argument("--shapes", nargs="+", help="only these shapes, by name (base, all sites, inner x 0.5, ...)")
    parser.add_argument("--all", action="store_true", help="every graph rewrite and every way of int8 on its own")
    parser.add_argument(
        "--reduce-range", action="store_true", help="int8 with 7 and with 8 bits of weight, against fp32"
    )
    parser.add_argument("--openvino", action="store_true", help="OpenVINO on the same models too, with int8 by NNCF")
    parser.add_argument("--run", type=Path, help="the models and rows of a run in place of random ones")
    parser.add_argument("--data", type=Path, help="the run's data, where they have moved")
    parser.add_argument("--out", type=Path, help="JSON file for the figures and the raw seconds")
    return parser.parse_args()


def main() -> None:
    """Write the models, time them, print the table."""
    args = parse_arguments()
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser warns there that nothing was pre-processed
    subject = random_subject(args) if args.run is None else run_subject(args.run, args.data, args.batch or 1, args.seq)
    with tempfile.TemporaryDirectory() as folder:
        models = prepare(Path(folder), subject, args)
        times = measure(models, subject.feed, args.rounds, args.threads)
        linear = linear_shares(models, subject, args.threads)
        rows = summarise(models, times, subject.specs)
        ranges = compare_ranges(models, times, subject) if args.reduce_range else None
    print_table(rows, linear)
    if ranges is not None:
        print_ranges(ranges)
    if args.out:
        options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
        facts = {
            "machine": asdict(this_processor()),
            "versions": versions(),
            "options": options,
            "ranks": {name: ranks_of(spec) for name, spec in subject.specs.items()},
            "int8": {label: e.quantisation for label, e in models.items() if e.quantisation is not None},
            "rows": rows,
            "linear": linear,
            "seconds": times,
        }
        args.out.write_text(json.dumps(facts | ({} if ranges is None else {"reduce_range": ranges}), indent=1))


if __name__ == "__main__":
    main()
