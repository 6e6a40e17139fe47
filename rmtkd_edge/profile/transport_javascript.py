"""Carry out a bundle with onnxruntime in Node or in a browser of this machine.

The runner is the one that measures in Python: rounds, order, store, verification and results are its own. Only the
sessions are elsewhere; they time their own calls, so that the way to them is no part of a latency.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmtkd_edge.config.settings import shipped_folder
from rmtkd_edge.errors import ProviderError
from rmtkd_edge.profile.javascript_links import Limits, Link, NodeLink, PageLink
from rmtkd_edge.profile.javascript_session import open_session
from rmtkd_edge.profile.measuring import execute, machine, sessions
from rmtkd_edge.profile.measuring.basics import RunnerError, workload_key
from rmtkd_edge.profile.measuring.plan import arrays_of
from rmtkd_edge.profile.measuring.plan_schema import SESSION_DEFAULTS
from rmtkd_edge.profile.transport_local import STALL_S, Progress, refusal

PACKAGES = {"node": "onnxruntime-node", "browser": "onnxruntime-web"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Tools:
    """What measures: `transport` node or browser, its program, onnxruntime's package, and our own scripts."""

    transport: str
    binary: str
    program: str
    modules: Path
    version: str
    scripts: Path


def find_tools(transport: str, folder: Path | None = None) -> Tools:
    """Return what the transport needs; `folder` holds node_modules (None: that of our scripts).

    Raises ProviderError that says what to install.
    """
    scripts = shipped_folder("tools/javascript")
    folder, package = folder or scripts, PACKAGES[transport]
    names = ("node",) if transport == "node" else BROWSERS
    binary = next((found for found in map(shutil.which, names) if found), None)
    if binary is None:
        program = "Node.js 18 or later (nodejs.org" if transport == "node" else "Chromium (sudo apt install chromium"
        what = f"install {program}, or your system's package)"
        raise ProviderError(f"none of {', '.join(names)} is on PATH", what)
    modules = folder.resolve() / "node_modules"
    try:
        version = str(json.loads((modules / package / "package.json").read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError) as err:
        copy = "" if (folder / "package-lock.json").is_file() else f"cp {scripts}/package*.json {folder}/, then "
        raise ProviderError(f"{folder} has no {package}", f"{copy}npm ci --ignore-scripts --prefix {folder}") from err
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=60, check=False)
    program = next(iter(done.stdout.strip().splitlines()), "")
    if done.returncode or not program:
        raise ProviderError(f"{binary} --version ended with {done.returncode}", f"see whether {binary} starts at all")
    return Tools(transport, binary, program, modules, version, scripts)


def run_javascript(
    bundle: Path,
    results: Path,
    tools: Tools,
    progress: Progress | None = None,
    *,
    timeout_s: float | None = None,
    stall_s: float = STALL_S,
) -> dict[str, Any]:
    """Carry out bundle/plan.json and return the runner's document, which stays at `results`.

    What an earlier call left at `results` is continued. Raises what transport_local.run_bundle raises.
    """

    def say(event: str, text: str, **facts: Any) -> None:
        if progress is not None:
            progress({"event": event, "text": text, **facts})

    results.parent.mkdir(parents=True, exist_ok=True)
    end = None if timeout_s is None else time.monotonic() + timeout_s
    engine = JavaScript(tools, bundle.resolve(), Limits(end, stall_s))
    with _ended_in_order():
        try:
            return execute.measure(bundle / "plan.json", results, say, engine)
        except RunnerError as err:
            raise refusal(err.kind, str(err)) from err
        finally:
            engine.close()


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP run what is left to do: a browser would outlive a process that they kill."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    kept = {}
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is signal.SIG_DFL:
            kept[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


class JavaScript(execute.Engine):
    """Sessions in Node or in a page, which stay open: a page would have to be reloaded for every round."""

    reopens = False

    def __init__(self, tools: Tools, bundle: Path, limits: Limits) -> None:
        self.tools, self.bundle, self.limits = tools, bundle, limits
        self.version = f"{PACKAGES[tools.transport]} {tools.version}"
        self.link: Link | None = None
        self.models: list[dict[str, Any]] = []
        self.hello: dict[str, Any] = {}
        if tools.transport == "browser":
            self.no_meter = "a browser reads no meter"
            self.cold_start = "navigation to first output in a fresh browser, median, files served by this machine"
            self.memory = "VmHWM of the page's process minus a page that has loaded the script alone; WebAssembly's own"
            self.memory += " module is in it"

    def start(self, threads: int) -> Link:
        """Return a fresh Node or page; the caller stops it."""
        if self.tools.transport == "node":
            script = self.tools.scripts / "node.mjs"
            return NodeLink(self.tools.binary, script, self.tools.modules, self.bundle, self.limits)
        dist = self.tools.modules / PACKAGES["browser"] / "dist"
        folders = {"js": self.tools.scripts, "ort": dist, "bundle": self.bundle}
        return PageLink(self.tools.binary, folders, threads, self.limits, self.bundle / "browser-stderr.txt")

    def open(self, plan: dict[str, Any], folder: Path) -> tuple[list[Any], list[Any], list[str]]:
        """Return models, sessions and notes; an int8 file that does not load is a note, any other raises."""
        if "modelled" in plan["meters"]:
            raise RunnerError("meter", "the modelled meter counts the processor time of Python, not of JavaScript")
        self.link = self.start(plan["threads"])
        self.hello = self.link.call("hello")
        sessions: list[Any] = []
        notes: list[str] = []
        for model in plan["models"]:
            try:
                session = open_session(self.link, plan, model, folder)
                session.watch_clock(model["label"], int(self.hello["timer_resolution_ns"]), notes)
            except RunnerError as err:
                if model["precision"] != "int8":
                    raise
                notes.append(f"{model['label']} is not measured: {self.version} refuses it, {err}")
                continue
            self.models.append(model)
            sessions.append(session)
        return self.models, sessions, notes

    def environment(self, plan: dict[str, Any], session: Any) -> dict[str, Any]:
        """Return what ran where, with the program and its version, and the clock's step in ns."""
        env = machine.environment(plan, session)
        for key in ("python", "numpy", "unread", *SESSION_DEFAULTS):  # it has none of these settings
            del env[key]
        env.update(onnxruntime=self.tools.version, runtime=PACKAGES[self.tools.transport], program=self.tools.program)
        env["binary"] = self.tools.binary
        env.update(
            {key: value for key, value in self.hello.items() if key not in ("id", "onnxruntime", "wasm_threads")}
        )
        if self.tools.transport == "browser":
            env["threads"], env["spinning"] = session.threads, None  # the WebAssembly build decides how it waits
        return {**env, "unread": [key for key, value in env.items() if value is None]}

    def probe(self, plan_path: Path, pair: tuple[int, int] | None) -> dict[str, Any]:
        """Return memory in bytes and cold start in ms of a fresh Node or page."""
        self.close()
        plan = json.loads(plan_path.read_text(encoding="utf-8"))
        begun = time.monotonic_ns()
        link = self.start(plan["threads"])
        out: dict[str, Any] = {}
        try:
            if pair is None:
                link.call("hello")
            else:
                model, workload = self.models[pair[0]], plan["workloads"][pair[1]]
                session = open_session(link, plan, model, plan_path.parent)
                out.update(session_ms=session.opened["ms"], rss_after_load_bytes=link.memory()[0])
                arrays = arrays_of(plan_path.parent / plan["inputs"], workload_key(workload))
                feeds = sessions.feeds_of(session, arrays, model["file"])
                session.run(None, feeds)
                out["cold_start_ms"] = (time.monotonic_ns() - begun) / 1e6
                if self.tools.transport == "browser":
                    out["cold_start_ms"] = session.page_ms  # the page's own clock begins with the navigation
                for _ in range(3):
                    session.run(None, feeds)
            out["rss_bytes"], out["peak_rss_bytes"] = link.memory()
        finally:
            link.stop()
        return out

    def close(self) -> None:
        """Stop what open() started."""
        if self.link is not None:
            self.link.stop()
            self.link = None
