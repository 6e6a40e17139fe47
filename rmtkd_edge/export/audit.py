"""Op counts of a graph against what the model's shape demands: a lost fusion is a finding, not a slow file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import onnx

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.errors import Finding
from rmtkd_edge.families.base import Spec, find_family
from rmtkd_edge.run.records.export import OpCounts
from rmtkd_edge.run.scratch import scratch_folder
from rmtkd_edge.sessions import open_session, written_whole

EITHER, LESS = " or ", " less "  # join the names of operators that are counted together, or as a difference


def audit_emitted(path: Path, spec: Spec, options: Export) -> OpCounts:
    """Count the ops of an exported file; raise Finding with expected and found counts where they differ."""
    expected = find_family(spec.family).expected_ops(spec, options, "emitted")
    return check_ops(path.name, count_ops(path), expected)


def audit_optimised(path: Path, spec: Spec, options: Export, precision: Literal["fp32", "int8"]) -> OpCounts:
    """Count the ops that onnxruntime runs, one thread, CPU; raise Finding where they differ from the expected ones."""
    expected = find_family(spec.family).expected_ops(spec, options, precision)
    with scratch_folder("audit") as folder, written_whole(folder):
        optimised = folder / "optimised.onnx"
        open_session(path, threads=1, optimised=optimised)
        counts = count_ops(optimised)
    return check_ops(f"{path.name} as onnxruntime runs it", counts, expected)


def count_ops(path: Path) -> Counter[str]:
    """Return the number of nodes by operator."""
    return Counter(node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node)


def check_ops(what: str, counts: Mapping[str, int], expected: Mapping[str, int]) -> OpCounts:
    """Return expected and found counts; raise Finding with both where they differ."""
    found = {names: _count(counts, names) for names in expected}
    wrong = [name for name, count in expected.items() if count != found[name]]
    if wrong:
        rows = [
            [name, str(count), str(found[name]), "DIFFERS" if name in wrong else "ok"]
            for name, count in expected.items()
        ]
        raise Finding(
            f"{what}: the number of {', '.join(wrong)} nodes is not the expected one",
            "export again with --force; if it stays, report the table with the run's recipe.toml",
            [["operator", "expected", "found", ""], *rows],
        )
    return OpCounts(dict(expected), found)


def _count(counts: Mapping[str, int], names: str) -> int:
    first, *others = (sum(counts.get(name, 0) for name in part.split(EITHER)) for part in names.split(LESS))
    return first - sum(others)
