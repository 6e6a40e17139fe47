"""The stage: exported files in, the record of their operators out; files and the machine's rates take turns."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import onnxruntime
from numpy.typing import NDArray

from rmtkd_edge.config.hardware import load_profile
from rmtkd_edge.profile.explain.operators import Calls, operator_records
from rmtkd_edge.profile.explain.roofline import Rates
from rmtkd_edge.profile.explain.trace import Graph, read_trace, with_names
from rmtkd_edge.profile.measuring.basics import Json, RunnerError
from rmtkd_edge.profile.measuring.execute import run_block
from rmtkd_edge.profile.measuring.machine import environment, usable_cpus
from rmtkd_edge.profile.measuring.quality import quality
from rmtkd_edge.profile.measuring.sessions import feeds_of
from rmtkd_edge.profile.models import Exported, ModelFile, find_models
from rmtkd_edge.profile.options import MeasureOptions
from rmtkd_edge.profile.ratios import ratio_of_medians
from rmtkd_edge.profile.transport_local import refusal
from rmtkd_edge.profile.workload import Workload, choose_workloads
from rmtkd_edge.run.layout import EXPLAIN
from rmtkd_edge.run.records.explain import ExplainedFile, ExplainRecord, RooflineRecord, Rounds
from rmtkd_edge.run.records.profile import WorkloadRecord
from rmtkd_edge.run.reporter import Reporter
from rmtkd_edge.run.scratch import scratch_folder
from rmtkd_edge.sessions import CPU, open_session

if TYPE_CHECKING:
    from rmtkd_edge.run.directory import Run

THREADS = 1
SETTINGS = {"provider": CPU, "threads": THREADS, "spinning": False}
ROUNDS, LEAST_CALLS, LEAST_S, WARMUP = 10, 5, 0.2, 3  # calls and seconds of a session in a round
Arrays = Mapping[str, NDArray[Any]]


def explain_run(run: Run, reporter: Reporter) -> ExplainRecord:
    """Measure the operators of a run's exported files on this machine, write explain/operators.json and return it.

    Raises:
        RunDirError: nothing was exported, or a file is not the one that was.
    """
    exported = find_models(run)
    workload = choose_workloads(exported.spec, load_profile("local-cpu"), MeasureOptions(run=run.path))[0][0]
    try:
        record = explain(exported, workload, run.manifest["seed"], reporter)
    except RunnerError as err:
        raise refusal(err.kind, str(err)) from err
    run.write_record(EXPLAIN, record)
    return record


def explain(exported: Exported, workload: Workload, seed: int, reporter: Reporter) -> ExplainRecord:
    """Return the operators of exported files under one workload, on one thread of this machine's processor."""
    arrays = exported.spec.example_inputs(workload.batch, workload.seq, seed)
    with scratch_folder("explain") as folder:
        rates = Rates(folder, {"fp32", *(model.precision for model in exported.models)}, THREADS)
        named = [with_names(model.path, folder / f"{i}.onnx") for i, model in enumerate(exported.models)]
        files = [_File(*pair, arrays) for pair in zip(exported.models, named, strict=True)]
        for number in range(ROUNDS):
            rates.measure_round()
            for file in files:
                file.measure_round(folder, traced_first=number % 2 == 1)
            reporter.event("runner", text=f"operators, round {number + 1} of {ROUNDS}", done=number + 1, total=ROUNDS)
        roofline = rates.record()
    return ExplainRecord(
        workload=WorkloadRecord(workload.batch, workload.seq),
        threads=THREADS,
        env=environment(SETTINGS, open_session(exported.models[0].path, threads=THREADS)),
        roofline=roofline,
        files=tuple(file.record(roofline, seed) for file in files),
        notes=exported.notes,
    )


class _File:
    """A file with what was measured of it so far: blocks without and with the profiler, and the nodes of the latter.

    named: the same graph, whose nodes have names.
    """

    def __init__(self, model: ModelFile, named: Path, arrays: Arrays) -> None:
        self.model, self._named, self._arrays = model, named, arrays
        self._plain: list[Json] = []
        self._traced: list[Json] = []
        self._rounds: list[Calls] = []
        self._graph: Graph | None = None

    def measure_round(self, folder: Path, traced_first: bool) -> None:
        """Measure both a while, in sessions of their own."""
        turns = [self._trace, self._time]
        for turn in turns if traced_first else reversed(turns):
            with tempfile.TemporaryDirectory(dir=folder) as own:
                turn(Path(own))

    def _time(self, _: Path) -> None:
        self._plain.append(self._block(open_session(self.model.path, threads=THREADS)))

    def _trace(self, folder: Path) -> None:
        optimised = folder / "optimised.onnx"
        session = open_session(self._named, threads=THREADS, optimised=optimised, trace=folder / "trace")
        block = self._block(session)
        trace = read_trace(Path(session.end_profiling()))
        self._traced.append(block)
        self._rounds.append(trace.calls[-len(block["ns"]) :])
        if self._graph is None:
            self._graph = Graph(optimised, self._feeds(session), trace)

    def _feeds(self, session: onnxruntime.InferenceSession) -> Arrays:
        return feeds_of(session, dict(self._arrays), self.model.label)

    def _block(self, session: onnxruntime.InferenceSession) -> Json:
        feeds = dict(self._feeds(session))
        for _ in range(WARMUP):
            session.run(None, feeds)
        return run_block(session, feeds, LEAST_CALLS, LEAST_S, None)

    def record(self, roofline: RooflineRecord, seed: int) -> ExplainedFile:
        """Return what was found."""
        assert self._graph is not None, "a round was measured"
        plain, traced = _milliseconds(self._plain), _milliseconds(self._traced)
        ratio, ends = ratio_of_medians(traced, plain, seed)
        operators = operator_records(self._rounds, self._graph, roofline)
        return ExplainedFile(
            label=self.model.label,
            role=self.model.role,
            precision=self.model.precision,
            sha256=self.model.sha256,
            latency_ms=_median(plain),
            latency_rounds_ms=plain,
            profiled_ms=_median(traced),
            profiled_rounds_ms=traced,
            overhead=ratio - 1,
            overhead_ci95=None if ends is None else (ends[0] - 1, ends[1] - 1),
            operators_ms=sum(operator.time_ms for operator in operators),
            operators=operators,
            quality=quality([*self._plain, *self._traced], SETTINGS, len(usable_cpus())),
        )


def _milliseconds(blocks: list[Json]) -> Rounds:
    return tuple(tuple(ns / 1e6 for ns in block["ns"]) for block in blocks)


def _median(rounds: Rounds) -> float:
    return median(value for taken in rounds for value in taken)
