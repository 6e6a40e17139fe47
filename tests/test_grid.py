"""The experiment grid of tools/reproduce.py: what is declared, and a tiny grid that is run, killed and shared."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from grid.cells import ATTRIBUTION, BUDGETS, STEPS, TIME, Cell, Where, all_cells, needs, teacher_of
from grid.engines import Local, find_engine
from grid.order import folder_of, order_of, result_of, time_budget
from grid.running import TOOL, Session
from grid.settings import TEACHER_SEED, VARIANTS
from grid.state import BEGUN, FAILURE, FINISHED, OPEN, RUNNING, state_of
from grid.studies import SCALES, STUDIES, Expected, Study
from grid.table import table
from grid.worker import CELL, FAILED, IN_USE, LOG

from rmtkd_edge.errors import Finding, UserError
from rmtkd_edge.families.base import find_family
from rmtkd_edge.methods.base import find_method
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import MANIFEST
from rmtkd_edge.run.lock import RunLock

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def where(monkeypatch, tmp_path, tiny_recipe_file, tiny_data) -> Where:
    """The grid's folders, with a study `tiny` of two methods, of which `at` does not go with encoders."""
    methods = ("rmt-kd", "at", "plain-kd")
    study = Study(
        "tiny", str(tiny_recipe_file), ".", "no-teacher", (0.6,), methods, 12, Expected(1, 0.1, 1, 1), validations=30
    )
    monkeypatch.setitem(STUDIES, "tiny", study)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Where(tmp_path / "out", tiny_data)


def session(cells: list[Cell], where: Where, **changes: object) -> Session:
    return Session(cells=cells, where=where, engine=Local(), poll_s=0.05, say=lambda text: None, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", SCALES)
def test_every_declared_cell_is_a_recipe_that_its_method_follows(scale: str, tmp_path: Path) -> None:
    where = Where(tmp_path, tmp_path)
    studies = [name for name, study in STUDIES.items() if study.scale == scale]
    cells = all_cells(where, studies, BUDGETS, [0, 1])
    assert len({cell.id for cell in cells}) == len(cells)
    for cell in cells:
        if cell.budget == TIME or (cell.name in VARIANTS and VARIANTS[cell.name].like_rmt_kd):
            continue  # their steps or widths are those of finished cells
        recipe = order_of(cell, where).resolved()
        find_method(recipe.compress.method).check(recipe, find_family(recipe.model.family))
        assert (recipe.seed, recipe.task.split_seed) == (cell.seed, TEACHER_SEED) and recipe.compress.rounds == 1
        if cell.budget == STEPS:
            assert (recipe.distil.steps, recipe.stop.target) == (cell.of.steps, cell.target)
            assert recipe.model.source.endswith(f"teachers/{cell.study}/compress/teacher")
        if cell.budget == ATTRIBUTION and (before := VARIANTS[cell.name].on_the_way):
            assert recipe.stop.targets == (*before, cell.target)
            assert recipe.distil.steps == cell.of.steps // (1 + len(before))


def test_one_seed_comes_before_the_next_and_what_is_needed_before_what_needs_it(tmp_path: Path) -> None:
    where = Where(tmp_path, tmp_path)
    cells = all_cells(where, ["minilm", "cifar10"], BUDGETS, [0, 1])
    seeds = [cell.seed for cell in cells]
    assert seeds == sorted(seeds)
    place = {cell: number for number, cell in enumerate(cells)}
    assert all(place[first] < place[cell] for cell in cells for first in needs(cell, where))
    alone = all_cells(where, ["minilm"], [TIME], [0], ["pkd"])
    assert [cell.id.split("/")[0] for cell in alone] == ["teachers", "steps", "steps", "time"]
    some = all_cells(where, ["cifar10"], [TIME], [0], targets=[0.7])
    assert {cell.target for cell in some} == {None, 0.7}  # the teacher has none
    with pytest.raises(UserError, match=r"0\.71"):
        all_cells(where, ["cifar10"], [TIME], [0], targets=[0.71])


@pytest.mark.parametrize(("search", "fixed", "step"), [(200.0, 0.5, 0.1), (0.0, 30.0, 0.25), (10.0, 500.0, 1.0)])
def test_the_time_budget_takes_the_steps_that_fit_into_the_time_of_rmt_kd(
    search: float, fixed: float, step: float
) -> None:
    def record(steps: int, **seconds: float) -> SimpleNamespace:
        return SimpleNamespace(cycles=[SimpleNamespace(steps=steps, seconds=seconds)])

    reference = record(800, analyse=search, warm_start=36.0, fine_tune=100.0)
    own = record(800, analyse=0.0, warm_start=fixed, fine_tune=800 * step)
    found = time_budget(reference, own)  # type: ignore[arg-type]
    total = search + 136.0
    if total < fixed + step:
        assert found["steps"] == 1
    else:
        assert fixed + found["steps"] * step <= total + 1e-6 < fixed + (found["steps"] + 1) * step + 2e-6


@pytest.mark.slow
def test_a_grid_runs_once_past_a_cell_that_fails(where: Where) -> None:
    cells = all_cells(where, ["tiny"], [STEPS, TIME], [0], ["rmt-kd", "at", "plain-kd"])
    first = session(cells, where, jobs=2)
    assert first.run() == 1
    states = {cell.id: first.states[cell].name for cell in cells}
    assert states.pop("steps/tiny/at-60/seed-0") == FAILURE
    assert states.pop("time/tiny/at-60/seed-0") == OPEN  # it waits for the other
    assert set(states.values()) == {FINISHED} and len(states) == 5
    failed = folder_of(Cell(STEPS, "tiny", "at", 0.6, 0), where)
    assert "needs stages" in json.loads((failed / FAILED).read_text())["reason"]

    trained = folder_of(Cell(TIME, "tiny", "plain-kd", 0.6, 0), where)
    facts = json.loads((trained / CELL).read_text())
    assert sum(cycle.steps for cycle in result_of(trained).cycles) == facts["time"]["steps"]
    done = [Run.open(folder_of(cell, where)) for cell in cells if cell.id in states]
    weights = {run.manifest["files"]["compress/teacher/model.safetensors"] for run in done}
    assert len(weights) == 1  # all start from one teacher
    figures = table(where.out)
    assert len(figures["machines"]) == 1 and "torch" in figures["machines"][0]
    rows = {(row["budget"], row["variant"]): row["steps"] for row in figures["rows"]}
    assert rows[STEPS, "rmt-kd"] == rows[STEPS, "plain-kd"] == rows[TIME, "rmt-kd"] == [12]
    copied = Run.open(folder_of(Cell(TIME, "tiny", "rmt-kd", 0.6, 0), where))
    copied.verify()

    again = session(cells, where)
    again.engine = SimpleNamespace(submit=lambda command: pytest.fail("a finished or failed cell was started"))
    assert again.run() == 1
    other = session(cells[:2], replace(where, changes=("distil.alpha=0.9",)))
    other.look()
    assert "other settings" in other.states[cells[1]].reason

    copied.manifest["files"]["compress/teacher/model.safetensors"] = "0" * 64
    copied.mark("compress", "done")
    with pytest.raises(Finding, match="tiny: its cells start from 2 teachers"):
        table(where.out)


@pytest.fixture
def halted(where: Where) -> Iterator[tuple[Cell, list[str], subprocess.Popen[bytes]]]:
    """A cell, its command, and its process, which stands still after a checkpoint of the training."""
    cell = Cell(STEPS, "tiny", "plain-kd", 0.6, 0)
    teacher = needs(cell, where)
    assert session(teacher, where).run() == 0
    order = order_of(cell, replace(where, steps=600))
    command = [sys.executable, str(TOOL), "--order", order.to_json()]
    process = subprocess.Popen(command)
    folder = Path(order.folder)
    end = time.monotonic() + 120
    while not (folder / MANIFEST).is_file() or not any(
        "training-0" in name for name in Run.open(folder).manifest["files"]
    ):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    yield cell, command, process
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="the test halts a process")
def test_a_cell_has_one_process_and_a_killed_one_goes_on(
    where: Where, halted: tuple[Cell, list[str], subprocess.Popen[bytes]]
) -> None:
    cell, command, process = halted
    assert state_of(cell, where).name == RUNNING
    assert subprocess.run(command, check=False, capture_output=True).returncode == IN_USE
    process.kill()
    process.wait()
    assert state_of(cell, where).name == BEGUN
    assert subprocess.run(command, check=False).returncode == 0
    folder = folder_of(cell, where)
    assert "continuing after step" in (folder / LOG).read_text()
    assert sum(cycle.steps for cycle in result_of(folder).cycles) == 600


class Ended:
    """A process that has ended with a code."""

    def __init__(self, code: int) -> None:
        self.code = code

    def done(self) -> bool:
        return True

    def result(self) -> int:
        return self.code

    def stop(self) -> None:
        pass


def test_a_cell_whose_process_is_killed_is_not_started_again_by_the_same_command(where: Where) -> None:
    started: list[list[str]] = []
    found = session([teacher_of("tiny")], where)
    found.engine = SimpleNamespace(submit=lambda command: started.append(command) or Ended(-9))
    assert found.run() == 1 and len(started) == 1
    assert "code -9" in found.failures()[teacher_of("tiny")]


def test_a_cell_that_another_process_holds_is_waited_for(where: Where) -> None:
    cell, started = teacher_of("tiny"), list[float]()
    lock = RunLock(folder_of(cell, where))
    lock.take()
    released = time.monotonic() + 0.5
    threading.Timer(0.5, lock.__exit__, (None, None, None)).start()
    found = session([cell], where)
    found.engine = SimpleNamespace(submit=lambda command: started.append(time.monotonic()) or Ended(-9))
    found.run()
    assert len(started) == 1 and started[0] >= released - 0.1


def test_a_slice_ends_in_time_and_leaves_the_cell_to_the_next(where: Where) -> None:
    endless = replace(where, changes=("train.epochs=1000000",))
    end = time.time() + 6
    found = session([teacher_of("tiny")], endless, end=end, ending=2.0)
    assert found.run() == 0 and time.time() < end
    assert found.states[teacher_of("tiny")].name in (OPEN, BEGUN)


@pytest.mark.parametrize(("engine", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_an_engine_without_its_package_says_how_to_install_it(monkeypatch, tmp_path, engine: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as caught:
        find_engine(engine, tmp_path, {})
    assert caught.value.hint == f"pip install {package}"


@pytest.mark.parametrize("cluster", ["debug", "local"])
def test_submitit_runs_a_command(tmp_path: Path, cluster: str) -> None:
    pytest.importorskip("submitit", reason="pip install submitit")
    task = find_engine("slurm", tmp_path, {"cluster": cluster}).submit([sys.executable, "-c", "raise SystemExit(75)"])
    end = time.monotonic() + 60
    while not task.done() and time.monotonic() < end:
        time.sleep(0.1)
    assert task.result() == 75
