"""What an encoder's graph must hold: op counts (a lost fusion is a finding, not a slow file), and where sites are."""

from __future__ import annotations

import re
from collections import Counter
from itertools import product

import onnx

from rmtkd_edge.families.encoder.graph import fuses_attention
from rmtkd_edge.families.encoder.spec import EncoderSpec, tap_of
from rmtkd_edge.families.onnx_operators import FUSED_NAMES, GraphOptions


def expect_emitted(spec: EncoderSpec, options: GraphOptions) -> dict[str, int]:
    """Return the op counts of the graph that `export` writes for an encoder."""
    layers, plain = spec.depth, _plain_attentions(spec, options)
    norm = "InstanceNormalization" if options.norm == "instance" else "LayerNormalization"
    expected = {
        "MultiHeadAttention": layers - plain,
        "Softmax": plain,
        norm: 2 * layers + 1,
        "MatMul": _products(spec) + 2 * plain + _distance_scores(spec, options),
        "Gemm": _products_of_rows(spec),
    }
    return expected | (_activations(spec) if options.gelu == "fused" else {})


def expect_optimised(spec: EncoderSpec, options: GraphOptions, precision: str) -> dict[str, int]:
    """Return the op counts of the graph that onnxruntime runs on a CPU, after its own fusions."""
    layers, plain = spec.depth, _plain_attentions(spec, options)
    scores = 2 * plain + _distance_scores(spec, options)
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
    if not fuses_attention(spec, options):
        return spec.depth
    return int(options.first_token and spec.head == "row")


def _products(spec: EncoderSpec) -> int:
    """Return the products with weights that every token, or distance, takes part in."""
    last = spec.head != "row" and spec.classifier is not None
    return (5 + spec.terms) * spec.depth + (spec.embedding_size is not None) + (spec.embedding_rank is not None) + last


def _distance_scores(spec: EncoderSpec, options: GraphOptions) -> int:
    """Return the products of tokens and distances; that of the first token's key and distances is no matrix product."""
    first = options.first_token and spec.head == "row" and spec.disentangled is not None and spec.disentangled.p2c
    return (spec.terms - 1) * spec.depth - int(first)


def _products_of_rows(spec: EncoderSpec) -> int:
    """Return the products with weights of one vector a row: those of pooler and classifier."""
    return 2 if spec.head == "row" else 0


def _activations(spec: EncoderSpec) -> dict[str, int]:
    counts = Counter(
        [FUSED_NAMES.get(spec.activation, "")] * spec.depth
        + [FUSED_NAMES.get(spec.pooler_activation, "")] * (spec.head == "row")
    )
    return {name: n for name, n in counts.items() if name}


def graph_values(model: onnx.ModelProto, spec: EncoderSpec) -> dict[str, str]:
    """Return the graph's value for each tap: what the node computes that reads a named weight, in each pass."""
    made = {output: node for node in model.graph.node for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    places: dict[str, str] = {"logits": model.graph.output[0].name}

    def put(tap: str, bias: str, run: int = 0) -> None:
        if run < len(readers.get(bias, ())):
            places[tap] = readers[bias][run].output[0]

    put("stream.0", "embeddings.norm.bias")
    put("stream.0", "embeddings.project.bias")
    put("pooler", "pooler.bias")
    for run, i in product(range(spec.repeats), range(len(spec.layers))):
        for tap, bias in (("q", "query"), ("k", "key"), ("mid", "norm1"), ("ffn", "up")):
            put(tap_of(f"layer.{i}.{tap}", run), f"layers.{i}.{bias}.bias", run)
        put(f"stream.{run * len(spec.layers) + i + 1}", f"layers.{i}.norm2.bias", run)
        adds = readers.get(f"layers.{i}.out.bias", ())[run : run + 1]
        into = next((made[name] for add in adds for name in add.input if name in made), None)
        if into is not None and into.op_type == "MatMul":
            places[tap_of(f"layer.{i}.value", run)] = into.input[0]
    return places


def site_of(tap: str) -> str:
    """Return the site whose producers make what a tap sees."""
    tap = re.sub(r"^pass\.\d+\.", "", tap)
    if tap.startswith("stream") or tap.endswith(".mid"):
        return "stream"
    return re.sub(r"(\.distance)?\.[qk]$", ".qk", tap)
