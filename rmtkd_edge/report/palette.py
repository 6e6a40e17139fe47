"""The report's one palette: every colour of figures and page, light and dark, by what it means.

Hues follow Okabe and Ito's set for colour-blind readers: blue for this method, grey for what it is compared with,
vermilion for limits (the spectral edge, the floor). Light against dark tells the precisions apart, and labels
tell all of it.
"""

from __future__ import annotations

# name: (light, dark). Every light value is unique, because figures are drawn in it and then translated to the name.
PALETTE: dict[str, tuple[str, str]] = {
    "paper": ("#fdfdfc", "#16181c"),
    "panel": ("#f4f5f6", "#1f2227"),
    "ink": ("#1b1e23", "#e9ebee"),
    "muted": ("#5a626d", "#a3abb6"),
    "line": ("#c9ced5", "#444b55"),
    "grid": ("#e6e9ec", "#2b3037"),
    "limit": ("#c24e00", "#ff9350"),
    "good": ("#00704f", "#4cc79e"),
    "bulk": ("#b4bbc4", "#565f6b"),
    "accent": ("#00659f", "#62b8ee"),
    "original-fp32": ("#6a7380", "#9aa4b0"),
    "original-fp16": ("#8a93a0", "#818b98"),
    "original-int8": ("#aab2bc", "#667180"),
    "rmtkd-fp32": ("#0069a6", "#3d9bd9"),
    "rmtkd-fp16": ("#2788c2", "#66b4e8"),
    "rmtkd-int8": ("#4aa6dd", "#8fd0f7"),
    "run-1": ("#0072b2", "#5bb4ea"),
    "run-2": ("#009e73", "#3fc79c"),
    "run-3": ("#b0588f", "#e09ac4"),
    "run-4": ("#8a6d00", "#d9b93c"),
    "run-5": ("#4b4f9c", "#9da2ee"),
    "run-6": ("#6f7884", "#a7afba"),
}


def ink(name: str) -> str:
    """Return the colour that figures draw `name` in; `svg.recolour` turns it into the custom property."""
    return PALETTE[name][0]


def series_colour(label: str, role: str) -> str:
    """Return the palette name for a model variant such as `rmt-kd int8`, by what it is and its precision."""
    precision = "int8" if "int8" in label or "quantized" in label else "fp16" if "fp16" in label else "fp32"
    return f"{'rmtkd' if role == 'candidate' else 'original'}-{precision}"


def run_colour(index: int) -> str:
    """Return the palette name of the `index`-th run of a comparison."""
    return f"run-{index % 6 + 1}"


def properties(dark: bool) -> str:
    """Return the palette as CSS declarations of custom properties."""
    return "".join(f"--{name}:{values[dark]};" for name, values in PALETTE.items())


def stylesheet(selector: str = ":root") -> str:
    """Return CSS that defines the palette on `selector` and follows the reader's colour scheme."""
    light, dark = properties(False), properties(True)
    return f"{selector}{{{light}}}@media (prefers-color-scheme:dark){{{selector}{{{dark}}}}}"
