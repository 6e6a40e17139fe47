"""What a recipe lets a model take: a share of the parameters, megabytes, milliseconds or millijoules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rmtkd_edge.compress.context import Context
from rmtkd_edge.families.base import Spec

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Budget:
    """One limit of the section `stop`.

    Attributes:
        rule: name of the stop rule that holds once it is kept.
        left: what is left of the limit at a shape, as a share of what the uncut model takes; negative where it
            is missed.
        told: what a shape takes, against the limit.
        key: of the recipe, to be set to ...
        least: ... what a shape keeps.
    """

    rule: str
    left: Callable[[Spec], float]
    told: Callable[[Spec], str]
    key: str
    least: Callable[[Spec], float]


def budgets_of(context: Context, spec: Spec) -> tuple[Budget, ...]:
    """Return the budgets of a recipe that a shape tells: those of time and energy where the device has curves.

    Args:
        spec: of the model that is cut.
    """
    return tuple(_budgets(context, spec))


def _budgets(context: Context, spec: Spec) -> Iterator[Budget]:
    stop, parameters = context.recipe.stop, context.teacher_parameters
    if (target := stop.target) is not None:
        yield Budget(
            "target_reduction",
            lambda shape: (1 - shape.count_parameters() / parameters) - target,
            lambda shape: (
                f"removes {1 - shape.count_parameters() / parameters:.1%} of the parameters, "
                f"stop.target_reduction is {target:.1%}"
            ),
            "stop.target_reduction",
            lambda shape: max(0.0, 1 - shape.count_parameters() / parameters - 0.005),
        )
    limits = (
        ("disk_budget", "disk_mb", "MB in fp32", stop.disk_mb, fp32_megabytes),
        ("latency_budget", "latency_ms", "ms", stop.latency_ms, context.predict_ms),
        ("energy_budget", "energy_mj", "mJ", stop.energy_mj, context.predict_mj),
    )
    for rule, key, unit, most, takes in limits:
        if most is not None and takes is not None:
            yield _limit(rule, f"stop.{key}", unit, most, takes, takes(spec))


def _limit(rule: str, key: str, unit: str, most: float, takes: Callable[[Spec], float], uncut: float) -> Budget:
    return Budget(
        rule,
        lambda shape: (most - takes(shape)) / uncut,
        lambda shape: f"leaves {takes(shape):.3g} {unit}, {key} is {most:g}",
        key,
        lambda shape: 1.005 * takes(shape),
    )


def fp32_megabytes(spec: Spec) -> float:
    """Return the size of a model's fp32 weights in 10^6 bytes."""
    return spec.count_parameters() * 4 / MEGABYTE


def most_left(budgets: Sequence[Budget], spec: Spec) -> float:
    """Return what is left at a shape of the budget that is kept first: the loop ends with that one."""
    return max(budget.left(spec) for budget in budgets)
