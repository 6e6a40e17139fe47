"""What is run, and for how long: batch sizes and sequence lengths, runs and seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from rmtkd_edge.config.hardware import HardwareProfile
from rmtkd_edge.errors import UserError
from rmtkd_edge.families.base import Spec
from rmtkd_edge.profile.measuring.basics import workload_key
from rmtkd_edge.profile.measuring.plan_schema import LONGEST_S, MOST_RUNS
from rmtkd_edge.profile.options import MeasureOptions


@dataclass(frozen=True)
class Workload:
    """What one call of the session runs; `seq` in tokens, None for a model that reads no sequences."""

    batch: int
    seq: int | None

    @property
    def key(self) -> str:
        """Return its name, which also prefixes its arrays: `b8s128`, or `b8` without a sequence."""
        return workload_key(asdict(self))

    def to_dict(self) -> dict[str, Any]:
        """Return the workload as plans and results have it."""
        return asdict(self)


@dataclass(frozen=True)
class Effort:
    """How long is measured: per model and workload at least `min_runs` and `min_duration_s`, spread over `rounds`."""

    min_runs: int
    min_duration_s: float
    rounds: int
    warmup: int
    idle_s: float
    probe_repeats: int


QUICK = Effort(min_runs=50, min_duration_s=10.0, rounds=25, warmup=5, idle_s=2.0, probe_repeats=3)
EMULATED = Effort(min_runs=1, min_duration_s=0.0, rounds=1, warmup=0, idle_s=0.0, probe_repeats=0)  # outputs alone
FULL = Effort(min_runs=200, min_duration_s=60.0, rounds=50, warmup=10, idle_s=10.0, probe_repeats=5)


def choose_effort(options: MeasureOptions, emulated: bool = False) -> Effort:
    """Return how much is measured; raise UserError for a number that makes no sense."""
    effort = EMULATED if emulated else QUICK if options.quick else FULL
    runs, seconds = options.min_runs, options.min_duration_s
    if runs is not None and not 1 <= runs <= MOST_RUNS:
        raise UserError(f"{runs} runs of a model and workload", f"--iterations must be from 1 to {MOST_RUNS:,}")
    if seconds is not None and not 0 <= seconds <= LONGEST_S:
        raise UserError(f"a duration of {seconds} s", f"--duration must be from 0 to {LONGEST_S:,} seconds")
    runs, seconds = effort.min_runs if runs is None else runs, effort.min_duration_s if seconds is None else seconds
    return replace(effort, min_runs=runs, min_duration_s=seconds, rounds=min(effort.rounds, runs))


def choose_workloads(
    spec: Spec, profile: HardwareProfile, options: MeasureOptions
) -> tuple[tuple[Workload, ...], tuple[str, ...]]:
    """Return every batch size with every length, of the options or else of the profile, and notes.

    The profile's lengths are cut to what the model reads, with a note; one that was asked for is refused.

    Raises:
        UserError: a length that was asked for and that the model does not read.
    """
    batches, most = options.batch_sizes or profile.workloads.batches, spec.max_length
    if most is None:
        if options.lengths:
            raise UserError("this model reads no sequences", "leave --seq-len out")
        return tuple(Workload(batch, None) for batch in batches), ()
    if options.lengths and max(options.lengths) > most:
        raise UserError(
            f"a sequence of {max(options.lengths)} tokens: this model has {most} positions", f"--seq-len {most}"
        )
    lengths = options.lengths or tuple(sorted({min(seq, most) for seq in profile.workloads.seq}))
    cut = [seq for seq in profile.workloads.seq if seq > most and not options.lengths]
    notes = tuple(f"sequences of {seq} tokens were cut to the model's {most} positions" for seq in cut)
    return tuple(Workload(batch, seq) for seq in lengths for batch in batches), notes
