"""Exit codes where the machine refuses: full disks, closed pipes, signals."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rmtkd_edge.cli.app import main

PROGRAM = "from rmtkd_edge.cli.app import main; main()"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("argv", [["--version"], ["recipes", "--keys"], ["profiles", "--json"]])
def test_output_that_cannot_be_written_is_the_users_error(argv: list[str]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([sys.executable, "-c", PROGRAM, *argv], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "No space left" in done.stderr and "Exception" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_is_told_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import signal; signal.signal(signal.SIGPIPE, signal.SIG_IGN); {PROGRAM}", "recipes"],
        stdout=closed_pipe(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 1 and not done.stderr


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 2), (errno.EROFS, 2), (errno.ENAMETOOLONG, 2), (errno.EINVAL, 3)]
)
def test_a_refusal_of_the_machine_is_told_from_our_faults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "runs/a/x")

    monkeypatch.setattr("rmtkd_edge.api.report.report", broken)
    with pytest.raises(SystemExit) as left:
        main(["report", "runs/a"])
    err = capsys.readouterr().err
    assert left.value.code == code and os.strerror(number) in err and "runs/a/x" in err


LOST = ("", "raise UserError('a library lost it')", "raise ValueError('a library lost it')")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("lost", LOST)
def test_a_command_that_is_stopped_says_so_and_releases_its_run(
    tmp_path: Path, number: signal.Signals, code: int, lost: str
) -> None:
    from rmtkd_edge.run.directory import Run

    run = Run.create(tmp_path / "a", "", 0)
    slow = (
        "import time\nfrom rmtkd_edge.report import stage\nfrom rmtkd_edge.errors import UserError\n"
        "def wait(*_):\n    print('waits', flush=True)\n"
        f"    try:\n        time.sleep(60)\n    except BaseException:\n        {lost or 'raise'}\n"
        "stage.report_runs = wait\n" + PROGRAM
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, "report", str(run.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "waits\n"
    assert (run.path / "run.lock").exists()
    begin = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code and time.monotonic() - begin < 20
    assert err == "interrupted; run the same command again to resume\n"
    assert not (run.path / "run.lock").exists()
