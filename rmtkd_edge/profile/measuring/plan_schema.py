"""What a plan must hold before anything of it is used; in plain Python, since it travels with the runner."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from .basics import PLAN_SCHEMA, Json, RunnerError

Check = Any  # called with a value; returns what it should be, or "" where it is


def whole(least: int, most: int) -> Check:
    """Return the check of a whole number."""
    says = f"a whole number from {least} to {most}"
    return lambda v: "" if isinstance(v, int) and not isinstance(v, bool) and least <= v <= most else says


def number(least: float, most: float) -> Check:
    """Return the check of a number."""
    says = f"a number from {least:g} to {most:g}"

    def check(v: Any) -> str:
        known = isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
        return "" if known and least <= v <= most else says

    return check


def optional(check: Check) -> Check:
    """Return the check of what may be null."""
    return lambda v: "" if v is None or not check(v) else f"{check(v)}, or null"


def items(check: Check, least: int = 0) -> Check:
    """Return the check of a list."""

    def inner(v: Any) -> str:
        if not isinstance(v, list) or len(v) < least:
            return f"a list of at least {least}"
        return next((f"a list, of which each is {told}" for told in map(check, v) if told), "")

    return inner


def table(known: dict[str, Check], needed: str = "") -> Check:
    """Return the check of an object: the keys that it must have, and what those that are known must be."""

    def inner(v: Any) -> str:
        if not isinstance(v, dict):
            return "an object"
        lacks = [key for key in needed.split() if key not in v]
        if lacks:
            return f"an object with {', '.join(lacks)}"
        told = ((key, check(v[key])) for key, check in known.items() if key in v)
        return next((f"an object whose {key} is {says}" for key, says in told if says), "")

    return inner


def flag(v: Any) -> str:
    """Check true or false."""
    return "" if isinstance(v, bool) else "true or false"


def one_of(known: Iterable[str]) -> Check:
    """Return the check of one of several words."""
    says = f"one of {', '.join(known)}"
    return lambda v: "" if isinstance(v, str) and v in known else says


def text(v: Any) -> str:
    """Check a text that is not endless."""
    return "" if isinstance(v, str) and len(v) <= 1000 else "a text of at most 1000 characters"


def place(v: Any) -> str:
    """Check the name of a file in the bundle."""
    parts = re.split(r"[/\\]", v) if isinstance(v, str) else [""]
    good = not text(v) and all(part not in ("", ".", "..") and ":" not in part and "\0" not in part for part in parts)
    return "" if good else "the name of a file in this folder"


def sha256(v: Any) -> str:
    """Check a hash."""
    return "" if isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v) else "a sha256"


def files(v: Any) -> str:
    """Check an object that gives files their hashes."""
    told = [place(name) for name in v] if isinstance(v, dict) else []
    return table(dict.fromkeys(v, sha256) if isinstance(v, dict) else {})(v) or next(filter(None, told), "")


MOST_THREADS = 4096
MOST_RUNS, LONGEST_S = 10**7, 7 * 86400  # of a model and workload
GRAPH_LEVELS = ("basic", "extended", "all")
SESSION_DEFAULTS = {"graph_level": "all", "arena": True, "memory_pattern": True, "io_binding": False}  # onnxruntime's
SESSION = {"graph_level": one_of(GRAPH_LEVELS), "arena": flag, "memory_pattern": flag, "io_binding": flag}
FILE = {"file": place, "sha256": sha256}
MODEL = {
    **FILE,
    "label": text,
    "name": text,
    "role": text,
    "precision": text,
    "onnxruntime": text,
    "external": items(table(FILE, "file sha256")),
    "session": table({**SESSION, "threads": whole(1, MOST_THREADS), "spinning": flag}),
}
WORKLOAD = {"batch": whole(1, 2**20), "seq": optional(whole(1, 2**20))}
LIMITS = {
    "cores": optional(whole(1, 2**16)),
    "cpu_quota": optional(number(0, 2**16)),
    "memory_bytes": optional(whole(1, 2**50)),
}
REQUIRED: dict[str, Check] = {
    "provider": text,
    "threads": whole(1, MOST_THREADS),
    "spinning": flag,
    "models": items(table(MODEL, "file sha256 label role precision"), least=1),
    "inputs": place,
    "reference": place,
    "workloads": items(table(WORKLOAD, "batch"), least=1),
    "min_runs": whole(1, MOST_RUNS),
    "min_duration_s": number(0, LONGEST_S),
    "warmup": whole(0, 10**6),
    "rounds": whole(1, MOST_RUNS),
    "seed": whole(0, 2**64 - 1),
    "idle_s": number(0, 86400),
    "meters": items(text),
}
OPTIONAL: dict[str, Check] = {
    **SESSION,
    "profile": text,
    "files": files,
    "checks": items(text),
    "tolerance": number(0, 1e6),
    "tolerance_int8": number(0, 1e6),
    "prediction": text,
    "emulated": flag,
    "tf32": flag,
    "probe_repeats": whole(0, 1000),
    "meter_required": flag,
    "meter_options": table({}),
    "limits": optional(table(LIMITS)),
}


def check_plan(plan: Any, where: str) -> Json:
    """Return a plan that holds what a runner needs; raise RunnerError naming the file and what is wrong with it."""
    if not isinstance(plan, dict) or plan.get("schema") != PLAN_SCHEMA:
        found = plan.get("schema") if isinstance(plan, dict) else "none"
        raise RunnerError("plan", f"{where} has schema {str(found)[:100]}, this runner reads {PLAN_SCHEMA}")
    missing = [key for key in REQUIRED if key not in plan]
    if missing:
        raise RunnerError("plan", f"{where} lacks {', '.join(missing)}")
    for key, check in {**REQUIRED, **OPTIONAL}.items():
        told = check(plan[key]) if key in plan else ""
        if told:
            raise RunnerError("plan", f"{where}: {key} must be {told}")
    return plan
