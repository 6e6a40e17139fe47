"""Tiny encoders, bundles and runs for the tests of the profile stage."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rmtkd_edge.profile.measuring import basics, sessions

VOCABULARY = 50


def tiny_encoder(path: Path, width: int, seed: int = 0, external: bool = False) -> str:
    """Write input_ids, attention_mask, token_type_ids -> logits (B, 2) and return its sha256."""
    rng = np.random.default_rng(seed)
    weights = {
        "embedding": rng.normal(size=(VOCABULARY, width)).astype(np.float32),
        "dense": rng.normal(size=(width, width)).astype(np.float32) / np.float32(width**0.5),
        "head": rng.normal(size=(width, 2)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["x"]),
        helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["m", "last"], ["m3"]),
        helper.make_node("Mul", ["x", "m3"], ["y"]),
        helper.make_node("MatMul", ["y", "dense"], ["z"]),
        helper.make_node("Tanh", ["z"], ["t"]),
        helper.make_node("ReduceMean", ["t", "axis"], ["p"], keepdims=0),
        helper.make_node("MatMul", ["p", "head"], ["logits"]),
    ]
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"]) for name in names]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])]
    constants = {**weights, "last": np.array([-1], np.int64), "axis": np.array([1], np.int64)}
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(
        model,
        str(path),
        save_as_external_data=external,
        location=path.name + ".data" if external else None,
        size_threshold=64,
    )
    return sha256(path)


def sha256(path: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_plan(folder: Path, **changes: Any) -> Path:
    """Write a bundle of two tiny models (A and its baseline B) and return its plan.json."""
    folder.mkdir(parents=True, exist_ok=True)
    models = []
    for label, role, width in (("A", "candidate", 8), ("B", "baseline", 32)):
        digest = tiny_encoder(folder / f"{label}.onnx", width)
        models.append({"label": label, "role": role, "precision": "fp32", "file": f"{label}.onnx", "sha256": digest})
    workloads = changes.get("workloads", [{"batch": 2, "seq": 6}])
    inputs, reference = {}, {}
    for workload in workloads:
        key, shape = basics.workload_key(workload), (workload["batch"], workload["seq"])
        feed = {name: np.ones(shape, np.int64) for name in ("attention_mask", "token_type_ids")}
        feed["input_ids"] = np.random.default_rng(0).integers(0, VOCABULARY, shape)
        inputs.update({f"{key}/{name}": value for name, value in feed.items()})
        for model in models:
            session = sessions.onnxruntime.InferenceSession(
                str(folder / str(model["file"])), providers=["CPUExecutionProvider"]
            )
            reference[f"{model['role']}/{key}/logits"] = session.run(None, feed)[0]
    np.savez(folder / "inputs.npz", **inputs)
    np.savez(folder / "reference.npz", **reference)
    plan = {
        "schema": "rmtkd-edge/plan@2",
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "spinning": False,
        "models": models,
        "inputs": "inputs.npz",
        "reference": "reference.npz",
        "workloads": workloads,
        "min_runs": 12,
        "min_duration_s": 0.0,
        "warmup": 1,
        "rounds": 6,
        "seed": 0,
        "idle_s": 0.0,
        "meters": ["unavailable"],
        "probe_repeats": 1,
        **changes,
    }
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return folder / "plan.json"


def quiet(event: str, text: str, **facts: Any) -> None:
    """Be told about progress, and keep it."""
