"""Set up a 64-bit Arm Python with onnxruntime that runs here under user emulation, for the profile arm64-emulated.

    sudo apt install qemu-user-static
    python tools/arm64_python.py ~/.cache/rmtkd-edge/arm64           # some 60 MB from Debian and the package index
    python tools/arm64_python.py ~/.cache/rmtkd-edge/arm64 --check   # versions, as the emulated Python reports them
    rmtkd-edge profile runs/a --on arm64-emulated --python ~/.cache/rmtkd-edge/arm64/python

Needs apt, dpkg-deb and pip, no root and no containers: apt works on a state of its own in DIR/apt, so the packages of
this system stay as they are. What is there already is not fetched again; a broken run continues with the same command.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

# Debian 12 has the Python that wheels are built for (cp311), and no newer C library than they want.
SUITE, PYTHON, TAG = "bookworm", "python3.11", "311"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEBS = (f"{PYTHON}-minimal", f"lib{PYTHON}-stdlib", "libstdc++6", "libgcc-s1")  # apt adds what these depend on
WHEELS = ("numpy", "onnxruntime")
PLATFORMS = [f"manylinux_2_{glibc}_aarch64" for glibc in (28, 27, 26, 24, 17)] + ["manylinux2014_aarch64"]
CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
# What a kernel on that core writes into /proc/cpuinfo: onnxruntime reads it, and would find this processor's otherwise
# (and crashes on it). qemu opens files under its -L folder first. The part number and features are the core's own.
CORES = {
    "cortex-a76": (
        "0xd0b",
        "fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
    "cortex-a72": ("0xd08", "fp asimd aes pmull sha1 sha2 crc32 cpuid"),
}
REPORT = (
    "import json, platform, sys, numpy, onnxruntime; print(json.dumps({'machine': platform.machine(), "
    "'python': platform.python_version(), 'numpy': numpy.__version__, 'onnxruntime': onnxruntime.__version__}))"
)


class SetupError(Exception):
    """Something that is needed is missing; the text says what to type."""


def find_tool(name: str, package: str) -> str:
    """Return the path of a program; raise SetupError with the package that has it."""
    found = shutil.which(name)
    if found is None:
        raise SetupError(f"{name} is not installed: sudo apt install {package}")
    return found


def call(command: list[str], what: str, cwd: Path | None = None) -> None:
    """Run a command; raise SetupError with its last words where it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip())[-500:]
        raise SetupError(f"{what} failed (exit code {done.returncode}); is the network there?\n{last}")


def wheel_versions(text: str) -> dict[str, str]:
    """Return name: version of the wheels from a constraints file; onnxruntime replaces onnxruntime-gpu there."""
    found = {}
    for name in WHEELS:
        line = re.search(rf"^{name}(?:-gpu)?==(\S+)", text, re.MULTILINE)
        if line is None:
            raise SetupError(f"{CONSTRAINTS} names no version of {name}")
        found[name] = line[1]
    return found


def unpack_system(folder: Path) -> None:
    """Fill folder/root with Debian's arm64 Python and the libraries under it."""
    if (folder / "root/usr/bin" / PYTHON).is_file():
        return
    apt, unpack = find_tool("apt-get", "apt"), find_tool("dpkg-deb", "dpkg")
    if not KEYRING.is_file():
        raise SetupError(f"{KEYRING} is not there: sudo apt install debian-archive-keyring")
    state = folder / "apt"
    for part in ("lists/partial", "archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    sources = [(SUITE, "debian"), (f"{SUITE}-security", "debian-security")]
    lines = [
        f"deb [arch=arm64 signed-by={KEYRING}] http://deb.debian.org/{path} {suite} main" for suite, path in sources
    ]
    (state / "sources.list").write_text("\n".join(lines) + "\n", encoding="utf-8")
    own = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "1",
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Cache::archives": state / "archives",
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferencesparts": "-",
        "APT::Keep-Downloaded-Packages": "1",
    }
    options = [part for key, value in own.items() for part in ("-o", f"{key}={value}")]
    call([apt, *options, "update"], "reading Debian's package lists")
    wanted = ["install", "--yes", "--download-only", "--no-install-recommends", *DEBS]
    call([apt, *options, *wanted], "fetching Debian's arm64 packages")
    half = folder / "root.new"
    shutil.rmtree(half, ignore_errors=True)
    for deb in sorted((state / "archives").glob("*.deb")):
        call([unpack, "-x", str(deb), str(half)], f"unpacking {deb.name}")
    relink(half)
    shutil.rmtree(folder / "root", ignore_errors=True)
    half.rename(folder / "root")
    shutil.rmtree(state)


def relink(root: Path) -> None:
    """Make absolute links inside a root relative: the emulator follows them in this system otherwise."""
    for path in sorted(root.rglob("*")):
        if path.is_symlink() and path.readlink().is_absolute():
            target = root / path.readlink().relative_to("/")
            path.unlink()
            path.symlink_to(os.path.relpath(target, path.parent))


def unpack_wheels(folder: Path, versions: dict[str, str]) -> None:
    """Fill folder/site with the aarch64 wheels, unless these versions are there."""
    mark, site = folder / "site.json", folder / "site"
    if site.is_dir() and mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == versions:
        return
    fetched = folder / "wheels"
    where = [part for name in PLATFORMS for part in ("--platform", name)]
    only = ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", TAG]
    wanted = [f"{name}=={version}" for name, version in versions.items()]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(fetched)]
    call([*pip, *only, *where, *wanted], f"fetching {', '.join(wanted)} for aarch64")
    half = folder / "site.new"
    shutil.rmtree(half, ignore_errors=True)
    for wheel in sorted(fetched.glob("*.whl")):
        if any(wheel.name.startswith(f"{name}-{version}-") for name, version in versions.items()):
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(half)
    shutil.rmtree(site, ignore_errors=True)
    half.rename(site)
    shutil.rmtree(fetched)
    mark.write_text(json.dumps(versions), encoding="utf-8")


def write_launcher(folder: Path, emulator: str, core: str) -> Path:
    """Write folder/python, which starts the emulated Python on a core, and return it.

    RMTKD_PYTHON tells runner.py how to start a further Python: the kernel cannot start an Arm file by itself.
    """
    part, features = CORES[core]
    entry = f"BogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
    entry += f"CPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 0\n"
    processors = "\n".join(f"processor\t: {i}\n{entry}" for i in range(os.cpu_count() or 1))
    (folder / "root/proc").mkdir(exist_ok=True)
    (folder / "root/proc/cpuinfo").write_text(f"{processors}\nHardware\t: Arm {core}, emulated\n", encoding="utf-8")
    quoted = {name: shlex.quote(str(value)) for name, value in (("emulator", emulator), ("folder", folder))}
    text = """#!/bin/sh
emulator={emulator} folder={folder}
unset LD_LIBRARY_PATH LD_PRELOAD
RMTKD_PYTHON="$folder/python" PYTHONHOME="$folder/root/usr" PYTHONPATH="$folder/site" PYTHONNOUSERSITE=1
export RMTKD_PYTHON PYTHONHOME PYTHONPATH PYTHONNOUSERSITE
exec "$emulator" -cpu {core} -L "$folder/root" "$folder/root/usr/bin/{python}" "$@"
""".format(**quoted, python=PYTHON, core=core)
    launcher = folder / "python"
    launcher.write_text(text, encoding="utf-8")
    launcher.chmod(0o755)
    return launcher


def check(launcher: Path) -> dict[str, str]:
    """Return machine and versions as the emulated Python reports them; raise SetupError where it does not run."""
    if not launcher.is_file():
        raise SetupError(f"{launcher} is not there: run this without --check first")
    done = subprocess.run([str(launcher), "-c", REPORT], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError(f"{launcher} does not run: {done.stderr.strip()[-500:]}")
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    if found["machine"] != "aarch64":
        raise SetupError(f"{launcher} runs on {found['machine']}, not on aarch64: remove its folder and start again")
    return found


def main() -> int:
    """Set up, or only check; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where root/, site/ and the launcher `python` go")
    parser.add_argument("--check", action="store_true", help="change nothing, print the versions")
    parser.add_argument(
        "--core", choices=CORES, default="cortex-a76", help="cortex-a76: a Raspberry Pi 5's; a72: a 4's"
    )
    args = parser.parse_args()
    folder = args.folder.expanduser().resolve()
    try:
        emulator = find_tool("qemu-aarch64-static", "qemu-user-static")
        if not args.check:
            folder.mkdir(parents=True, exist_ok=True)
            unpack_system(folder)
            unpack_wheels(folder, wheel_versions(CONSTRAINTS.read_text(encoding="utf-8")))
            write_launcher(folder, emulator, args.core)
        versions = check(folder / "python")
    except SetupError as err:
        print(f"arm64_python.py: {err}", file=sys.stderr)
        return 2
    version = subprocess.run([emulator, "--version"], capture_output=True, text=True, check=False).stdout.split("\n")[0]
    print("\n".join([f"{folder / 'python'}:", *(f"  {k} {v}" for k, v in versions.items()), f"  under {version}"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
