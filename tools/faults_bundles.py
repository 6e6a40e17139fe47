"""Bundles whose files lead elsewhere or never end: nothing outside is read, written or removed, and nothing hangs."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from faults_data import Case
from faults_trials import Tally, call, refusal, rmtkd_edge

from rmtkd_edge.hashing import sha256_file
from rmtkd_edge.profile.measuring.command import main as runner

Fault = Callable[[Path, Path], object]  # of a bundle's folder, and a stranger's file outside
TERABYTE = 2**40


def replaced(name: str, put: Callable[[Path, Path], object]) -> Fault:
    """Return a fault that puts something in the place of a file of the bundle."""

    def fault(bundle: Path, stranger: Path) -> None:
        (bundle / name).unlink(missing_ok=True)
        put(bundle / name, stranger)

    return fault


def link(place: Path, stranger: Path) -> None:
    """Put a link to the stranger's file."""
    place.symlink_to(stranger)


def device(place: Path, _: Path) -> None:
    """Put a device that never ends: one of our own as root, who could harm the system's by a link."""
    if os.geteuid() == 0:
        os.mknod(place, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    else:
        place.symlink_to("/dev/zero")


def pipe(place: Path, _: Path) -> None:
    """Put a pipe that nobody writes to."""
    os.mkfifo(place)


def folder(place: Path, _: Path) -> None:
    """Put a folder."""
    place.mkdir()


def bomb(place: Path, _: Path) -> None:
    """Put a file of a terabyte that takes no space."""
    with open(place, "wb") as file:
        file.truncate(TERABYTE)


def deep(place: Path, _: Path) -> None:
    """Put JSON that is nested a hundred thousand deep."""
    place.write_text("[" * 100_000)


def plan(**changes: str) -> Fault:
    """Return a fault that names a stranger's file, with its own hash, in the plan."""

    def fault(bundle: Path, stranger: Path) -> None:
        document = json.loads((bundle / "plan.json").read_text())
        rel = {"up": os.path.relpath(stranger, bundle), "absolute": str(stranger)}[changes["how"]]
        part = document["models"][0] if changes["what"] == "model" else document
        key = "file" if changes["what"] == "model" else changes["what"]
        part[key] = rel
        if changes["what"] == "model":
            part["sha256"] = sha256_file(stranger)
        (bundle / "plan.json").write_text(json.dumps(document))

    return fault


def listed(how: str) -> Fault:
    """Return a fault that names a stranger's file in the bundle's list of its own files."""

    def fault(bundle: Path, stranger: Path) -> None:
        document = json.loads((bundle / "bundle.json").read_text())
        document["files"].append({"up": os.path.relpath(stranger, bundle), "absolute": str(stranger)}[how])
        (bundle / "bundle.json").write_text(json.dumps(document))

    return fault


def linked_folder(bundle: Path, stranger: Path) -> None:
    """Put a link to the stranger's folder in the place of one that the list has a file of that name in."""
    shutil.rmtree(bundle / "models")
    (bundle / "models").symlink_to(stranger.parent)
    document = json.loads((bundle / "bundle.json").read_text())
    document["files"].append(f"models/{stranger.name}")
    (bundle / "bundle.json").write_text(json.dumps(document))


def archive(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> Fault:
    """Return a fault that puts an archive with such a member before the list in the place of ours."""

    def fault(bundle: Path, stranger: Path) -> None:
        member = tarfile.TarInfo({"up": "../stranger/stranger.txt", "absolute": str(stranger)}.get(name, name))
        member.type, member.linkname, member.size = kind, str(stranger), size
        place = bundle.with_name(bundle.name + ".tar.gz")
        with tarfile.open(place, "w:gz") as tar, open("/dev/zero", "rb") as zeros:
            tar.addfile(member, zeros if size else None)
            tar.addfile(tarfile.TarInfo(f"{bundle.name}/bundle.json"))

    return fault


RUNNER: dict[str, Fault] = {  # read by runner.py on the device
    **{
        f"{what} {how}": plan(what=what, how=how)
        for what in ("model", "inputs", "reference")
        for how in ("up", "absolute")
    },
    **{
        f"{name} is a {put.__name__}": replaced(name, put)
        for name in ("plan.json", "inputs.npz", "reference.npz", "results.json")
        for put in (link, device, pipe, folder, bomb, deep)
    },
}
HOST: dict[str, Fault] = {  # replaced by `bundle --force` here
    **{f"list {how}": listed(how) for how in ("up", "absolute")},
    "a folder is a link": linked_folder,
    **{
        f"{name} is a {put.__name__}": replaced(name, put)
        for name in ("bundle.json", "plan.json")
        for put in (link, device, pipe, folder, bomb, deep)
    },
    "archive up": archive("up"),
    "archive absolute": archive("absolute"),
    "archive with a link": archive("bundle/a", tarfile.SYMTYPE),
    "archive with a hard link": archive("bundle/a", tarfile.LNKTYPE),
    "archive with a device": archive("bundle/a", tarfile.CHRTYPE),
    "archive is a bomb": archive("bundle/a", size=2**31),
}
RESULTS: dict[str, Callable[[Path, Path], object]] = {
    put.__name__: put for put in (link, device, pipe, folder, bomb, deep)
}  # read by `collect`


def bundles(case: Case, work: Path) -> Iterator[Tally]:
    """Try every fault with the command that meets it; a stranger's folder next to the bundle must stay as it is."""
    profile = work / "board.toml"
    run, home, log = work / "hostile-run", work / "hostile", work / "log.txt"
    bundle, file = home / "bundle", home / "measured.json"
    commands = {
        "runner.py": (RUNNER, [str(bundle / "plan.json"), str(bundle / "results.json")], runner),
        "bundle --force": (HOST, [*case.bundled(profile, bundle), "--force"], rmtkd_edge),
        "collect": (
            {k: replaced("../measured.json", put) for k, put in RESULTS.items()},
            ["collect", str(run), str(file), "--force"],
            rmtkd_edge,
        ),
    }
    for name, (faults, argv, program) in commands.items():
        tally = Tally(f"{case.name}: hostile bundles, {name}")
        for what, fault in faults.items():
            shutil.rmtree(home, ignore_errors=True)
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(case.whole, run)
            stranger = home / "stranger" / "stranger.txt"
            stranger.parent.mkdir(parents=True)
            stranger.write_text("not yours")
            shutil.copytree(case.bundle, bundle)
            shutil.copy(case.bundle.with_name(case.bundle.name + ".tar.gz"), home / "bundle.tar.gz")
            fault(bundle, stranger)
            told = refusal(call(argv, log, program=program), log, (0, 2))
            if stranger.read_text() != "not yours" or len(list(stranger.parent.iterdir())) != 1:
                told = "the stranger's file was changed"
            tally.note(told and f"{what}: {told}")
        yield tally
    yield packed(case)


def packed(case: Case) -> Tally:
    """Look through the archive that we write: plain files and folders under one name."""
    tally = Tally(f"{case.name}: members of our own archive")
    with tarfile.open(case.bundle.with_name(case.bundle.name + ".tar.gz")) as tar:
        for member in tar:
            good = (member.isfile() or member.isdir()) and member.name.split("/")[0] == case.bundle.name
            tally.note("" if good and ".." not in member.name.split("/") else member.name)
    return tally
