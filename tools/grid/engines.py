"""Where the processes of cells run: on this machine, by Slurm (submitit), or by Ray."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rmtkd_edge.errors import UserError

LONGEST_MIN = 24 * 60  # of a job; submitit's own limit of 5 minutes would end most cells


class Task(Protocol):
    """A process that was started."""

    def done(self) -> bool:
        """Return whether it has ended."""

    def result(self) -> int:
        """Return the exit code of one that has ended; negative where a signal ended it."""

    def stop(self) -> None:
        """End it now."""


class Engine(Protocol):
    """What starts processes."""

    def submit(self, command: Sequence[str]) -> Task:
        """Start a command, or queue it."""


class LocalTask:
    """A process of this machine."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def done(self) -> bool:
        """Return whether it has ended."""
        return self.process.poll() is not None

    def result(self) -> int:
        """Return the exit code."""
        return self.process.wait()

    def stop(self) -> None:
        """Kill it; what it has done so far is in its run directory."""
        self.process.kill()
        self.process.wait()


class Local:
    """Processes of this machine."""

    def submit(self, command: Sequence[str]) -> LocalTask:
        """Start a command."""
        return LocalTask(command)


class SlurmTask:
    """A job of submitit."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def done(self) -> bool:
        """Return whether it has ended."""
        return bool(self.job.done())

    def result(self) -> int:
        """Return the exit code, -1 where Slurm ended the job."""
        try:
            return int(self.job.result())
        except Exception as err:
            print(f"job {self.job.job_id}: {err}", flush=True)
            return -1

    def stop(self) -> None:
        """Cancel the job."""
        self.job.cancel()


class Slurm:
    """Jobs of submitit; its `cluster` is Slurm, or `local` and `debug` to try it without one."""

    def __init__(self, out: Path, options: Mapping[str, Any]) -> None:
        submitit = _needed("submitit")
        options = {"timeout_min": LONGEST_MIN, **options}
        self.executor = submitit.AutoExecutor(folder=out / "slurm", cluster=options.pop("cluster", "slurm"))
        self.executor.update_parameters(name="rmtkd-grid", **options)

    def submit(self, command: Sequence[str]) -> SlurmTask:
        """Queue a command."""
        return SlurmTask(self.executor.submit(subprocess.call, list(command)))


class RayTask:
    """A task of Ray."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self.ray, self.reference = ray, reference

    def done(self) -> bool:
        """Return whether it has ended."""
        return bool(self.ray.wait([self.reference], timeout=0)[0])

    def result(self) -> int:
        """Return the exit code, -1 where Ray lost the task."""
        try:
            return int(self.ray.get(self.reference))
        except Exception as err:
            print(f"a task of Ray: {err}", flush=True)
            return -1

    def stop(self) -> None:
        """Cancel the task."""
        self.ray.cancel(self.reference, force=True)


class Ray:
    """Tasks of a Ray cluster, the one that RAY_ADDRESS names or a new one on this machine."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.ray = _needed("ray")
        self.ray.init(ignore_reinit_error=True)
        self.call = self.ray.remote(**{"num_cpus": 1, "max_retries": 0, **options})(subprocess.call)

    def submit(self, command: Sequence[str]) -> RayTask:
        """Queue a command."""
        return RayTask(self.ray, self.call.remote(list(command)))


def find_engine(name: str, out: Path, options: Mapping[str, Any]) -> Engine:
    """Return the engine `local`, `slurm` or `ray`; raise UserError where its package is not installed."""
    if name == "slurm":
        return Slurm(out, options)
    return Ray(options) if name == "ray" else Local()


def _needed(package: str) -> Any:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"the package {package} is not installed", f"pip install {package}")
    return importlib.import_module(package)
