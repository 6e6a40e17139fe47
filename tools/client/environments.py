"""Pinned environments of the clients: made by one command, found again by the tool and the tests."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
JAVASCRIPT = HERE.parent / "javascript"
PLACE = "RMTKD_CLIENTS"  # an environment variable: the folder of the environments
DEFAULT = "~/.cache/rmtkd-edge/clients"
PINS = "pins.txt"  # in an environment: what it was made from, written last
TORCH = ("torch", "torchgen", "nvidia", "triton", "sympy", "mpmath", "networkx", "jinja2", "markupsafe")
HEADERS = "com.github.asus4.onnxruntime@0.4.9"  # of PyPI and npm, the one that has the C headers
HEADERS_IN = "/ios-arm64/onnxruntime.framework/Headers"
HEADERS_SHA256 = "1bddd979e97e291804aa4cf4460d196f94d46d4a0eaeb545f446e4198c31ef77"


class Missing(Exception):
    """A client cannot be run here; says why, and what to type."""


@dataclass(frozen=True)
class Environment:
    """One environment.

    Attributes:
        pins: the text that fixes its versions; an environment of other pins is made anew.
        needs: programs that have to be on PATH to make it.
    """

    name: str
    pins: str
    needs: tuple[str, ...]
    make: Callable[[Path], None]


def default_place() -> Path:
    """Return the folder of the environments."""
    return Path(os.environ.get(PLACE) or DEFAULT).expanduser()


def program(*names: str) -> str:
    """Return the first of some programs that is on PATH; raise Missing where there is none."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise Missing(f"none of {', '.join(names)} is on PATH" if len(names) > 1 else f"{names[0]} is not on PATH")
    return found


def find(name: str, place: Path) -> Path:
    """Return the folder of an environment; raise Missing where it is not there, or was made from other pins."""
    folder = place / name
    try:
        current = (folder / PINS).read_text(encoding="utf-8") == ENVIRONMENTS[name].pins
    except OSError:
        current = None
    if not current:
        what = "is not there" if current is None else "has other versions"
        raise Missing(f"{folder} {what}: python tools/clients.py --setup --environments {place}")
    return folder


def set_up(name: str, place: Path) -> bool:
    """Make an environment where it is not there; return whether anything was done.

    Raises Missing where a program is not there, CalledProcessError or RuntimeError where one fails.
    """
    try:
        find(name, place)
    except Missing:
        environment = ENVIRONMENTS[name]
        for needed in environment.needs:
            program(needed)
        folder = place / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        environment.make(folder)
        (folder / PINS).write_text(environment.pins, encoding="utf-8")
        return True
    return False


def _run(command: Sequence[str | Path], folder: Path) -> None:
    subprocess.run([str(part) for part in command], cwd=folder, check=True, stdout=sys.stderr)


def _python(folder: Path, lock: Path) -> Path:
    """Make a virtual environment of exactly the packages of a file, and return its site-packages."""
    _run([sys.executable, "-m", "venv", folder], folder)
    _run([folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps", "-r", lock], folder)
    return next(folder.glob("lib/python*/site-packages"))


def _optimum(folder: Path) -> None:
    """Make Optimum's environment; torch, whose wheels take gigabytes, is the one that is installed here."""
    site = _python(folder, HERE / "optimum.txt")
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise Missing("torch is not installed in this Python")
    here = Path(found.origin).parents[1]
    for path in (*(here / name for name in TORCH), *here.glob("torch-*.dist-info")):
        if path.exists():
            (site / path.name).symlink_to(path)


def _openvino(folder: Path) -> None:
    _python(folder, HERE / "openvino.txt")


def _npm(source: Path) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(source / name, folder)
        _run([program("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)

    return make


def _c(folder: Path) -> None:
    """Take the headers out of the package that has them, which is then deleted; the library is onnxruntime-node's."""
    with tempfile.TemporaryDirectory() as work:
        _run([program("npm"), "pack", "--silent", HEADERS], Path(work))
        with tarfile.open(next(Path(work).glob("*.tgz"))) as package:
            for member in package:
                place, _, name = member.name.rpartition("/")
                if place.endswith(HEADERS_IN) and (content := package.extractfile(member)) is not None:
                    (folder / name).write_bytes(content.read())
    if headers_hash(folder) != HEADERS_SHA256:
        raise RuntimeError(f"the headers of {HEADERS} are not those that were looked into")


def headers_hash(folder: Path) -> str:
    """Return one hash of the headers in a folder."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.h")))).hexdigest()


def _text(*paths: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in paths)


ENVIRONMENTS = {
    found.name: found
    for found in (
        Environment("optimum", _text(HERE / "optimum.txt"), (), _optimum),
        Environment("openvino", _text(HERE / "openvino.txt"), (), _openvino),
        Environment(
            "transformers", _text(HERE / "transformers/package-lock.json"), ("npm",), _npm(HERE / "transformers")
        ),
        Environment("javascript", _text(JAVASCRIPT / "package-lock.json"), ("npm",), _npm(JAVASCRIPT)),
        Environment("c", f"{HEADERS} {HEADERS_SHA256}\n", ("npm",), _c),
    )
}
