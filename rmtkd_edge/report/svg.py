"""From what matplotlib writes to SVG that follows the page: colours by name, own ids, title and description."""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from rmtkd_edge.report.palette import PALETTE, stylesheet

FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,'Noto Sans',sans-serif"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rmtkd-edge",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": PALETTE["line"][0],
    "axes.labelcolor": PALETTE["muted"][0],
    "axes.titlecolor": PALETTE["ink"][0],
    "text.color": PALETTE["ink"][0],
    "xtick.color": PALETTE["line"][0],
    "ytick.color": PALETTE["line"][0],
    "xtick.labelcolor": PALETTE["muted"][0],
    "ytick.labelcolor": PALETTE["muted"][0],
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "axes.unicode_minus": True,
    "path.simplify": False,
}
_NAMES = {light: name for name, (light, _) in PALETTE.items()}


def render(figure: Figure) -> str:
    """Return a figure's SVG element with fixed light colours: no prolog, metadata, sizes, fonts or unused ids."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    text = re.sub(r' (xmlns(:xlink)?|version)="[^"]*"', "", text)
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"(font: [^;\"]*?[\d.]+px) [^;\"]*", r"\1 inherit", text)
    text = re.sub(r' d="[^"]*"', lambda m: re.sub(r"(\d+\.\d\d)\d+", r"\1", m.group(0)), text)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    return re.sub(r' id="([^"]*)"', lambda m: m.group(0) if m.group(1) in used else "", text)


def recolour(svg: str, fallback: bool) -> str:
    """Return `svg` with palette colours as custom properties.

    With `fallback` each declaration keeps its fixed colour before it, for viewers without custom properties.
    Raises ValueError for a colour that is not in the palette.
    """

    def declaration(match: re.Match[str]) -> str:
        key, colour = match.group(1), match.group(2).lower()
        if colour not in _NAMES:
            raise ValueError(f"the figure uses {colour}, which is not in the palette")
        named = f"{key}: var(--{_NAMES[colour]})"
        return f"{key}: {colour}; {named}" if fallback else named

    # Text without a colour of its own is black in SVG: it takes the page's ink.
    svg = re.sub(r"\b(fill|stroke): (#[0-9a-fA-F]{6})\b", declaration, svg)
    return re.sub(r"\b(fill|stroke)=\"(#[0-9a-fA-F]{6})\"", lambda m: f'style="{declaration(m)}"', svg)


def inline(svg: str, prefix: str, title: str, description: str, css_class: str) -> str:
    """Return `svg` for an HTML page: ids under `prefix`, an accessible name and description, colours of the page."""
    body = _with_title(_prefix_ids(recolour(svg, fallback=False), prefix), prefix, title, description)
    return body.replace("<svg", f'<svg class="{css_class}" focusable="false"', 1)


def standalone(svg: str, title: str, description: str) -> str:
    """Return `svg` as a file of its own, with the palette of both colour schemes inside."""
    body = _with_title(recolour(svg, fallback=True), "figure", title, description)
    style = f"<style>{stylesheet('svg')}svg{{background:var(--paper);font-family:{FONT}}}</style>"
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" version="1.1"'
    end = body.index(">") + 1
    return '<?xml version="1.0" encoding="utf-8"?>\n' + head + body[4:end] + style + body[end:]


def _prefix_ids(svg: str, prefix: str) -> str:
    svg = re.sub(r' id="', f' id="{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    return re.sub(r'href="#', f'href="#{prefix}-', svg)


def _with_title(svg: str, prefix: str, title: str, description: str) -> str:
    names = f'role="img" aria-labelledby="{prefix}-title {prefix}-desc"'
    text = f'<title id="{prefix}-title">{escape(title)}</title><desc id="{prefix}-desc">{escape(description)}</desc>'
    end = svg.index(">") + 1
    return svg[:4] + " " + names + svg[4:end] + text + svg[end:]
