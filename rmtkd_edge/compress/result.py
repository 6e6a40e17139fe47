"""What compress found, from the loop's states and cycles: the students, the missed targets, the record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rmtkd_edge.compress.context import Context, State
from rmtkd_edge.families.base import ranks_of
from rmtkd_edge.run.records.compress import CompressRecord, FamilyMember, StudentRecord, TaskRecord
from rmtkd_edge.run.records.cycle import CycleRecord
from rmtkd_edge.run.records.teacher import TeacherRecord
from rmtkd_edge.tasks.base import Dataset


def members_of(context: Context, states: Sequence[State], students: Sequence[StudentRecord]) -> list[FamilyMember]:
    """Return the students with what each has less than the teacher; the larger ones are named by the target they met.

    Where one state meets several targets, it has the name of the last.
    """
    members = []
    for state, student in zip(states, students, strict=True):
        removed = context.removed(state)
        met = [target for target in context.recipe.stop.targets if target is not None and target <= removed]
        name = "" if state is states[-1] else str(met[-1])
        drop = context.teacher_scores.value - student.validation.value
        members.append(FamilyMember(name, student, removed, drop, ranks_of(state.folded.spec)))
    return members


def missed_targets(result: CompressRecord) -> str:
    """Return a sentence on the targets of a family that no student meets, empty where there are none."""
    if len(result.targets) < 2 or not result.missed:
        return ""
    ended = f"the family ended at a reduction of {result.reduction:.1%} by the rule {result.stop.replace('_', ' ')}"
    return f"{ended}: no student meets {', '.join(f'{target:g}' for target in result.missed)}"


def result_of(
    context: Context,
    dataset: Dataset[Any],
    teacher: TeacherRecord,
    members: Sequence[FamilyMember],
    cycles: Sequence[CycleRecord],
    stop: str,
) -> CompressRecord:
    """Return the record of a run, but for its seconds and notes."""
    recipe, (*larger, last) = context.recipe, members
    task = TaskRecord(
        name=dataset.name,
        kind=context.task.name,
        metric=teacher.validation.primary,
        labels=dataset.labels,
        train_rows=len(dataset.train),
        validation_rows=len(dataset.validation),
        test_rows=None if dataset.test is None else len(dataset.test),
    )
    return CompressRecord(
        method=context.method.name,
        title=recipe.title,
        stop=stop,
        task=task,
        teacher=teacher,
        student=last.student,
        reduction=last.reduction,
        drop=last.drop,
        floor=context.floor,
        cycles=tuple(cycles),
        ranks=last.ranks,
        seed=recipe.seed,
        one_shot=recipe.compress.one_shot,
        processes=context.accelerator.num_processes,
        device=str(context.accelerator.device),
        seconds=0.0,
        notes=(),
        targets=tuple(target for target in recipe.stop.targets if target is not None),
        larger=tuple(larger),
    )
