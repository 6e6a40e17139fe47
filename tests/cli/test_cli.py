"""The command line: quick to start, and every fault ends with a message, a way out and the right exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rmtkd_edge import __version__
from rmtkd_edge.cli.app import app, main
from rmtkd_edge.config.recipes import list_recipes, load_recipe
from rmtkd_edge.errors import Finding, TrainingError
from rmtkd_edge.run.directory import Run

Capture = pytest.CaptureFixture[str]
# typer itself imports pydantic when it reads an option
HEAVY = ("torch", "transformers", "onnxruntime", "onnx", "datasets", "pyarrow", "scipy", "matplotlib", "numpy")


def call(capsys: Capture, *argv: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(part) for part in argv])
    out, err = capsys.readouterr()
    return left.value.code, out, err


def test_help_and_version_load_nothing_heavy() -> None:
    program = (
        "import sys\nfrom rmtkd_edge.cli.app import main\n"
        "for argv in (['--help'], ['compress', '--help'], ['--version']):\n"
        "    try:\n        main(argv)\n    except SystemExit as left:\n        assert not left.code, left.code\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("LOADED []"), done.stdout[-300:]
    assert __version__ in done.stdout


def test_every_command_has_help() -> None:
    runner = CliRunner()
    for command in app.registered_commands:
        name = command.name or ""
        result = runner.invoke(app, [name, "--help"])
        assert result.exit_code == 0 and name in result.output


def test_lists_name_what_ships(capsys: Capture) -> None:
    code, out, _ = call(capsys, "recipes")
    assert code == 0 and all(name in out for name in list_recipes())
    code, out, _ = call(capsys, "recipes", "--keys")
    assert code == 0 and "distil.temperature" in out and "stop.target_reduction" in out
    code, out, _ = call(capsys, "profiles", "--json")
    assert code == 0 and {"local-cpu", "raspberry-pi-5"} <= {row["profile"] for row in json.loads(out)}
    code, out, _ = call(capsys, "profiles")
    assert code == 0 and "raspberry-pi-5" in out


def test_a_dry_run_says_what_it_reads_and_writes_nothing(
    capsys: Capture, tiny_recipe_file: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    argv = ["compress", str(tiny_recipe_file), "--data", str(tiny_data), "--dry-run", "--set", "task.max_length=8"]
    code, out, _ = call(capsys, *argv)
    assert code == 0 and "read train.csv: 600 rows as train" in out and "labels negative" in out
    assert "fill the 8 tokens" in out and "row 2 of train" in out and "[CLS]" in out and "held out of train" in out
    assert "it is trained first" in out and "75.0% of the parameters less" in out and "time: about" in out
    code, out, _ = call(capsys, *argv, "--json")
    assert code == 0 and json.loads(out)["schema"] == "rmtkd-edge/dry-run@1"
    code, out, err = call(capsys, *argv, "--set", "stop.target_reduction=0.999")
    assert code == 2 and "multiples of" in out and "--set stop.target_reduction=" in err
    code, _, err = call(capsys, *argv, "--set", "task.label=nothing")
    assert code == 2 and "nothing" in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["compress", "no-such-recipe", "--out", "x"], "no recipe"),
        (["compress", "demo", "--out", "x", "--set", "distil.alhpa=1"], "did you mean `alpha`"),
        (["compress", "demo", "--out", "x", "--set", "alpha"], "key=value"),
        (["compress", "demo", "--out", "x", "--budget", "local-cpuu"], "local-cpu"),
        (["compress", "demo", "--out", "x", "--budget", "local-cpu"], "budget"),
        (["compress", "demo"], "--out"),
        (["compress", "demo", "--out", "x", "--seed", "many"], "--seed"),
        (["compress", "demo", "--out", "x", "--seed", "-1"], "seed"),
        (["compress", "no/such/folder/demo.toml", "--out", "x"], "no recipe"),
        (["compress", "demo", "--out", "x", "--data", "nowhere"], "nowhere"),
        (["compress", "demo", "--out", "x", "--set", "stop.profile=local-cpuu"], "local-cpu"),
        (["compress", "demo", "--out", "x", "--set", "model.family=resnet"], "family"),
        (["compress", "demo", "--out", "x", "--method", "rmtkd"], "rmt-kd"),
        (["compress", "demo", "--out", "x", "--set", "stop.max_accuracy_drop=0.1"], "stop.max_drop"),
        (["compress", "demo", "--out", "x", "--set", "model.family=bert"], "encoder"),
        (["compress", "demo", "--out", "x", "--set", "compress.sites=[]"], "sites"),
        (["compress", "demo", "--out", "x", "--set", "train.precision=fp16"], "GPU"),
        (["export", "none"], "no run directory"),
        (["profile", "none"], "no run directory"),
        (["profile", "none", "--on", "raspberry-pi-9"], "raspberry-pi-5"),
        (["profile", "none", "--batch-size", "1,x"], "--batch-size"),
        (["profile", "none", "--on", ","], "--on"),
        (["profile", "none", "--on", "local-cpu,local-cpu"], "once"),
        (["profile", "none", "--threads", "0"], "threads"),
        (["report", "none"], "no run directory"),
        (["demo", "--data", "x"], "--hub"),
        (["demo", "--task", "images", "--hub"], "--task text"),
        (["wibble"], "wibble"),
    ],
)
def test_a_users_fault_is_exit_code_2_and_writes_nothing(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *argv)
    assert code == 2 and says in err and "Traceback" not in err and not out
    assert not list(tmp_path.iterdir())


def raising(error: BaseException) -> Callable[..., None]:
    def broken(*_: object, **__: object) -> None:
        raise error

    return broken


def test_a_finding_prints_its_table_and_is_exit_code_1(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    error = Finding("int8 differs", "look at [this]", [["site", "difference"], ["layer.0.ffn", "[0.5]"]])
    monkeypatch.setattr("rmtkd_edge.api.export.export_run", raising(error))
    code, _, err = call(capsys, "export", "runs/a")
    assert code == 1 and all(part in err for part in ("int8 differs", "layer.0.ffn", "[0.5]", "look at [this]"))


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (TrainingError("the loss is nan at step 3", "lower it"), 1, "try: lower it"),
        (KeyboardInterrupt(), 130, "same command again to resume"),
        (ZeroDivisionError("ours"), 3, "ZeroDivisionError: ours"),
    ],
)
def test_other_ends_have_their_codes(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, says: str
) -> None:
    monkeypatch.setattr("rmtkd_edge.api.report.report", raising(error))
    found, out, err = call(capsys, "report", "runs/a")
    assert found == code and says in err and not out
    assert ("Traceback" in err) == (code == 3)


def test_doctor_says_everything_as_json(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from rmtkd_edge.cli import examine as doctor

    checks = [doctor.Check("a", "ok", "fine"), doctor.Check("b", "note", "[absent]", "do [this]")]
    monkeypatch.setattr(doctor, "examine", lambda: checks)
    code, out, _ = call(capsys, "doctor", "--json")
    assert code == 0 and json.loads(out)[1] == {
        "name": "b",
        "state": "note",
        "found": "[absent]",
        "advice": "do [this]",
    }
    code, out, _ = call(capsys, "doctor")
    assert code == 0 and "[absent]" in out and "do [this]" in out
    checks.append(doctor.Check("c", "problem", "broken", "repair it"))
    assert call(capsys, "doctor")[0] == 1


@pytest.fixture
def compressing(tmp_path: Path, tiny_recipe_file: Path) -> Run:
    """Return a run whose compress stage has begun."""
    return Run.create(tmp_path / "a", load_recipe(str(tiny_recipe_file)).to_toml(), 0)


def test_stages_come_in_their_order(capsys: Capture, compressing: Run) -> None:
    path = compressing.path
    code, _, err = call(capsys, "export", path)
    assert code == 2 and f"try: rmtkd-edge compress {path}/recipe.toml --out {path}" in err
    compressing.mark("compress", "done")
    code, _, err = call(capsys, "profile", path)
    assert code == 2 and f"try: rmtkd-edge export {path}" in err
