"""What a measurement from elsewhere must hold before anything is computed from it.

One schema for both forms, the runner's results.json and profile/NAME.json. Figures and their ranges are those of the
record that they become (run/records/profile.py), where what is not named here is checked.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from rmtkd_edge.errors import UserError
from rmtkd_edge.run.records.base import STRICT, Amount, describe
from rmtkd_edge.run.records.profile import Bytes, Joules, Milliseconds, Positive

LOOSE: ConfigDict = {**STRICT, "extra": "ignore"}
Nanoseconds = Annotated[Amount, Field(gt=0)]
Text = Annotated[str, Field(max_length=1000)]
Texts = Annotated[list[Text], Field(max_length=1000)]
TOLERANCE = 1e-6  # relative, between a median and that of the raw values


@with_config(LOOSE)
class Workload(TypedDict):
    """What one call ran."""

    batch: Positive
    seq: NotRequired[Positive | None]


@with_config(LOOSE)
class Model(TypedDict):
    """The file that ran."""

    sha256: Text
    precision: NotRequired[Text]
    disk_bytes: NotRequired[Bytes | None]


@with_config(LOOSE)
class Latency(TypedDict):
    """Raw values in either form, and their median."""

    p50: NotRequired[Milliseconds | None]
    n: NotRequired[int]
    rounds_ns: NotRequired[Annotated[list[Annotated[list[Nanoseconds], Field(min_length=1)]], Field(min_length=1)]]
    values: NotRequired[list[Milliseconds]]
    round_sizes: NotRequired[Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]]


@with_config(LOOSE)
class Memory(TypedDict):
    """Resident memory."""

    peak_rss_bytes: Bytes | None


@with_config(LOOSE)
class Energy(TypedDict):
    """Joules an inference."""

    meter: Text
    kind: Text
    j_per_inf_gross: Joules | None
    j_per_inf_net: NotRequired[Joules | None]


@with_config(LOOSE)
class Quality(TypedDict):
    """How far the figures can be believed."""

    verdict: Text
    reasons: NotRequired[Texts]
    cpu_wall_ratio: NotRequired[Amount | None]
    steal_pct: NotRequired[Amount | None]
    others_cores: NotRequired[Amount | None]
    waited_pct: NotRequired[Amount | None]
    swap_bytes: NotRequired[Amount | None]


@with_config(LOOSE)
class Environment(TypedDict):
    """What ran where."""

    cpu_model: NotRequired[Text | None]
    cpu_flags: NotRequired[Texts | None]
    machine: NotRequired[Text | None]
    emulated: NotRequired[bool]
    providers_actual: NotRequired[Texts]


@with_config(LOOSE)
class Result(TypedDict):
    """One model under one workload."""

    label: Text
    role: NotRequired[Text]
    workload: Workload
    model: Model
    latency: Latency
    memory: Memory
    energy: Energy
    quality: Quality
    env: Environment


@with_config(LOOSE)
class Meter(TypedDict):
    """The energy meter."""

    name: NotRequired[Text]
    skipped: NotRequired[Texts]


@with_config(LOOSE)
class Measurement(TypedDict):
    """A document of either form."""

    results: Annotated[list[Result], Field(min_length=1, max_length=10_000)]
    env: NotRequired[Environment]
    meter: NotRequired[Meter]
    notes: NotRequired[Texts]


@with_config(LOOSE)
class Finished(Measurement):
    """What a runner leaves when it has finished."""

    profile: Text | None
    plan_sha256: Text
    env: Environment  # type: ignore[misc]  # required here
    meter: Meter  # type: ignore[misc]


def check_measurement(document: Mapping[str, Any], where: Path | str, hint: str, finished: bool = False) -> None:
    """Raise UserError naming the first figures that are missing, of another type, out of range or contradictory.

    Args:
        finished: it is a runner's own document, with all of its sections.
    """
    try:
        _adapter(finished).validate_json(json.dumps(document))
    except ValidationError as err:
        raise UserError(f"{where} lacks or misstates what a measurement holds: {describe(err)}", hint) from err
    counts: dict[Any, set[int]] = defaultdict(set)
    for i, result in enumerate(document["results"]):
        place = f"{where}: results[{i}].latency"
        latency, workload = result["latency"], result["workload"]
        values, sizes = _values(latency)
        if not values or sum(sizes) != len(values) or latency.get("n", len(values)) != len(values):
            raise UserError(f"{place}: {len(values)} values, rounds of {sum(sizes)}, n {latency.get('n')}", hint)
        p50 = latency.get("p50")
        if p50 is not None and not math.isclose(p50, median(values), rel_tol=TOLERANCE):
            raise UserError(f"{place}: p50 is {p50} ms, the raw values' median is {median(values)} ms", hint)
        counts[workload["batch"], workload.get("seq")].add(len(sizes))
        if "rounds_ns" in latency and len(found := counts[workload["batch"], workload.get("seq")]) > 1:
            raise UserError(f"{place}: models of one workload ran {sorted(found)} rounds", hint)


def _values(latency: Mapping[str, Any]) -> tuple[list[float], list[int]]:
    """Return the raw times in ms, and the calls of every round."""
    if "rounds_ns" in latency:
        rounds = latency["rounds_ns"]
        return [ns / 1e6 for taken in rounds for ns in taken], [len(taken) for taken in rounds]
    return latency.get("values", []), latency.get("round_sizes", [])


@cache
def _adapter(finished: bool) -> TypeAdapter[Any]:
    return TypeAdapter(Finished if finished else Measurement)
