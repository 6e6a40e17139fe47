"""Numbers as the report writes them: digits, units, signs."""

from __future__ import annotations

import math

from rmtkd_edge import plugins
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.run.records.scores import Scores

NBSP = "\u00a0"
MINUS = "\u2212"


def number(value: float, digits: int = 4) -> str:
    """Return `value` with `digits` significant digits: exponents below 1e-4 and from 1e7, separators from 1,000."""
    if not math.isfinite(value):
        return {math.inf: "infinite", -math.inf: MINUS + "infinite"}.get(value, "not a number")
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-4 or size >= 1e7:
        text = f"{size:.{max(digits - 2, 1)}e}"
    else:
        text = f"{size:,.{max(digits - 1 - math.floor(math.log10(size)), 0)}f}"
    return (MINUS if value < 0 else "") + text


def scientific(value: float) -> str:
    """Return a small number with two digits and an exponent: 8.4e-07."""
    return f"{value:.1e}".replace("e-", f"e{MINUS}").replace("-", MINUS).replace(f"e{MINUS}", "e-")


def count(value: float) -> str:
    """Return a whole number with separators: 11,171,074."""
    return f"{round(value):,}".replace("-", MINUS)


def short_count(value: float) -> str:
    """Return a count of parameters in words: 11.2 M, 640 k."""
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{number(value / scale, 3)}{NBSP}{unit}"
    return count(value)


def percent(share: float, decimals: int = 1) -> str:
    """Return a share of one as a percentage: 82.2 %."""
    return f"{share * 100:.{decimals}f}{NBSP}%".replace("-", MINUS)


def points(difference: float, decimals: int = 1) -> str:
    """Return a difference of two shares in signed percentage points: −0.3 points."""
    value = round(difference * 100, decimals) + 0.0
    sign = "+" if value > 0 else (MINUS if value < 0 else "±")
    return f"{sign}{abs(value):.{decimals}f}{NBSP}points"


def metric(value: float, like: Scores, decimals: int = 1) -> str:
    """Return a value of the primary metric of `like`: 82.2 %, or 0.639 where it is no share."""
    return percent(value, decimals) if like.percent else f"{value:.{decimals + 2}f}".replace("-", MINUS)


def score(scores: Scores, decimals: int = 1) -> str:
    """Return the primary metric: 82.2 %, or 0.639 where it is no share."""
    return metric(scores.value, scores, decimals)


def change(after: Scores, before: Scores) -> str:
    """Return the signed difference of a primary metric: −0.3 points, or −0.003 where it is no share."""
    difference = after.value - before.value
    if after.percent:
        return points(difference)
    return f"{difference + 0.0:+.3f}".replace("-", MINUS)


def half_interval(scores: Scores, low: float, high: float) -> str:
    """Return half the width of an interval of a primary metric: ±1.2 points, or ±0.012 where it is no share."""
    half = (high - low) / 2
    return f"±{half * 100:.1f}{NBSP}points" if scores.percent else f"±{half:.3f}"


def score_interval(scores: Scores, low: float, high: float) -> str:
    """Return an interval of a primary metric: 79.5 to 84.6 %, or 0.612 to 0.664 where it is no share."""
    return (
        f"{low * 100:.1f} to {percent(high)}" if scores.percent else f"{metric(low, scores)} to {metric(high, scores)}"
    )


def megabytes(size_bytes: float) -> str:
    """Return bytes in MB (10^6) or, below one, kB."""
    if abs(size_bytes) >= 1e6:
        return f"{number(size_bytes / 1e6, 3)}{NBSP}MB"
    return f"{number(size_bytes / 1e3, 3)}{NBSP}kB"


def milliseconds(value: float) -> str:
    """Return a time in ms with four significant digits."""
    return f"{number(value)}{NBSP}ms"


def seconds(value: float) -> str:
    """Return a duration in s, min or h."""
    if value < 120:
        return f"{number(value, 3)}{NBSP}s"
    return f"{number(value / 60, 3)}{NBSP}min" if value < 7200 else f"{number(value / 3600, 3)}{NBSP}h"


def joules(value: float) -> str:
    """Return an energy in J or mJ."""
    return f"{number(value)}{NBSP}J" if abs(value) >= 1 else f"{number(value * 1e3)}{NBSP}mJ"


def gain(factor: float, better: str, worse: str) -> str:
    """Return how much less a cost is, `factor` = baseline / candidate: 4.9× faster, 1.2× slower."""
    if not (math.isfinite(factor) and factor > 0):
        return ""
    if round(factor, 2) == 1:
        return "no change"
    return f"{_times(factor)} {better}" if factor > 1 else f"{_times(1 / factor)} {worse}"


def gain_interval(low: float, high: float) -> str:
    """Return the interval of a gain factor: 4.7 to 5.1×."""
    return f"{_times(low)[:-1]} to {_times(high)}"


def _times(factor: float) -> str:
    decimals = 2 if factor < 9.995 else (1 if factor < 99.95 else 0)
    return f"{factor:,.{decimals}f}×"


def plural(n: int, one: str, many: str = "") -> str:
    """Return a count with its noun: 1 cycle, 4 cycles."""
    return f"{count(n)} {one if n == 1 else many or one + 's'}"


METRICS = {"f1": "F1", "f1_macro": "macro F1", "matthews_corrcoef": "Matthews correlation", "roc_auc": "AUC"}


def metric_name(name: str) -> str:
    """Return a metric's name in words: F1, macro F1, Matthews correlation, AUC."""
    return METRICS.get(name, name.replace("_", " "))


def method_name(name: str) -> str:
    """Return a compression method's title: RMT-KD, plain KD; its name where another machine's has it installed."""
    try:
        title: str = plugins.find("methods", name).title
    except RecipeError:
        return name
    return title


def title(name: str) -> str:
    """Return text with its first letter as a capital."""
    return name[:1].upper() + name[1:]
