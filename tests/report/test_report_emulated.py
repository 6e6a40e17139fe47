"""An emulated device in the report: how far its outputs agree, and no times anywhere."""

from __future__ import annotations

from pathlib import Path

from report.report_sample import build_run, profiled, write_profile

from rmtkd_edge.profile.emulation import without_times
from rmtkd_edge.report.stage import report_runs


def emulated(name: str) -> dict:
    """A profile's JSON as an emulated device leaves it."""
    found = profiled(name, 9.0, metered=False)
    same = {"same_labels": 0.75, "same_file_max_abs_diff": 0.0625, "same_file_max_rel_diff": 0.0371}
    for result in found["results"]:
        if result["model"]["precision"] == "int8":
            result["verification"] |= same | {"same_file_tolerance": 0.1, "tolerance": None}
        result["quality"] |= {"verdict": "emulated", "reasons": ["another processor is emulated"]}
    results = [without_times(result) for result in found["results"]]
    return {**found, "results": results, "comparisons": [], "hardware": {"emulated": True}}


def test_an_emulated_device_shows_agreement_and_no_times(tmp_path: Path) -> None:
    run = build_run(tmp_path / "a")
    before = report_runs([run], None).markdown.read_text(encoding="utf-8")
    write_profile(run, emulated("arm64-emulated"))  # sorts before the others
    after = report_runs([run], None).markdown.read_text(encoding="utf-8")
    part = after.split("On arm64-emulated", 1)[1].split("\n#", 1)[0]
    assert "3.7e-02" in part and "75 %" in part and "p50" not in part and "Peak memory" not in part
    assert "python DIR/python" in after
    lead = after.split("\n## ", 1)[0]
    assert lead == before.split("\n## ", 1)[0]  # headlines and doubts are those of the devices that were timed
