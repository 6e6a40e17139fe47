"""Carry out a bundle on another machine over OpenSSH: send what it lacks, start the runner, follow it, bring it back.

The user's own ssh configuration holds (keys, jump hosts, host key checks); nothing is asked and no password is kept.
There everything is under ~/.cache/rmtkd-edge: `store/` has files by their sha256, so that only what changed is sent and
a broken transfer continues where it stopped; `jobs/` has one folder a plan. The runner does not hang on the connection:
when that drops it keeps running, and the same command picks it up. A finished job is removed, all else after a week.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rmtkd_edge.errors import ProviderError, UserError
from rmtkd_edge.hashing import sha256_file
from rmtkd_edge.profile.foreign import check_measurement
from rmtkd_edge.profile.measuring.store import digest_of
from rmtkd_edge.profile.transport_local import Progress, death, event_of, read_outcome
from rmtkd_edge.run.directory import atomic_write_bytes
from rmtkd_edge.run.records.base import LARGEST

FOLDER, IN_HOME = ".cache/rmtkd-edge", 'cd "$HOME" || exit 1\n'
CONNECT_S, PATIENCE_S, POLL_S = 15, 120.0, 2.0  # to connect; without any connection; between looks at the runner
COMMAND_S, TRANSFER_S = 120.0, 3600.0
HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:%-]*")
REFUSALS = {  # what ssh says where trying again is of no use: what to do
    "host key verification failed": "connect once by hand and check the key: ssh {host}",
    "permission denied": "let a key into the agent (ssh-add), or name it in ~/.ssh/config; passwords are not asked for",
    "could not resolve hostname": "check --host, or give it a Host entry in ~/.ssh/config",
}


class StepRefused(UserError):
    """A script ended with an error there."""

    def __init__(self, host: str, said: str, code: int) -> None:
        super().__init__(f"{host} refused a step: {said[-300:] or f'exit code {code}'}")
        self.code = code


class ConnectionLost(Exception):
    """ssh could not connect, or lost the connection; another attempt may do."""


@dataclass(frozen=True)
class Waiting:
    """Seconds: until it is given up (None: never), without any connection, and between looks at the runner."""

    timeout_s: float | None = None
    patience_s: float = PATIENCE_S
    poll_s: float = POLL_S


@dataclass(frozen=True)
class Target:
    """A machine by its ssh name, the Python there, and further ssh options (such as -F FILE)."""

    host: str
    python: str = "python3"
    options: tuple[str, ...] = ()

    def run(self, script: str, stdin: Any = subprocess.DEVNULL, timeout_s: float = COMMAND_S) -> bytes:
        """Run a POSIX shell script there and return its standard output.

        Raises ConnectionLost where ssh fails, UserError where it refuses for good, StepRefused where the script ends
        with an error.
        """
        alive = ["-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"]
        batch = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S}"]
        there = f"sh -c {shlex.quote(IN_HOME + script)}"
        command = ["ssh", "-T", *batch, *alive, *self.options, self.host, there]
        try:
            done = subprocess.run(command, stdin=stdin, capture_output=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as err:
            raise ConnectionLost(f"no answer within {timeout_s:.0f} s") from err
        except FileNotFoundError as err:
            raise ProviderError("there is no ssh here", "install the OpenSSH client, or: rmtkd-edge bundle") from err
        said = done.stderr.decode(errors="replace").strip()
        if done.returncode == 255:
            for words, hint in REFUSALS.items():
                if words in said.lower():
                    raise UserError(f"ssh {self.host}: {said[-300:]}", hint.format(host=self.host))
            raise ConnectionLost(said[-300:] or "the connection was closed")
        if done.returncode:
            raise StepRefused(self.host, said, done.returncode)
        return done.stdout


def make_target(host: str, options: tuple[str, ...] = (), python: str = Target.python) -> Target:
    """Return a target; raise UserError for a name that ssh could take for an option."""
    if not HOST.fullmatch(host):
        raise UserError(f"`{host}` is no host name", "--host pi@raspberrypi.local, or a Host of ~/.ssh/config")
    return Target(host, python, options)


def run_over_ssh(
    bundle: Path, results: Path, target: Target, progress: Progress | None = None, waiting: Waiting | None = None
) -> dict[str, Any]:
    """Run a bundle on `target` and return the results document, which also stays at `results`.

    Lost connections are taken up again for a while. Raises what run_bundle raises, and UserError where the machine
    stays out of reach or the time is up; the runner there keeps running, and the same call picks it up.
    """
    waiting = waiting or Waiting()
    plan = json.loads((bundle / "plan.json").read_text(encoding="utf-8"))
    job = f"jobs/{sha256_file(bundle / 'plan.json')[:16]}"
    again = Again(target, waiting.patience_s)
    _check_python(target, again)
    _send(bundle, job, target, again, progress)
    _start(job, plan, target, again)
    code = _follow(job, target, again, waiting, progress)
    if (dead := death(code, target.host, f"ssh {target.host} {target.python}")) is not None:
        raise dead
    read = f"cd {FOLDER}/{job} && head -c {LARGEST} results.json 2>/dev/null || true"
    found = again(lambda: target.run(read, timeout_s=TRANSFER_S))
    if found:
        atomic_write_bytes(results, found)
    stderr = again(lambda: target.run(f"tail -c 4000 {FOLDER}/{job}/stderr.txt 2>/dev/null || true"))
    document = read_outcome(results, code, stderr.decode(errors="replace"))
    refuse_altered(document, target.host)
    check_measurement(document, f"the results of {target.host}", "measure again", finished=True)
    old = f"find {FOLDER}/jobs -mindepth 1 -maxdepth 1 -mtime +7 -exec rm -rf {{}} +"
    again(lambda: target.run(f"rm -rf {FOLDER}/{job}; find {FOLDER}/store -type f -mtime +7 -delete; {old}"))
    return document


def refuse_altered(document: dict[str, Any], host: str) -> None:
    """Raise UserError where results are not what the runner wrote (the job stays where it is)."""
    if document.get("digest") != digest_of(document):
        raise UserError(f"the results of {host} do not fit their digest", "repeat the command: they are fetched again")


class Again:
    """Calls again while the connection is lost, for at most so many seconds without success."""

    def __init__(self, target: Target, patience_s: float) -> None:
        self.target, self.patience_s = target, patience_s

    def __call__(self, step: Callable[[], bytes]) -> bytes:
        """Return what a step gives; raise UserError where the machine stays out of reach."""
        end, wait = time.monotonic() + self.patience_s, 0.5
        while True:
            try:
                return step()
            except ConnectionLost as err:
                if time.monotonic() + wait > end:
                    raise UserError(
                        f"{self.target.host} cannot be reached: {err}",
                        f"try `ssh {self.target.host}`; then repeat the command: it continues where it stopped",
                    ) from err
                time.sleep(wait)
                wait = min(2 * wait, 15.0)


def _check_python(target: Target, again: Again) -> None:
    code = "import sys, numpy, onnxruntime; assert sys.version_info >= (3, 9), sys.version"
    try:
        # with a command after it the shell stays, and can tell that a signal ended Python
        again(lambda: target.run(f"{shlex.quote(target.python)} -c {shlex.quote(code)}; exit $?"))
    except StepRefused as err:
        if (dead := death(err.code, target.host, f"ssh {target.host} {target.python}")) is not None:
            raise dead from err
        raise ProviderError(
            f"{target.host} cannot run the measurement: {err.message.splitlines()[-1]}",
            f"ssh {target.host} {target.python} -m pip install onnxruntime numpy   (Python 3.9 or later; with an "
            "NVIDIA GPU onnxruntime-gpu in place of onnxruntime)",
        ) from err


def _send(bundle: Path, job: str, target: Target, again: Again, progress: Progress | None) -> None:
    """Bring every file of the bundle into the store, from where an earlier transfer stopped, and link the job."""
    files = {p.relative_to(bundle).as_posix(): p for p in sorted(bundle.rglob("*")) if p.is_file()}
    hashes = {name: sha256_file(path) for name, path in files.items()}
    again(lambda: target.run(f"mkdir -p {FOLDER}/store {FOLDER}/jobs"))
    there = _present(set(hashes.values()), target, again)
    for name, path in files.items():
        digest, size = hashes[name], path.stat().st_size
        if there.get(digest) == "whole":
            continue
        if progress is not None:
            progress({"event": "send", "text": f"{target.host}: sending {name} ({size / 1e6:.1f} MB)"})
        again(partial(_append, path, digest, target))
        there[digest] = "whole"
    links = [f"rm -rf {job}.new; mkdir -p {job}.new"]
    for name, digest in hashes.items():
        place = shlex.quote(f"{job}.new/{name}")
        folder = shlex.quote(str(Path(f"{job}.new/{name}").parent))
        links.append(f"mkdir -p {folder}; touch store/{digest}; ln store/{digest} {place} || cp store/{digest} {place}")
    links.append(f"if [ -d {job} ]; then rm -rf {job}.new; else mv {job}.new {job}; fi")
    script = f"cd {FOLDER} && " + "\n".join(links)
    again(lambda: target.run(script))


def _present(hashes: set[str], target: Target, again: Again) -> dict[str, str]:
    wanted = " ".join(sorted(hashes))
    script = f"cd {FOLDER}/store && for s in {wanted}; do if [ -f $s ]; then echo $s whole; fi; done"
    lines = again(lambda: target.run(script)).decode().splitlines()
    return dict(line.split() for line in lines if len(line.split()) == 2)


def _append(path: Path, digest: str, target: Target) -> bytes:
    """Send what is missing of a file after the part that is there, and check the whole."""
    part = f"{FOLDER}/store/{digest}.part"
    held = int(target.run(f"touch {part} && wc -c < {part}"))
    with path.open("rb", buffering=0) as stream:
        if held > path.stat().st_size:
            target.run(f": > {part}")
            held = 0
        stream.seek(held)
        target.run(f"cat >> {part}", stdin=stream, timeout_s=TRANSFER_S)
    code = "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())"
    found = target.run(f"{shlex.quote(target.python)} -c {shlex.quote(code)} {part}").decode().strip()
    if found != digest:
        target.run(f"rm -f {part}")
        raise ConnectionLost(f"{path.name} arrived damaged")
    return target.run(f"mv {part} {FOLDER}/store/{digest}")


def _start(job: str, plan: dict[str, Any], target: Target, again: Again) -> None:
    """Start the runner unless it runs, or has ended well; it survives the connection."""
    inner = (
        f"OMP_NUM_THREADS={int(plan['threads'])} {shlex.quote(target.python)} runner.py --json "
        ">> events.txt 2> stderr.txt; echo $? > code.new; mv code.new code"
    )
    script = f"""cd {FOLDER}/{job} || exit 1
if [ -f pid ] && kill -0 "$(cat pid)" 2>/dev/null; then exit 0; fi
if [ -f code ] && [ "$(cat code)" = 0 ]; then exit 0; fi
rm -f code; : > events.txt
nohup sh -c {shlex.quote(inner)} > /dev/null 2>&1 < /dev/null &
echo $! > pid"""
    again(lambda: target.run(script))


def _follow(job: str, target: Target, again: Again, waiting: Waiting, progress: Progress | None) -> int:
    """Pass the runner's events on until it ends and return its exit code."""
    end = None if waiting.timeout_s is None else time.monotonic() + waiting.timeout_s
    seen, rest = 0, b""
    while True:
        script = f"""cd {FOLDER}/{job} || exit 1
if [ -f code ]; then echo "ended $(cat code)"
elif kill -0 "$(cat pid)" 2>/dev/null; then echo running
else sleep 1; if [ -f code ]; then echo "ended $(cat code)"; else echo gone; fi; fi
tail -c +{seen + 1} events.txt"""
        state, _, more = again(partial(target.run, script)).partition(b"\n")
        seen += len(more)
        *lines, rest = (rest + more).split(b"\n")
        if progress is not None:
            for line in lines:
                progress(event_of(line.decode(errors="replace")))
        if state.startswith(b"ended"):
            return int(state.split()[1])
        if state == b"gone":
            raise UserError(
                f"the runner on {target.host} was killed", "repeat the command: it continues where it was stopped"
            )
        if end is not None and time.monotonic() >= end:
            raise UserError(
                f"{target.host} has not finished within {waiting.timeout_s:g} s",
                "its runner keeps running; the same command later picks the results up",
            )
        time.sleep(waiting.poll_s)
