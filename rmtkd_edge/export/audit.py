"""Op counts of a graph against what the encoder's shape demands: a lost fusion is a finding, not a slow file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from rmtkd_edge.errors import Finding
from rmtkd_edge.families.encoder.graph import FUSED_NAMES, GraphOptions
from rmtkd_edge.sessions import open_session
from rmtkd_edge.families.encoder.spec import EncoderSpec

EITHER = " or "  # joins the names of operators of which a graph may hold one or the other


@dataclass(frozen=True)
class Audit:
    """Number of nodes by operator, expected and found; a name may be several that are counted together."""

    expected: dict[str, int]
    found: dict[str, int]

    @property
    def holds(self) -> bool:
        """Return whether every expected count was found."""
        return self.expected == self.found


def expect_emitted(spec: EncoderSpec, options: GraphOptions) -> dict[str, int]:
    """Return the op counts of the graph that `to_onnx` writes for an encoder."""
    layers, fused = len(spec.layers), options.attention == "fused"
    norm = "InstanceNormalization" if options.norm == "instance" else "LayerNormalization"
    expected = {
        "MultiHeadAttention": layers if fused else 0,
        "Softmax": 0 if fused else layers,
        norm: 2 * layers + 1,
        "MatMul": _products(spec) + (0 if fused else 2 * layers),
        "Gemm": 2,
    }
    return expected | (_activations(spec) if options.gelu == "fused" else {})


def expect_optimised(spec: EncoderSpec, options: GraphOptions, precision: str) -> dict[str, int]:
    """Return the op counts of the graph that onnxruntime runs on a CPU, after its own fusions."""
    layers, fused = len(spec.layers), options.attention == "fused"
    scores = 0 if fused else 2 * layers
    norm = "InstanceNormalization" if options.norm == "instance" else "LayerNormalization or SkipLayerNormalization"
    expected = {"MultiHeadAttention": layers if fused else 0, norm: 2 * layers + 1}
    if precision == "int8":
        expected["DynamicQuantizeMatMul or MatMulIntegerToFloat"] = _products(spec) + 2
        expected["MatMul or FusedMatMul"] = scores
        expected["MatMulInteger"] = 0
    else:
        expected["MatMul or FusedMatMul"] = _products(spec) + scores
        expected["Gemm or FusedGemm"] = 2
    if options.gelu == "fused":
        expected |= {
            f"Bias{name}{EITHER}{name}" if name == "Gelu" else name: n for name, n in _activations(spec).items()
        }
    return expected


def audit_emitted(path: Path, spec: EncoderSpec, options: GraphOptions) -> Audit:
    """Count the ops of an exported file; raise Finding with expected and found counts where they differ."""
    return _audit(path.name, count_ops(path), expect_emitted(spec, options))


def audit_optimised(path: Path, spec: EncoderSpec, options: GraphOptions, precision: str) -> Audit:
    """Count the ops that onnxruntime runs, one thread, CPU; raise Finding where they differ from the expected ones."""
    with TemporaryDirectory(prefix="rmtkd-audit-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        open_session(path, threads=1, optimised=optimised)
        counts = count_ops(optimised)
    return _audit(f"{path.name} as onnxruntime runs it", counts, expect_optimised(spec, options, precision))


def count_ops(path: Path) -> Counter[str]:
    """Return the number of nodes by operator."""
    return Counter(node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node)


def _audit(what: str, counts: Mapping[str, int], expected: dict[str, int]) -> Audit:
    found = {names: sum(counts.get(name, 0) for name in names.split(EITHER)) for names in expected}
    audit = Audit(expected, found)
    if not audit.holds:
        rows = [
            [name, str(n), str(found[name]), "ok" if n == found[name] else "DIFFERS"] for name, n in expected.items()
        ]
        wrong = [row[0] for row in rows if row[3] != "ok"]
        raise Finding(
            f"{what}: the number of {', '.join(wrong)} nodes is not the expected one",
            "export again with --force; if it stays, --set export.attention=plain",
            [["operator", "expected", "found", ""], *rows],
        )
    return audit


def _products(spec: EncoderSpec) -> int:
    return 6 * len(spec.layers) + (spec.embedding is not None) + (spec.words is not None)


def _activations(spec: EncoderSpec) -> dict[str, int]:
    counts = Counter(
        [FUSED_NAMES.get(spec.activation, "")] * len(spec.layers) + [FUSED_NAMES.get(spec.head_activation, "")]
    )
    return {name: n for name, n in counts.items() if name}
