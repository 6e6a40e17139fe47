"""A finished run and its report, made once for all tests that only read them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from report.report_sample import build_run

from rmtkd_edge.report.stage import report_runs


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A run with every stage: `run`, `paths`, `html`, `markdown`."""
    run = build_run(tmp_path_factory.mktemp("report") / "sst2-a")
    paths = report_runs([run])
    html, markdown = paths.html.read_text(encoding="utf-8"), paths.markdown.read_text(encoding="utf-8")
    return SimpleNamespace(run=run, paths=paths, html=html, markdown=markdown)
