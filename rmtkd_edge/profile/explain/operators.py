"""From the nodes of traced calls to a record for every operator: its time, its work, the least time for that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from rmtkd_edge.profile.explain.trace import Graph, Place
from rmtkd_edge.profile.explain.work import NO_PRODUCT, UnknownWorkError, bytes_of, flops_of, kind_of
from rmtkd_edge.run.records.explain import OperatorRecord, RooflineRecord

Calls = Sequence[Mapping[Place, int]]  # microseconds by node


@dataclass(frozen=True)
class Figure:
    """A number, or None and the reason why it is not known."""

    value: float | None
    why: str = ""

    @staticmethod
    def sum(parts: Sequence[Figure]) -> Figure:
        """Return the sum, or the first reason why there is none."""
        unknown = next((part for part in parts if part.value is None), None)
        return unknown or Figure(sum(part.value for part in parts if part.value is not None))


@dataclass(frozen=True)
class Work:
    """What a node computes and moves; `arithmetic` is empty for what is no product."""

    arithmetic: str
    flops: Figure
    bytes_moved: Figure

    def least_ms(self, roofline: RooflineRecord) -> Figure:
        """Return the longer of the times that its operations and its bytes take at the machine's rates."""
        if self.bytes_moved.value is None:
            return self.bytes_moved
        moving = self.bytes_moved.value / roofline.bytes_per_s(self.bytes_moved.value)
        if self.flops.value is None:
            return Figure(1e3 * moving) if self.flops.why == NO_PRODUCT else self.flops
        rate = roofline.flops_per_s(self.arithmetic)
        if rate is None:
            return Figure(None, f"no rate of {self.arithmetic} products was measured")
        return Figure(1e3 * max(moving, self.flops.value / rate))


def work_of(graph: Graph, place: Place) -> Work:
    """Return the work of a node, with the reasons for what is not known of it."""
    try:
        node = graph.node(place)
    except UnknownWorkError as err:
        return Work("", Figure(None, str(err)), Figure(None, str(err)))
    try:
        moved = Figure(float(bytes_of(node)))
    except UnknownWorkError as err:
        moved = Figure(None, str(err))
    try:
        return Work(kind_of(node), Figure(float(flops_of(node))), moved)
    except UnknownWorkError as err:
        return Work("", Figure(None, str(err)), moved)


def operator_records(rounds: Sequence[Calls], graph: Graph, roofline: RooflineRecord) -> tuple[OperatorRecord, ...]:
    """Return a record for every operator, the slowest first; shares are of the sum of all of them."""
    nodes: dict[str, list[Place]] = defaultdict(list)
    for place in rounds[-1][-1]:
        nodes[place[1]].append(place)
    times = {name: [[_sum_ms(call, name) for call in calls] for calls in rounds] for name in nodes}
    middle = {name: median(ms for calls in found for ms in calls) for name, found in times.items()}
    whole = sum(middle.values())
    slowest = sorted(nodes, key=lambda name: (-middle[name], name))
    shares = {name: middle[name] / whole if whole else 0.0 for name in nodes}
    return tuple(
        _record(
            name, [work_of(graph, place) for place in nodes[name]], times[name], middle[name], shares[name], roofline
        )
        for name in slowest
    )


def _sum_ms(call: Mapping[Place, int], operator: str) -> float:
    return sum(us for (_, name), us in call.items() if name == operator) / 1e3


def _record(
    name: str,
    works: Sequence[Work],
    rounds: Sequence[Sequence[float]],
    time_ms: float,
    share: float,
    roofline: RooflineRecord,
) -> OperatorRecord:
    flops, moved = Figure.sum([work.flops for work in works]), Figure.sum([work.bytes_moved for work in works])
    least = Figure.sum([work.least_ms(roofline) for work in works])
    return OperatorRecord(
        operator=name,
        nodes=len(works),
        time_ms=time_ms,
        share=share,
        by_round_ms=tuple(map(median, rounds)),
        arithmetic="/".join(_kinds(works)),
        flops=flops.value,
        bytes_moved=moved.value,
        flops_per_s=_rate(flops, time_ms),
        bytes_per_s=_rate(moved, time_ms),
        roofline_ms=least.value,
        gain_ms=None if least.value is None else max(0.0, time_ms - least.value),
        flops_why=flops.why,
        bytes_moved_why=moved.why,
        roofline_ms_why=least.why,
    )


def _kinds(works: Sequence[Work]) -> Iterator[str]:
    yield from dict.fromkeys(work.arithmetic for work in works if work.arithmetic)


def _rate(amount: Figure, time_ms: float) -> float | None:
    """Return an amount a second, None for one that is not known or took less than the profiler's microsecond."""
    return None if amount.value is None or time_ms == 0 else 1e3 * amount.value / time_ms
