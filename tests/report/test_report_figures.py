"""Figures: valid SVG, only palette colours, text as text, the same bytes each time."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from rmtkd_edge.report.collect import collect
from rmtkd_edge.report.palette import PALETTE
from rmtkd_edge.report.spectra import spectra_pictures
from rmtkd_edge.report.svg import inline, recolour
from rmtkd_edge.report.trade import Path, trade_picture


@pytest.fixture(scope="module")
def drawn(finished):
    facts = collect([finished.run])[0]
    trade = trade_picture([Path(facts.name, facts.compression, facts.exported)], "accuracy")
    return facts, spectra_pictures(facts.compression.cycles, facts.compression.spectra), trade


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_palette_is_readable_in_both_schemes(scheme):
    paper = PALETTE["paper"][scheme]
    for name in ("ink", "muted", "limit", "good", "accent"):
        assert contrast(PALETTE[name][scheme], paper) >= 4.5, name
    assert len({light for light, _ in PALETTE.values()}) == len(PALETTE)


def test_figures_on_disk_are_well_formed_and_follow_the_scheme(finished):
    assert {p.name for p in finished.paths.figures} >= {
        "quality.svg",
        "size.svg",
        "spectra-round-1.svg",
        "laptop-latency.svg",
        "laptop-energy.svg",
    }
    for path in finished.paths.figures:
        source = path.read_text(encoding="utf-8")
        root = ET.fromstring(source)
        assert root.tag.endswith("svg")
        assert "prefers-color-scheme:dark" in source
        names = set(re.findall(r"var\(--([\w-]+)\)", source))
        assert names <= set(PALETTE) and names
        assert not re.search(r'(?:href|src)="(?!#)', source)


def test_text_stays_text(finished):
    source = (finished.run.path / "report/figures/laptop-latency.svg").read_text(encoding="utf-8")
    shown = "".join(ET.fromstring(source).itertext())
    for label in ("original fp32", "original int8", "rmt-kd fp32", "rmt-kd int8"):
        assert label in shown


def test_every_analysed_site_has_a_panel(drawn):
    facts, spectra, _ = drawn
    shown = "".join(p.wide for p in spectra)
    for cycle in facts.compression.cycles:
        for site in cycle.sites:
            assert f">{site.name}<" in shown


def test_inline_figures_have_no_fixed_colour_and_their_own_ids(drawn):
    _, spectra, trade = drawn
    for number, picture in enumerate([*spectra, trade]):
        for layout in (picture.wide, picture.narrow):
            placed = inline(layout, f"p{number}", "T", "D", "wide")
            assert not re.search(r"(?:fill|stroke)[:=]\s*\"?#", placed)
            assert all(i.startswith(f"p{number}-") for i in re.findall(r'\bid="([^"]+)"', placed))
            assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', placed)) <= set(re.findall(r'\bid="([^"]+)"', placed))


def test_a_colour_outside_of_the_palette_is_refused():
    with pytest.raises(ValueError, match="#123456"):
        recolour('<svg><path style="fill: #123456"/></svg>', fallback=False)


def test_titles_are_escaped():
    placed = inline("<svg></svg>", "p", "<script>", 'a "b" & <c>', "wide")
    assert "<script>" not in placed
    ET.fromstring(placed)


def test_drawing_twice_gives_the_same_bytes(drawn):
    facts, spectra, trade = drawn
    again = spectra_pictures(facts.compression.cycles, facts.compression.spectra)
    assert [p.wide for p in again] == [p.wide for p in spectra]
    assert trade_picture([Path(facts.name, facts.compression, facts.exported)], "accuracy") == trade


@pytest.mark.parametrize(
    ("values", "q"),
    [
        (np.r_[np.geomspace(1e4, 1e-5, 40), 0.0, -1e-17], 0.0003),
        (np.full(5, 0.2), 0.1),
        (np.full(5, 30.0), 3.0),
        (np.zeros(4), 0.5),
        (np.array([1.0]), 1.0),
    ],
    ids=["heavy-tail", "nothing-kept", "all-kept", "null", "one"],
)
def test_extreme_spectra_can_be_drawn(drawn, values, q):
    cycle = drawn[0].compression.cycles[0]
    edge = (1 + q**0.5) ** 2
    site = dataclasses.replace(cycle.sites[0], sigma2=1.0, q=q, lambda_plus=edge)
    spectra = {(cycle.index, site.name): tuple(values.tolist())}
    (picture,) = spectra_pictures([dataclasses.replace(cycle, sites=(site,))], spectra)
    assert f"{sum(values > edge)} of {len(values)} above λ₊" in picture.wide
    assert "nan" not in picture.wide.lower() and "inf" not in picture.narrow.lower()
