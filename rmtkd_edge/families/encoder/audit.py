"""What an encoder's graph must hold: op counts (a lost fusion is a finding, not a slow file), and where sites are."""

from __future__ import annotations

from collections import Counter

import onnx

from rmtkd_edge.families.encoder.graph import FUSED_NAMES, GraphOptions
from rmtkd_edge.families.encoder.spec import EncoderSpec


def expect_emitted(spec: EncoderSpec, options: GraphOptions) -> dict[str, int]:
    """Return the op counts of the graph that `export` writes for an encoder."""
    layers, plain = len(spec.layers), _plain_attentions(spec, options)
    norm = "InstanceNormalization" if options.norm == "instance" else "LayerNormalization"
    expected = {
        "MultiHeadAttention": layers - plain,
        "Softmax": plain,
        norm: 2 * layers + 1,
        "MatMul": _products(spec) + 2 * plain,
        "Gemm": _products_of_rows(spec),
    }
    return expected | (_activations(spec) if options.gelu == "fused" else {})


def expect_optimised(spec: EncoderSpec, options: GraphOptions, precision: str) -> dict[str, int]:
    """Return the op counts of the graph that onnxruntime runs on a CPU, after its own fusions."""
    layers, plain = len(spec.layers), _plain_attentions(spec, options)
    scores = 2 * plain
    norm = "InstanceNormalization" if options.norm == "instance" else "LayerNormalization or SkipLayerNormalization"
    expected = {"MultiHeadAttention": layers - plain, norm: 2 * layers + 1}
    if precision == "int8":
        expected["DynamicQuantizeMatMul or MatMulIntegerToFloat"] = _products(spec) + _products_of_rows(spec)
        expected["MatMul or FusedMatMul"] = scores
        expected["MatMulInteger"] = 0
    else:
        expected["MatMul or FusedMatMul"] = _products(spec) + scores
        expected["Gemm or FusedGemm"] = _products_of_rows(spec)
    activations = _activations(spec)  # in plain operators they are fused too
    return expected | {f"Bias{name} or {name}" if name == "Gelu" else name: n for name, n in activations.items()}


def expect_static(spec: EncoderSpec, options: GraphOptions) -> dict[str, int]:
    """Return the op counts of a static int8 graph as onnxruntime runs it; which products stayed float is not known."""
    expected = expect_optimised(spec, options, "fp32")
    expected["MatMulIntegerToFloat or MatMul or FusedMatMul"] = expected.pop("MatMul or FusedMatMul")
    return expected


def _plain_attentions(spec: EncoderSpec, options: GraphOptions) -> int:
    """Return how many layers have their attention in plain operators."""
    return len(spec.layers) if options.attention == "plain" else int(options.first_token_alone(spec))


def _products(spec: EncoderSpec) -> int:
    """Return the products with weights that every token takes part in."""
    last = spec.head != "row" and spec.classifier is not None
    return 6 * len(spec.layers) + (spec.embedding_size is not None) + (spec.embedding_rank is not None) + last


def _products_of_rows(spec: EncoderSpec) -> int:
    """Return the products with weights of one vector a row: those of pooler and classifier."""
    return 2 if spec.head == "row" else 0


def _activations(spec: EncoderSpec) -> dict[str, int]:
    counts = Counter(
        [FUSED_NAMES.get(spec.activation, "")] * len(spec.layers)
        + [FUSED_NAMES.get(spec.pooler_activation, "")] * (spec.head == "row")
    )
    return {name: n for name, n in counts.items() if name}


def graph_values(model: onnx.ModelProto, spec: EncoderSpec) -> dict[str, str]:
    """Return the graph's value for each tap: what the last node that reads a named weight computes."""
    made = {output: node for node in model.graph.node for output in node.output}
    readers = {name: node for node in model.graph.node for name in node.input}
    places: dict[str, str] = {"logits": model.graph.output[0].name}

    def put(tap: str, bias: str) -> None:
        if bias in readers:
            places[tap] = readers[bias].output[0]

    put("stream.0", "embeddings.norm.bias")
    put("stream.0", "embeddings.project.bias")
    put("pooler", "pooler.bias")
    for i in range(len(spec.layers)):
        for tap, bias in (("q", "query"), ("k", "key"), ("mid", "norm1"), ("ffn", "up")):
            put(f"layer.{i}.{tap}", f"layers.{i}.{bias}.bias")
        put(f"stream.{i + 1}", f"layers.{i}.norm2.bias")
        add = readers.get(f"layers.{i}.out.bias")
        product = next((made[name] for name in add.input if name in made), None) if add is not None else None
        if product is not None and product.op_type == "MatMul":
            places[f"layer.{i}.value"] = product.input[0]
    return places


def site_of(tap: str) -> str:
    """Return the site whose producers make what a tap sees."""
    if tap.startswith("stream") or tap.endswith(".mid"):
        return "stream"
    return tap[:-1] + "qk" if tap.endswith((".q", ".k")) else tap
