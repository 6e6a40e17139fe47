"""A model in Node or in a page, with the calls of an onnxruntime session that the runner makes."""

from __future__ import annotations

import base64
import hashlib
import os
import statistics
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np

from rmtkd_edge.profile.javascript_links import Link, family
from rmtkd_edge.profile.measuring import basics
from rmtkd_edge.profile.measuring.basics import RunnerError

TYPES = ("float32", "float64", "int64", "int32", "uint8", "int8", "bool")
LEAST_CPU_WINDOW_NS = 200_000_000  # /proc counts processor time in steps of 10 ms
COARSE = 0.01  # a clock whose step is more of a call than this is named in the notes
TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 10**7


def open_session(link: Link, plan: dict[str, Any], model: dict[str, Any], folder: Path) -> Session:
    """Return a session of the model with the plan's threads; raise RunnerError where it does not load with them."""
    parts = [model["file"], *(part["file"] for part in model.get("external", []))]
    for part in parts:
        if not (folder / part).resolve().is_relative_to(folder.resolve()):
            raise RunnerError("plan", f"{part} is outside the bundle")
    folder_of_model = PurePosixPath(parts[0]).parent
    external = [
        {"path": PurePosixPath(part).relative_to(folder_of_model).as_posix(), "file": part} for part in parts[1:]
    ]
    settings = {"threads": plan["threads"], "spinning": plan["spinning"]}
    try:
        opened = link.call("open", file=parts[0], external=external, **settings)
    except RunnerError as err:
        raise RunnerError("model", f"{Path(parts[0]).name} does not load in {err}") from err
    threads = int(opened.get("wasm_threads", plan["threads"]))
    if threads != plan["threads"]:
        raise RunnerError("provider", f"{plan['threads']} threads were asked for, the page has {threads}")
    return Session(link, opened, plan["provider"], folder, threads)


class Session:
    """A model in Node or in a page, with the calls of an onnxruntime session that the runner makes."""

    def __init__(self, link: Link, opened: dict[str, Any], provider: str, folder: Path, threads: int) -> None:
        self.link, self.opened, self.provider, self.folder, self.threads = link, opened, provider, folder, threads
        self.page_ms = 0.0
        self._clock: tuple[str, int, list[str]] | None = None
        self._feeds: tuple[Any, list[dict[str, Any]]] = (None, [])

    def watch_clock(self, label: str, step_ns: int, notes: list[str]) -> None:
        """Add a note, once, where a step of the runtime's clock is much of a call."""
        self._clock = (label, step_ns, notes)

    def get_inputs(self) -> list[Any]:
        """Return objects with the names of the inputs."""
        return [SimpleNamespace(name=name) for name in self.opened["inputs"]]

    def get_outputs(self) -> list[Any]:
        """Return objects with the names of the outputs."""
        return [SimpleNamespace(name=name) for name in self.opened["outputs"]]

    def get_providers(self) -> list[str]:
        """Return the provider, which is the only one that the session was given."""
        return [self.provider]

    def pids(self) -> list[int]:
        """Return the processes that do the work."""
        return self.link.workers()

    def run(self, names: list[str] | None, feeds: dict[str, Any]) -> list[Any]:
        """Return the outputs of one call as arrays."""
        reply = self.link.call("run", session=self.opened["session"], inputs=self._inputs(feeds))
        self.page_ms = float(reply["page_ms"])
        return [to_array(reply["outputs"][name]) for name in names or self.opened["outputs"]]

    def timed(self, feeds: dict[str, Any], runs: int, seconds: float) -> dict[str, Any]:
        """Return a block of calls: ns of each, and of all of them, and of the processor (None where it is unknown)."""
        inputs, pids = self._inputs(feeds), family(self.link.process.pid)
        before = processor_ns(pids)
        reply = self.link.call("block", session=self.opened["session"], inputs=inputs, runs=runs, seconds=seconds)
        after, ns, cpu, wall = processor_ns(pids), reply["ns"], reply["cpu_ns"], int(reply["wall_ns"])
        if len(ns) < runs or not all(isinstance(value, int) and value > 0 for value in ns):
            raise RunnerError("model", "a call took less than one step of the runtime's clock: enlarge the workload")
        if cpu is None and before is not None and after is not None and wall >= LEAST_CPU_WINDOW_NS:
            cpu = after - before
        self._judge_clock(ns)
        return {"ns": ns, "cpu_ns": cpu, "wall_ns": wall}

    def _judge_clock(self, ns: list[int]) -> None:
        if self._clock is not None and self._clock[1] > COARSE * statistics.median(ns):
            label, step_ns, notes = self._clock
            self._clock = None
            share = 100 * step_ns / statistics.median(ns)
            notes.append(f"{label}: the clock's step of {step_ns / 1e3:g} us is {share:.0f} % of a call")

    def _inputs(self, feeds: dict[str, Any]) -> list[dict[str, Any]]:
        if self._feeds[0] is not feeds:
            self._feeds = (feeds, [write_array(self.folder, name, value) for name, value in feeds.items()])
        return self._feeds[1]


def write_array(folder: Path, name: str, value: Any) -> dict[str, Any]:
    """Write an array as its little-endian bytes, and return what JavaScript must know of it.

    The file is named by shape and bytes, and JavaScript keeps its tensor by that name: rows of zeros of 8 x 42 and of
    7 x 48 have the same bytes.
    """
    if value.dtype.name not in TYPES:
        raise RunnerError("plan", f"{name} is {value.dtype.name}; JavaScript is given {', '.join(TYPES)}")
    data = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<")).tobytes()
    shape = "x".join(map(str, value.shape))
    file = f"javascript/{hashlib.sha256(data).hexdigest()}.{shape}.{value.dtype.name}.bin"
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    if not path.is_file():
        path.write_bytes(data)
    return {"name": name, "type": value.dtype.name, "dims": list(value.shape), "file": file}


def to_array(described: dict[str, Any]) -> Any:
    """Return the array of an output: type, dims, and base64 of its little-endian bytes."""
    if described["type"] not in TYPES:
        raise RunnerError("output", f"an output of type {described['type']} is not read from JavaScript")
    kind = np.dtype(described["type"]).newbyteorder("<")
    return np.frombuffer(base64.b64decode(described["data"]), kind).reshape(described["dims"])


def processor_ns(pids: list[int]) -> int | None:
    """Return the processor time of processes in ns, None where /proc does not tell."""
    fields = [(basics.read_text(f"/proc/{pid}/stat") or "").rpartition(")")[2].split() for pid in pids]
    ticks = [int(values[11]) + int(values[12]) for values in fields if len(values) > 12]
    return sum(ticks) * TICK_NS if ticks else None
