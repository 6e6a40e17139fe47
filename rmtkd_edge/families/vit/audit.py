"""What a vision transformer's graph must hold: op counts (a lost fusion is a finding), and where sites are."""

from __future__ import annotations

import onnx

from rmtkd_edge.families.onnx_ops import FUSED_NAMES
from rmtkd_edge.families.vit.spec import VitSpec

NORM = "InstanceNormalization"


def expect_emitted(spec: VitSpec, fast: bool) -> dict[str, int]:
    """Return the op counts of the graph that export writes."""
    layers, plain = len(spec.layers), _plain_attentions(spec, fast)
    expected = {
        "MultiHeadAttention": layers - plain,
        "Softmax": plain,
        NORM: 2 * layers + 1,
        "Conv": 1,
        "MatMul": 6 * layers + 2 * plain,
        "Gemm": 1,
    }
    return expected | (_activations(spec) if fast else {})


def expect_optimised(spec: VitSpec, fast: bool, precision: str) -> dict[str, int]:
    """Return the op counts of the graph that onnxruntime runs on a CPU, after its own fusions."""
    layers, plain = len(spec.layers), _plain_attentions(spec, fast)
    expected = {"MultiHeadAttention": layers - plain, NORM: 2 * layers + 1, "Conv": 1}
    if precision == "int8":
        expected["DynamicQuantizeMatMul or MatMulIntegerToFloat"] = 6 * layers + 1
        expected["MatMul or FusedMatMul"] = 2 * plain
        expected["MatMulInteger"] = 0
    else:
        expected["MatMul or FusedMatMul"] = 6 * layers + 2 * plain
        expected["Gemm or FusedGemm"] = 1
    activations = _activations(spec)  # in plain operators they are fused too
    return expected | {f"Bias{name} or {name}" if name == "Gelu" else name: n for name, n in activations.items()}


def _plain_attentions(spec: VitSpec, fast: bool) -> int:
    """Return how many layers have their attention in plain operators: with a class token at least the last one."""
    return int(spec.pool == "class") if fast else len(spec.layers)


def _activations(spec: VitSpec) -> dict[str, int]:
    return {FUSED_NAMES[spec.activation]: len(spec.layers)} if spec.activation in FUSED_NAMES else {}


def graph_values(model: onnx.ModelProto, spec: VitSpec) -> dict[str, str]:
    """Return the graph's value for each tap: what nodes that read a named weight take or give."""
    made = {output: node for node in model.graph.node for output in node.output}
    readers = {name: node for node in model.graph.node for name in node.input}
    places: dict[str, str] = {"logits": model.graph.output[0].name}

    def before(tap: str, weight: str, *kinds: str) -> None:
        node = readers.get(weight)
        inputs = [] if node is None else [name for name in node.input if name in made and made[name].op_type in kinds]
        if inputs:
            places[tap] = inputs[0]

    before("norm", "norm.weight", NORM)
    for i in range(len(spec.layers)):
        for norm in ("norm1", "norm2"):
            before(f"layer.{i}.{norm}", f"layers.{i}.{norm}.weight", NORM)
        for tap, part in (("q", "query"), ("k", "key"), ("ffn", "up")):
            node = readers.get(f"layers.{i}.{part}.bias")
            if node is not None:
                places[f"layer.{i}.{tap}"] = node.output[0]
        before(f"layer.{i}.value", f"layers.{i}.out.bias", "MatMul")
        if f"layer.{i}.value" in places:  # what the product before the bias reads
            places[f"layer.{i}.value"] = made[places[f"layer.{i}.value"]].input[0]
    return places


def site_of(tap: str) -> str:
    """Return the site whose producers make what a tap sees."""
    if tap.startswith("stream") or tap.endswith(("norm", "norm1", "norm2", "features")):
        return "stream"
    return tap[:-1] + "qk" if tap.endswith((".q", ".k")) else tap
