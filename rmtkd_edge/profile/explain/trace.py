"""onnxruntime's own profile of a session, read: microseconds of every node call by call, and the shapes that ran."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from rmtkd_edge.errors import RmtkdError
from rmtkd_edge.profile.explain.work import Node, UnknownWorkError, Value

SUFFIX = "_kernel_time"
CONTROL = frozenset({"If", "Loop", "Scan"})  # their time is that of the nodes in them, which are listed too
Place = tuple[str, str]  # a node's name and operator


@dataclass(frozen=True)
class Trace:
    """What onnxruntime noted: for every call the microseconds of each node, and the outputs of each by its name."""

    calls: tuple[Mapping[Place, int], ...]
    outputs: Mapping[str, tuple[Value, ...]]


def read_trace(path: Path) -> Trace:
    """Return a profile that a session has ended; raise RmtkdError for one that holds no call."""
    events = json.loads(path.read_text(encoding="utf-8"))
    runs = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["name"] == "model_run")
    calls: list[dict[Place, int]] = [defaultdict(int) for _ in runs]
    outputs: dict[str, tuple[Value, ...]] = {}
    at = 0
    for event in sorted((e for e in events if e["cat"] == "Node"), key=lambda e: int(e["ts"])):
        name, operator = event["name"].removesuffix(SUFFIX), event["args"].get("op_name", "")
        while at < len(runs) and event["ts"] > runs[at][1]:
            at += 1
        if at == len(runs) or event["ts"] < runs[at][0] or name == event["name"] or operator in CONTROL:
            continue
        calls[at][name, operator] += event["dur"]
        outputs[name] = tuple(map(_value, event["args"]["output_type_shape"]))
    if not calls or not calls[-1]:
        raise RmtkdError(f"onnxruntime's profile {path.name} holds no operators")
    return Trace(tuple(calls), outputs)


def _value(described: Mapping[str, Any]) -> Value:
    ((kind, shape),) = described.items()
    return Value(tuple(shape), kind)


def with_names(path: Path, copy: Path) -> Path:
    """Return an ONNX file whose nodes have names of their own, which traces go by: the same one, or a copy of it."""
    model = onnx.load(str(path), load_external_data=False)
    names = [node.name for node in model.graph.node]
    if all(names) and len(set(names)) == len(names):
        return path
    model = onnx.load(str(path))
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}:{number}"
    onnx.save(model, str(copy))
    return copy


class Graph:
    """The graph as onnxruntime ran it, with the shapes of a trace: weights have theirs from the file."""

    def __init__(self, optimised: Path, feeds: Mapping[str, np.ndarray], trace: Trace) -> None:
        graph = onnx.load(str(optimised)).graph
        self._count = Counter(node.name for node in graph.node)
        self._nodes = {node.name: node for node in graph.node}
        self._values = {name: Value(array.shape, _name_of(array.dtype)) for name, array in feeds.items()}
        for tensor in graph.initializer:
            kind = _name_of(helper.tensor_dtype_to_np_dtype(tensor.data_type))
            self._values[tensor.name] = Value(tuple(tensor.dims), kind)
        for node in graph.node:
            # onnxruntime lists the outputs that are used, in order
            used = [name for name in node.output if name]
            self._values.update(zip(used, trace.outputs.get(node.name, ()), strict=False))

    def node(self, place: Place) -> Node:
        """Return a node as it ran; raise UnknownWorkError where the graph does not say what it read."""
        name, operator = place
        if self._count[name] != 1 or self._nodes[name].op_type != operator:
            raise UnknownWorkError(f"the graph has {self._count[name]} nodes of the name {name!r}")
        found = self._nodes[name]
        if lacking := [i for i in (*found.input, *found.output) if i and i not in self._values]:
            raise UnknownWorkError(f"nothing says what shape {lacking[0]} had")
        attributes = {a.name: helper.get_attribute_value(a) for a in found.attribute}
        inputs = [self._values[i] if i else None for i in found.input]
        return Node(operator, attributes, inputs, [self._values[i] for i in found.output if i])


def _name_of(kind: np.dtype[Any]) -> str:
    return {"float32": "float", "float64": "double"}.get(kind.name, kind.name)
