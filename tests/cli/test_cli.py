"""The command line: quick to start, and every fault ends with a message, a way out and the right exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rmtkd_edge import __version__
from rmtkd_edge.api import export as api_export
from rmtkd_edge.api import report as api_report
from rmtkd_edge.cli import app as cli
from rmtkd_edge.cli import examine as doctor
from rmtkd_edge.config.recipe import list_recipes, load_recipe
from rmtkd_edge.errors import Finding, TrainingError
from rmtkd_edge.run.directory import Run

# typer itself imports pydantic when it reads an option
HEAVY = ("torch", "transformers", "onnxruntime", "onnx", "datasets", "pyarrow", "scipy", "matplotlib", "numpy")


COMMANDS = (
    *("compress", "export", "profile", "report", "demo", "doctor"),
    *("bundle", "collect", "compare", "calibrate", "recipes", "profiles"),
)


def call(capsys, *argv: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        cli.main([str(part) for part in argv])
    out, err = capsys.readouterr()
    return left.value.code, out, err


def test_help_and_version_load_nothing_heavy():
    program = (
        "import sys\nfrom rmtkd_edge.cli.app import main\n"
        "for argv in (['--help'], ['compress', '--help'], ['--version']):\n"
        "    try:\n        main(argv)\n    except SystemExit as left:\n        assert not left.code, left.code\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("LOADED []"), done.stdout[-300:]
    assert __version__ in done.stdout


def test_every_command_has_help():
    runner = CliRunner()
    for name in COMMANDS:
        result = runner.invoke(cli.app, [name, "--help"])
        assert result.exit_code == 0 and name in result.output


def test_lists_name_what_ships(capsys):
    code, out, _ = call(capsys, "recipes")
    assert code == 0 and all(name in out for name in list_recipes())
    code, out, _ = call(capsys, "recipes", "--keys")
    assert code == 0 and "distil.temperature" in out and "stop.target_reduction" in out
    code, out, _ = call(capsys, "profiles", "--json")
    assert code == 0 and {"local-cpu", "raspberry-pi-5"} <= {row["profile"] for row in json.loads(out)}
    code, out, _ = call(capsys, "profiles")
    assert code == 0 and "raspberry-pi-5" in out


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
        (["compress", "demo", "--out", "x", "--set", "model.family=bert"], "encoder"),
        (["compress", "demo", "--out", "x", "--set", "stop.max_accuracy_drop=0.1"], "stop.max_drop"),
        (["compress", "demo", "--out", "x", "--method", "rmtkd"], "rmt-kd"),
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
def test_a_fault_of_the_user_is_exit_code_2_and_leaves_no_file(capsys, tmp_path, monkeypatch, argv, says):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *argv)
    assert code == 2 and says in err and "Traceback" not in err and not out
    assert not list(tmp_path.iterdir())


def raising(error: BaseException):
    def broken(*_, **__):
        raise error

    return broken


def test_a_finding_prints_its_table_and_is_exit_code_1(capsys, monkeypatch):
    error = Finding("int8 differs", "look at [this]", [["site", "difference"], ["layer.0.ffn", "[0.5]"]])
    monkeypatch.setattr(api_export, "export_run", raising(error))
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
def test_other_ends_have_their_codes(capsys, monkeypatch, error, code, says):
    monkeypatch.setattr(api_report, "report", raising(error))
    found, out, err = call(capsys, "report", "runs/a")
    assert found == code and says in err and not out
    assert ("Traceback" in err) == (code == 3)


def test_doctor_says_everything_as_json(capsys, monkeypatch):
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
    checks.append(doctor.Check("c", "problem", "broken", "mend it"))
    assert call(capsys, "doctor")[0] == 1


def test_stages_come_in_their_order(capsys, tmp_path: Path, tiny_recipe_file: Path):
    path = tmp_path / "a"
    run = Run.create(path, load_recipe(str(tiny_recipe_file)).to_toml(), 0)
    code, _, err = call(capsys, "export", path)
    assert code == 2 and f"try: rmtkd-edge compress {path}/recipe.toml --out {path}" in err
    run.mark("compress", "done")
    code, _, err = call(capsys, "profile", path)
    assert code == 2 and f"try: rmtkd-edge export {path}" in err
