"""How every client runs an exported folder: the same batches in, its outputs and versions back."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from client.environments import HERE, Missing, find, program
from rmtkd_edge.profile.javascript_links import Limits
from rmtkd_edge.profile.javascript_session import open_session
from rmtkd_edge.profile.transport_javascript import BROWSERS, PACKAGES, JavaScript, find_tools

PROGRAMS = HERE / "programs"
EXAMPLE = HERE.parents[1] / "examples/c/classify.c"
DTYPES = {"fp32": "fp32", "int8": "q8"}  # as transformers.js calls precisions
LIMIT_S = 600.0
Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Job:
    """An exported file and the batches to run.

    Attributes:
        file: within the folder, with the names of its files of weights in `external`.
        items: by batch: texts, pairs of texts, or paths of pictures.
        inputs: what our own preprocessing makes of these batches.
        pad: the tokenizer's padding token.
        work: a folder to write to.
    """

    folder: Path
    precision: str
    file: str
    external: tuple[str, ...]
    modality: str
    items: Sequence[Sequence[Any]]
    inputs: Sequence[Inputs]
    pad: int
    work: Path


@dataclass(frozen=True)
class Answer:
    """What a client made of a job.

    Attributes:
        outputs: by batch.
        labels: of the outputs, by the client's own reading of the folder; None where it reads none.
    """

    outputs: list[np.ndarray]
    versions: dict[str, str]
    labels: list[str] | None = None


@dataclass(frozen=True)
class Client:
    """A program that runs exported folders.

    Attributes:
        environments: that it needs.
        needs: programs, one of each group has to be on PATH.
        run: answers a job, given the folders of the environments; raises Missing for what it is not made for.
        cuts: it cuts texts that are too long as we do.
    """

    name: str
    environments: tuple[str, ...]
    needs: tuple[tuple[str, ...], ...]
    run: Callable[[Job, Sequence[Path]], Answer]
    cuts: bool = True

    def found(self, place: Path) -> list[Path]:
        """Return the folders of the environments; raise Missing where something is not there."""
        for names in self.needs:
            program(*names)
        return [find(name, place) for name in self.environments]


def _program(job: Job, command: Sequence[str | Path], after: Sequence[str | Path] = ()) -> Answer:
    """Run a program of ours that reads a job and writes an answer."""
    told, answer = job.work / "job.json", job.work / "answer.json"
    answer.unlink(missing_ok=True)
    paths = []
    for i, inputs in enumerate(job.inputs):
        paths.append(str(job.work / f"inputs-{i}.npz"))
        np.savez(paths[-1], **inputs)  # type: ignore[arg-type]
    facts = {"folder": str(job.folder), "file": job.file, "dtype": DTYPES[job.precision], "modality": job.modality}
    told.write_text(json.dumps({**facts, "items": job.items, "inputs": paths}), encoding="utf-8")
    call([*command, told, answer, *after], job.work)
    read = json.loads(answer.read_text(encoding="utf-8"))
    return Answer([np.array(batch, np.float32) for batch in read["outputs"]], read["versions"], read.get("labels"))


def call(command: Sequence[str | Path], folder: Path, given: str | None = None) -> str:
    """Return what a program prints; raise RuntimeError with the end of its errors where it fails."""
    words = [str(part) for part in command]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        words, cwd=folder, input=given, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=environ
    )
    if done.returncode:
        raise RuntimeError(f"{Path(words[0]).name} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def _optimum(job: Job, places: Sequence[Path]) -> Answer:
    return _program(job, [places[0] / "bin/python", PROGRAMS / "run_optimum.py"])


def _openvino(job: Job, places: Sequence[Path]) -> Answer:
    model = onnx.load(str(job.folder / job.file), load_external_data=False)
    if any(used.domain for used in model.opset_import):
        raise Missing("it lacks onnxruntime's own operators: rmtkd-edge export RUN --graph portable")
    return _program(job, [places[0] / "bin/python", PROGRAMS / "run_openvino.py"])


def _transformers(job: Job, places: Sequence[Path]) -> Answer:
    return _program(job, ["node", PROGRAMS / "run_transformers.mjs"], [places[0] / "node_modules"])


def _onnxruntime(transport: str) -> Callable[[Job, Sequence[Path]], Answer]:
    def run(job: Job, places: Sequence[Path]) -> Answer:
        for name in (job.file, *job.external):
            (job.work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(job.folder / name, job.work / name)
        tools = find_tools(transport, places[0])
        engine = JavaScript(tools, job.work.resolve(), Limits(None, LIMIT_S))
        plan = {"threads": 1, "spinning": False, "provider": ""}
        model = {"file": job.file, "external": [{"file": name} for name in job.external]}
        link = engine.start(1)
        try:
            session = open_session(link, plan, model, job.work)
            names = [item.name for item in session.get_inputs()]
            outputs = [session.run(["logits"], {name: batch[name] for name in names})[0] for batch in job.inputs]
        finally:
            link.stop()
        return Answer(outputs, {PACKAGES[transport]: tools.version, transport: tools.program})

    return run


def _c(job: Job, places: Sequence[Path]) -> Answer:
    if job.modality != "text":
        raise Missing("the example reads token ids")
    headers, modules = places
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), "")
    library = next(modules.glob(f"node_modules/onnxruntime-node/bin/*/linux/{machine}/libonnxruntime.so.*"), None)
    if library is None:
        raise Missing("onnxruntime-node has no library for this machine")
    binary = job.work / "classify"
    call([program("gcc", "cc"), "-Wall", "-Wextra", "-Werror", "-O1", EXAMPLE, "-I", headers, library,
          f"-Wl,-rpath,{library.parent}", "-o", binary], job.work)  # fmt: skip
    outputs = []
    for batch in job.inputs:
        given = "".join(f"{_line(batch, row)}\n" for row in range(len(batch["input_ids"])))
        rows = call([binary, job.folder / job.file, str(job.pad)], job.work, given).splitlines()
        outputs.append(np.array([row.split() for row in rows], np.float32))
    version = json.loads((modules / "node_modules/onnxruntime-node/package.json").read_text(encoding="utf-8"))
    return Answer(outputs, {"libonnxruntime": str(version["version"])})


def _line(batch: Inputs, row: int) -> str:
    """Return a row without its padding as the example reads it: ids, a bar, the ids of the second text."""
    real = batch["attention_mask"][row] > 0
    ids = batch["input_ids"][row][real]
    second = batch["token_type_ids"][row][real] > 0 if "token_type_ids" in batch else np.zeros(len(ids), bool)
    first, rest = (" ".join(map(str, part)) for part in (ids[~second], ids[second]))
    return f"{first} | {rest}" if rest else first


NODE = ("node",)
CLIENTS = {
    client.name: client
    for client in (
        Client("optimum", ("optimum",), (), _optimum),
        Client("transformers.js", ("transformers",), (NODE,), _transformers, cuts=False),
        Client("onnxruntime-node", ("javascript",), (NODE,), _onnxruntime("node")),
        Client("onnxruntime-web", ("javascript",), (BROWSERS,), _onnxruntime("browser")),
        Client("c", ("c", "javascript"), (("gcc", "cc"),), _c),
        Client("openvino", ("openvino",), (), _openvino),
    )
}
