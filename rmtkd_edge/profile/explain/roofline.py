"""What the machine reaches: the rate of matrix products in onnxruntime, and that of copies."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rmtkd_edge.run.records.explain import RateRecord, RooflineRecord
from rmtkd_edge.sessions import open_session

PRODUCTS = {"fp32": ("MatMul", np.float32), "int8": ("MatMulInteger", np.int8)}  # operator, and type of the weights
ROWS = (256, 512, 1024)
COPIES = tuple(2**power for power in (16, 18, 20, 22, 24, 26))  # bytes: from what a core's cache holds to memory
COPY = "copy"
CALLS, SHORTEST_S = 3, 1e-3
OPSET, IR_VERSION = 17, 8


def product(kind: str, rows: int) -> onnx.ModelProto:
    """Return the product of the input `a` with a square matrix of weights."""
    operator, weights = PRODUCTS[kind]
    drawn = np.random.default_rng(rows).integers(-64, 64, (rows, rows))
    read, made = (TensorProto.FLOAT,) * 2 if kind == "fp32" else (TensorProto.UINT8, TensorProto.INT32)
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", read, [rows, rows])],
        [helper.make_tensor_value_info("c", made, [rows, rows])],
        [numpy_helper.from_array(drawn.astype(weights), "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


class Rates:
    """Rates that are measured a round at a time, so that they take turns with what is held against them."""

    def __init__(self, folder: Path, kinds: set[str], threads: int) -> None:
        self._calls: dict[tuple[str, int], Callable[[], Any]] = {}
        for kind in sorted(kinds & PRODUCTS.keys()):
            for rows in ROWS:
                path = folder / f"{kind}-{rows}.onnx"
                onnx.save(product(kind, rows), str(path))
                session = open_session(path, threads=threads)
                a = np.ones((rows, rows), np.float32 if kind == "fp32" else np.uint8)
                self._calls[kind, rows] = partial(session.run, None, {"a": a})
        for size in COPIES:
            source, target = np.ones(size // 2, np.uint8), np.empty(size // 2, np.uint8)
            self._calls[COPY, size] = partial(np.copyto, target, source)
        self._seconds: dict[tuple[str, int], list[float]] = defaultdict(list)

    def measure_round(self) -> None:
        """Take the median of a few calls of each."""
        for key, call in self._calls.items():
            call()
            self._seconds[key].append(statistics.median(_seconds(call) for _ in range(CALLS)))

    def record(self) -> RooflineRecord:
        """Return the rates of the fastest rounds."""
        rates: dict[str, list[RateRecord]] = defaultdict(list)
        for (kind, size), seconds in self._seconds.items():
            work = float(size) if kind == COPY else 2.0 * size**3
            rates[kind].append(RateRecord(size, work / min(seconds)))
        copy = tuple(rates.pop(COPY))
        return RooflineRecord({kind: tuple(found) for kind, found in rates.items()}, copy)


def _seconds(call: Callable[[], Any]) -> float:
    """Return the time of a call, from as many in a row as the clock needs."""
    repeats = 1
    while True:
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        taken = time.perf_counter() - begin
        if taken >= SHORTEST_S:
            return taken / repeats
        repeats *= 4
