"""What the package says of other onnxruntimes: whole, in keeping with what is refused, and true of those at hand."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from runtimes import ENVIRONMENTS, REFUSED, TABLE, VERSIONS, is_whole, outcomes

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.export.runtimes import known_outcomes
from rmtkd_edge.families.onnx_program import oldest_runtime

CLOSE = {"fp32": 1e-5, "fp16": 1e-2, "int8": 0.1}  # of the largest output
KNOWN: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
FILES = [
    (family, graph, precision, found)
    for family, graphs in KNOWN["files"].items()
    for graph, precisions in graphs.items()
    for precision, found in precisions.items()
]


def minor(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))


def test_every_version_was_tried_on_every_file() -> None:
    assert len(FILES) == 2 * 2 * 3 and all([*found] == [*VERSIONS] for *_, found in FILES)
    numbers = [minor(version) for version in VERSIONS]
    assert all(after == (before[0], before[1] + 1) for before, after in itertools.pairwise(numbers))


@pytest.mark.parametrize(("family", "graph", "precision", "found"), FILES)
def test_versions_that_exports_allow_read_the_files_right(
    family: str, graph: Any, precision: str, found: dict[str, float | None]
) -> None:
    oldest = minor(oldest_runtime(KNOWN["opset"], graph))
    for version, difference in found.items():
        if difference is not None:
            assert difference <= CLOSE[precision], version
        elif minor(version) >= oldest:
            assert (graph, precision) == ("portable", "fp16"), version  # 1.16 has no kernel for one operator of it
    if precision == "fp32":
        assert all(found[version] is None for version in found if minor(version) < oldest)


def test_an_export_quotes_its_own_family_graph_and_precisions() -> None:
    record = known_outcomes("encoder", Export(graph="fast"), ["fp32", "int8"])
    assert record is not None and [*record.differences] == ["fp32", "int8"] and record.reference == KNOWN["reference"]
    assert record.differences["int8"] == KNOWN["files"]["encoder"]["fast"]["int8"]
    static = known_outcomes("encoder", Export(graph="fast", int8_scales="static"), ["fp32", "int8"])
    assert static is not None and [*static.differences] == ["fp32"]  # int8 of static scales was not tried
    assert known_outcomes("mlp", Export(), ["fp32"]) is None  # not tried
    assert known_outcomes("encoder", Export(opset=20), ["fp32"]) is None


@pytest.mark.slow
def test_versions_at_hand_do_what_the_table_says() -> None:
    there = [version for version in VERSIONS if is_whole(ENVIRONMENTS, version)]
    if not there:
        pytest.skip(f"no environments in {ENVIRONMENTS}: python tools/runtimes.py makes them (2 GB)")
    for version, outcome in outcomes(there, ENVIRONMENTS).items():
        for name, value in outcome.items():
            family, graph, precision = name.split("-")
            known = KNOWN["files"][family][graph][precision][version]
            assert (value == REFUSED) == (known is None), (version, name)
            assert value == REFUSED or value <= CLOSE[precision], (version, name)
