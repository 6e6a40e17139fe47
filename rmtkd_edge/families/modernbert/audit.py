"""What a ModernBERT's graph must hold: op counts (a lost fusion is a finding), and where sites are."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import onnx

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.families.modernbert.graph import LINEAR
from rmtkd_edge.families.modernbert.spec import ModernBertSpec
from rmtkd_edge.families.onnx_operators import FUSED_NAMES


def expected_ops(spec: ModernBertSpec, options: Export, stage: Literal["emitted", "fp32", "int8"]) -> dict[str, int]:
    """Return the op counts of the graph as emitted, or as onnxruntime runs it in a precision."""
    layers = len(spec.layers)
    products, scores = len(LINEAR) * layers, 2 * layers
    expected = {
        "Softmax": layers,
        "InstanceNormalization": 2 + sum(1 + layer.normed for layer in spec.layers),
        "LayerNormalization": 1,
        "Cos": len({layer.local for layer in spec.layers}),
    }
    activations = Counter(
        [FUSED_NAMES.get(spec.activation, "")] * layers + [FUSED_NAMES.get(spec.pooler_activation, "")]
    )
    del activations[""]
    if stage == "emitted":
        fused = activations if options.graph != "portable" else {}
        return {**expected, "MatMul": products + scores, "Gemm": 2, **fused}
    expected |= {f"Bias{name} or {name}" if name == "Gelu" else name: n for name, n in activations.items()}
    if stage == "fp32":
        return {**expected, "MatMul or FusedMatMul": products + scores, "Gemm or FusedGemm": 2}
    if options.int8_scales == "static":  # which products stayed float is not known
        return {**expected, "MatMulIntegerToFloat or MatMul or FusedMatMul": products + scores, "Gemm or FusedGemm": 2}
    int8 = {"DynamicQuantizeMatMul or MatMulIntegerToFloat": products + 2, "MatMulInteger": 0}
    return {**expected, **int8, "MatMul or FusedMatMul": scores}


def graph_values(model: onnx.ModelProto, spec: ModernBertSpec) -> dict[str, str]:
    """Return the graph's value for each tap: what the nodes that read named weights read and compute."""
    readers = {name: node for node in model.graph.node for name in node.input}
    places: dict[str, str] = {"logits": model.graph.output[0].name}

    def output(*names: str) -> str | None:
        return next((readers[name].output[0] for name in names if name in readers), None)

    def put(tap: str, value: str | None) -> None:
        if value is not None:
            places[tap] = value

    put("stream.0", output("embeddings.norm.bias", "embeddings.norm.weight"))
    put("pooler", output("pooler.weight"))
    for i in range(len(spec.layers)):
        place = f"layers.{i}"
        for part in ("up", "gate"):
            put(f"layer.{i}.{part}", output(f"{place}.{part}.bias", f"{place}.{part}.matrix"))
        for tap, part in (("value", "out"), ("ffn", "down")):
            reader = readers.get(f"{place}.{part}.matrix")
            put(f"layer.{i}.{tap}", reader.input[0] if reader is not None else None)
        added = output(f"{place}.down.bias", f"{place}.down.matrix")
        put(f"stream.{i + 1}", output(added) if added is not None else None)
    return places
