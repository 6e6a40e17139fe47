"""A family of sizes in one run: every target in turn, what one target alone gives, a kill between two targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract_sample import recipe_of

from rmtkd_edge.compress.result import missed_targets
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.families.store import load_model
from rmtkd_edge.methods import rmt_kd
from rmtkd_edge.methods.base import Pair
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.outputs import read_outputs
from rmtkd_edge.run.records.compress import CompressRecord, FamilyMember
from rmtkd_edge.run.reporter import SilentReporter
from rmtkd_edge.tasks.base import find_task
from rmtkd_edge.tasks.scoring import score

TARGETS = [0.2, 0.5, 0.7]
ONE_SHOT = {"compress": {"one_shot": True}}


class StopsAt(SilentReporter):
    """Ends the process's work at the nth event that is named (and, of a stage, has this name)."""

    def __init__(self, kind: str, nth: int = 1, name: str | None = None) -> None:
        self.wanted, self.left = (kind, name), nth

    def event(self, kind: str, /, **facts: Any) -> None:
        self.left -= (kind, facts.get("name")) == self.wanted
        if self.left == 0:
            raise KeyboardInterrupt


def compressed(path: Path, recipe: Recipe, data: Path, reporter: SilentReporter | None = None) -> CompressRecord:
    run = Run.open(path) if path.exists() else Run.create(path, recipe.to_toml(), recipe.seed)
    return compress_run(run, recipe, data=data, reporter=reporter or SilentReporter())


@pytest.fixture(scope="module", params=["encoder", "resnet"])
def case(request, tmp_path_factory, tiny_tokenizer, tiny_data, tiny_images):
    """A family of architectures with its data, and its family of sizes in one run."""
    data = tiny_data if request.param == "encoder" else tiny_images

    def recipe(target: Any, **sections: Any) -> Recipe:
        cut = {"sites_per_cycle": 4, "align": False, "minimum_rank": 2, "rounds": 2, **sections.pop("compress", {})}
        stop = {"target_reduction": target, **sections.pop("stop", {})}
        return recipe_of(request.param, tiny_tokenizer, compress=cut, stop=stop, **sections)

    path = tmp_path_factory.mktemp(request.param) / "family"
    return recipe, data, path, compressed(path, recipe(TARGETS), data)


def same(mine: FamilyMember, other: FamilyMember) -> bool:
    return replace(mine, name="") == replace(other, name="")


def weights(path: Path, student: str = "") -> bytes:
    return (path / layout.student(student).checkpoint / layout.WEIGHTS).read_bytes()


def without_clocks(record: CompressRecord) -> CompressRecord:
    cycles = tuple(replace(cycle, seconds={}) for cycle in record.cycles)
    return replace(record, seconds=0.0, teacher=replace(record.teacher, seconds=0.0), cycles=cycles)


def test_the_kept_outputs_give_the_scores_of_all_models(case):
    _, _, path, result = case
    run = Run.open(path)
    kept, task = read_outputs(run), find_task(result.task.kind)
    assert kept is not None and set(kept.students) == {member.name for member in result.family}
    models = [(kept.teacher, result.teacher), *((kept.students[m.name], m.student) for m in result.family)]
    for outputs, record in models:
        scores = record.test or record.validation
        assert score(task, scores.primary, scores.split, outputs, kept.targets, interval=True) == scores


def test_every_target_is_met_by_a_student_that_can_be_read(case):
    _, _, path, result = case
    assert result.stop == "target_reduction" and result.targets == tuple(TARGETS) and result.missed == ()
    assert [member.name for member in result.family] == ["0.2", "0.5", ""]
    run = Run.open(path)
    for member, target, role in zip(result.family, TARGETS, sorted_roles(run), strict=True):
        spec = load_model(run, role.checkpoint).spec
        assert spec.count_parameters() == member.student.parameters and role.student == member.name
        assert member.reduction == 1 - member.student.parameters / result.teacher.parameters >= target
        assert member.student.test is not None and member.student.test.interval is not None
    sizes = [member.student.parameters for member in result.family]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3


def test_targets_that_no_student_meets_are_told(case):
    result = replace(case[-1], targets=(0.2, 0.5, 0.99), stop="metric_floor")
    assert result.missed == (0.99,) and missed_targets(case[-1]) == ""
    assert missed_targets(result).endswith("by the rule metric floor: no student meets 0.99")


@pytest.mark.parametrize("layers", [None, 1])
@pytest.mark.parametrize("teacher", ["previous", "original"])
def test_a_cycle_learns_from_the_model_that_the_recipe_names(
    teacher: str, layers: int | None, tmp_path, monkeypatch, tiny_tokenizer, tiny_data
):
    pairs: list[Pair] = []
    build = rmt_kd.RmtKd.objective

    def objective(self: Any, task: Any, recipe: Recipe, pair: Pair) -> Any:
        pairs.append(pair)
        return build(self, task, recipe, pair)

    monkeypatch.setattr(rmt_kd.RmtKd, "objective", objective)
    recipe = recipe_of(
        "encoder",
        tiny_tokenizer,
        compress={"sites_per_cycle": 100, "align": False, "minimum_rank": 2, "layers": layers},
        distil={"teacher": teacher, "match": 1.0, "steps": 2},
        stop={"target_reduction": [0.3, 0.6], "max_drop": 1.0},
    )
    result = compressed(tmp_path / "run", recipe, tiny_data)
    before, first = [cycle.parameters_before for cycle in result.cycles], result.teacher.parameters
    assert len(before) > 1 and before[1] < first
    taught = [first] * len(pairs) if teacher == "original" else before
    assert [pair.teacher.spec.count_parameters() for pair in pairs] == taught
    assert all((pair.layers is None) == (pair.student.spec.depth == pair.teacher.spec.depth) for pair in pairs)


def sorted_roles(run: Run) -> list[layout.Role]:
    """The students of a run, the largest first."""
    own, *others = (role for role in layout.roles_of(run) if role.kind == "candidate")
    return [*others, own]


def test_the_first_student_is_that_of_its_target_alone(case, tmp_path):
    recipe, data, path, result = case
    alone = compressed(tmp_path / "alone", recipe(TARGETS[0]), data)
    assert same(alone.family[0], result.family[0]) and alone.larger == ()
    assert weights(tmp_path / "alone") == weights(path, "0.2")
    assert not (tmp_path / "alone" / "compress" / layout.STUDENTS).exists()
    assert recipe([0.2]).to_toml() == recipe(0.2).to_toml()


def test_in_one_shot_every_student_is_cut_from_the_teacher(case, tmp_path):
    recipe, data, _, _ = case
    whole = compressed(tmp_path / "whole", recipe(TARGETS, **ONE_SHOT), data)
    assert len(whole.family) == 3 and {cycle.parameters_before for cycle in whole.cycles} == {whole.teacher.parameters}
    for target, member in zip(TARGETS, whole.family, strict=True):
        alone = compressed(tmp_path / str(target), recipe(target, **ONE_SHOT), data)
        assert same(alone.family[0], member)
        assert weights(tmp_path / str(target)) == weights(tmp_path / "whole", member.name)


@pytest.mark.parametrize(
    "stop",
    [("stage", 1, "target 0.7"), ("cycle_end", 3)],
    ids=["between targets", "in a cycle"],
)
def test_a_family_that_was_stopped_ends_as_one_that_was_not(case, tmp_path, stop):
    recipe, data, path, result = case
    with pytest.raises(KeyboardInterrupt):
        compressed(tmp_path / "a", recipe(TARGETS), data, StopsAt(*stop))
    again = compressed(tmp_path / "a", recipe(TARGETS), data)
    assert without_clocks(again) == without_clocks(result)
    assert all(weights(tmp_path / "a", m.name) == weights(path, m.name) for m in result.family)
    Run.open(tmp_path / "a").verify()
