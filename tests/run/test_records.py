"""Records: what is written is read, and what is damaged, foreign or out of range is refused by its place."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report.report_sample import build_run, compress_result, exported, profiled

import rmtkd_edge.run.records as package
from rmtkd_edge.errors import RunDirError
from rmtkd_edge.run import Run
from rmtkd_edge.run.records.base import Document, from_json, read_json_file, to_json
from rmtkd_edge.run.records.compress import CompressRecord
from rmtkd_edge.run.records.export import ExportRecord
from rmtkd_edge.run.records.profile import LatencyRecord, ProfileRecord
from rmtkd_edge.run.records.scores import Scores


def documents() -> list[type[Document]]:
    """Every document that a module of run/records defines."""
    modules = [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    found = {item for module in modules for item in vars(module).values() if isinstance(item, type)}
    return sorted((c for c in found if issubclass(c, Document) and c is not Document), key=lambda c: c.__name__)


TEXT = st.text(max_size=8)
NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of a field's type."""
    args = get_args(kind)
    if dataclasses.is_dataclass(kind):
        return records(kind)
    if get_origin(kind) is Annotated:
        limits = {type(limit).__name__: limit for part in args[1:] for limit in part.metadata}
        low, high = (limits.get(name) for name in ("Ge", "Le"))
        low, high = 0 if low is None else low.ge, 1000 if high is None else high.le
        return st.integers(low, high) if args[0] is int else st.floats(low, high)
    if get_origin(kind) is Literal:
        return st.sampled_from(args)
    if get_origin(kind) in (Union, types.UnionType):
        return st.one_of([st.none() if arg is type(None) else values(arg) for arg in args])
    if get_origin(kind) is tuple:
        if args[-1] is Ellipsis:
            return st.lists(values(args[0]), max_size=3).map(tuple)
        return st.tuples(*map(values, args))
    if get_origin(kind) is dict:
        return st.dictionaries(TEXT, values(args[1]), max_size=3)
    return {int: st.integers(-(2**53), 2**53), float: NUMBERS, str: TEXT, bool: st.booleans(), Any: JSON}[kind]


def records(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for whole records."""
    hints = get_type_hints(cls, include_extras=True)
    made = {field.name: values(hints[field.name]) for field in dataclasses.fields(cls)}
    if cls is Scores:
        made |= {"primary": st.just("f1"), "values": st.fixed_dictionaries({"f1": NUMBERS, "accuracy": NUMBERS})}
    if cls is LatencyRecord:
        made |= {"values": st.just((1.0, 2.0, 3.0)), "round_sizes": st.sampled_from([(3,), (1, 2), (2, 0, 1)])}
    return st.builds(cls, **made)


@pytest.mark.parametrize("cls", documents(), ids=lambda cls: cls.__name__)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_document_is_read_as_it_was_written(cls: type[Document], data: st.DataObject) -> None:
    record = data.draw(records(cls))
    written = json.loads(json.dumps(to_json(record), allow_nan=False))
    assert next(iter(written)) == "schema" and from_json(cls, written, "x.json") == record


def test_documents_have_schemas_of_their_own() -> None:
    schemas = [cls.SCHEMA for cls in documents()]
    assert len(schemas) == len(set(schemas)) >= 9 and all(re.fullmatch(r"rmtkd-edge/[a-z-]+@\d+", s) for s in schemas)
    assert all(cls.__dataclass_params__.frozen for cls in documents())  # type: ignore[attr-defined]


def refused(cls: type[Document], data: Any, *words: str) -> None:
    with pytest.raises(RunDirError) as caught:
        from_json(cls, data, "runs/a/x.json", "0.1")
    assert "runs/a/x.json" in caught.value.message and caught.value.hint
    for word in words:
        assert word in caught.value.message + caught.value.hint


def test_another_schema_is_named_with_what_is_read_and_who_wrote_it() -> None:
    old = {**to_json(exported(False, {})), "schema": "rmtkd-edge/export@1"}
    refused(ExportRecord, old, "rmtkd-edge/export@1", ExportRecord.SCHEMA, "use the version that wrote the run (0.1)")
    refused(ExportRecord, {}, "no schema", "--force")
    for nothing in (None, [], "text", 3):
        refused(ExportRecord, nothing, "no JSON object")


def change(path: str, value: Any) -> dict[str, Any]:
    """Return a device's document with one value changed; None removes it."""
    document = profiled("laptop", 1.0, metered=True)
    *parts, last = path.split(".")
    place: Any = document
    for part in parts:
        place = place[int(part)] if part.isdigit() else place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("results.0.latency.p50", -1.0, "results[0].latency.p50: Input should be greater than or equal to 0"),
        ("results.0.memory.peak_rss_bytes", -5, "results[0].memory.peak_rss_bytes"),
        ("results.0.energy.j_per_inf_gross", -0.1, "results[0].energy.j_per_inf_gross"),
        ("results.0.latency.mean", float("inf"), "not finite"),
        ("results.0.quality.steal_pct", float("nan"), "not finite"),
        ("results.0.latency.p50", "1.5", "results[0].latency.p50: Input should be a valid number"),
        ("results.0.latency.n", True, "results[0].latency.n"),
        ("results.0.latency.round_sizes", [1], "rounds of 1"),
        ("results.0.energy.kind", "guessed", "results[0].energy.kind"),
        ("results.0.energy.watts", 3.0, "results[0].energy.watts: Unknown key"),
        ("results.0.label", None, "results[0].label: Missing"),
        ("comparisons.0.ci95", [1.0], "comparisons[0].ci95"),
        ("hardware", [], "hardware"),
    ],
)
def test_what_a_device_must_not_bring_is_named_by_its_place(path: str, value: Any, said: str) -> None:
    refused(ProfileRecord, change(path, value), said)


def test_a_primary_metric_without_a_value_is_refused() -> None:
    data = to_json(compress_result([]))
    data["student"]["validation"]["primary"] = "f1"
    refused(CompressRecord, data, "student.validation", "f1")


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_nesting_is_bounded(tmp_path: Path) -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    document = profiled("laptop", 1.0, metered=True)
    refused(ProfileRecord, {**document, "meter": {"deep": deep}}, "nested too deep")
    path = tmp_path / "deep.json"
    for depth in (1000, 100_000):
        path.write_text(f'{{"schema": "{ProfileRecord.SCHEMA}", "meter": {nested(depth)}}}')
        with pytest.raises(RunDirError, match=r"deep\.json"):
            from_json(ProfileRecord, read_json_file(path), path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with open(path, "wb") as stream:
        stream.truncate(300 * 2**20)
    with pytest.raises(RunDirError, match=r"huge\.json has 314,572,800 bytes"):
        read_json_file(path)
    run = Run.create(tmp_path / "run", "", 0)
    run.write_json("profile/laptop.json", {})
    with open(run.path / "profile/laptop.json", "wb") as stream:
        stream.truncate(300 * 2**20)
    with pytest.raises(RunDirError, match="bytes"):
        run.read_record(ProfileRecord, "profile/laptop.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{'a': 1}"])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(RunDirError, match=r"x\.json is not valid JSON"):
        read_json_file(path, "do this")
    with pytest.raises(RunDirError, match=r"nothing\.json cannot be read"):
        read_json_file(tmp_path / "nothing.json")


def test_a_run_refuses_a_record_of_an_older_version_by_its_version(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", stages="compress")
    run.manifest["version"] = "0.1.0"
    run.write_json("compress/result.json", {"schema": "rmtkd-edge/compress@1"})
    with pytest.raises(RunDirError, match="compress@1") as caught:
        run.read_record(CompressRecord, "compress/result.json")
    assert "0.1.0" in caught.value.hint


def test_a_record_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "", 0)
    wrong = dataclasses.replace(compress_result([]), reduction=float("nan"))
    with pytest.raises(RunDirError, match="not finite"):
        run.write_record("compress/result.json", wrong)
    assert not run.has("compress/result.json")


def test_what_never_ends_is_not_read() -> None:
    with pytest.raises(RunDirError, match="no regular file"):
        read_json_file(Path("/dev/zero"))
