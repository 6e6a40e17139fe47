"""Node and a browser as devices: what the host does with them, by stand-ins; the real ones where they are installed."""

from __future__ import annotations

import base64
import json
import os
import queue
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from profile_bundle import sha256, write_plan
from profile_run_sample import exported_run

from rmtkd_edge.config.hardware import load_profile
from rmtkd_edge.config.settings import shipped_folder
from rmtkd_edge.errors import Finding, ProviderError, RmtkdError, UserError
from rmtkd_edge.profile import javascript_session, transport_javascript
from rmtkd_edge.profile.bundle import write_bundle
from rmtkd_edge.profile.identity import refuse_device
from rmtkd_edge.profile.javascript_links import Limits, NodeLink, PageLink, family
from rmtkd_edge.profile.javascript_server import ISOLATION, PageServer
from rmtkd_edge.profile.measuring import basics, execute, quality, store
from rmtkd_edge.profile.options import BundleOptions, ProfileOptions
from rmtkd_edge.profile.reach import Reach, carry_out
from rmtkd_edge.profile.stage import profile_run
from rmtkd_edge.profile.transport_javascript import Tools, find_tools, run_javascript
from rmtkd_edge.run.reporter import SilentReporter

SCRIPTS = shipped_folder("tools/javascript")

# Stands in for node on node.mjs: the same commands and answers, by onnxruntime of Python.
STAND_IN = """
import base64, json, sys, time
from pathlib import Path
import numpy as np, onnxruntime
bundle, sessions = Path(sys.argv[3]), []
def feeds(inputs):
    return {i["name"]: np.frombuffer((bundle / i["file"]).read_bytes(), i["type"]).reshape(i["dims"]) for i in inputs}
def answer(c):
    if c["what"] == "hello":
        return {"timer_resolution_ns": 1000, "node": "0"}
    if c["what"] == "open":
        if "REFUSED" in c["file"]:
            return {"error": "no kernel for MatMulInteger"}
        s = onnxruntime.InferenceSession(str(bundle / c["file"]), providers=["CPUExecutionProvider"])
        sessions.append(s)
        names = {"inputs": [i.name for i in s.get_inputs()], "outputs": [o.name for o in s.get_outputs()]}
        return {"session": len(sessions) - 1, "ms": 1.5, **names}
    s = sessions[c["session"]]
    if c["what"] == "run":
        values = dict(zip([o.name for o in s.get_outputs()], s.run(None, feeds(c["inputs"]))))
        told = {n: {"type": str(v.dtype), "dims": v.shape, "data": base64.b64encode(v.tobytes()).decode()}
                for n, v in values.items()}
        return {"outputs": told, "page_ms": 7.0}
    return {"ns": [500_000] * c["runs"], "wall_ns": 500_000 * c["runs"], "cpu_ns": 500_000 * c["runs"]}
print("a library prints", flush=True)
for line in sys.stdin:
    c = json.loads(line)
    print(json.dumps({"id": c["id"], **answer(c)}), flush=True)
"""


def stand_in(folder: Path, script: str = STAND_IN) -> Tools:
    """Tools whose `node` is a Python script."""
    folder.mkdir()
    (folder / "stand_in.py").write_text(script)
    binary = folder / "node"
    binary.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder}/stand_in.py" "$@"\n')
    binary.chmod(0o755)
    return Tools("node", str(binary), "v0", folder, "1.0", SCRIPTS)


def test_the_same_document_as_the_runners(tmp_path: Path) -> None:
    plan, events = write_plan(tmp_path / "b"), []
    document = run_javascript(plan.parent, tmp_path / "kept/r.json", stand_in(tmp_path / "t"), progress=events.append)
    here = execute.measure(plan, tmp_path / "here.json", lambda *a, **k: None)
    assert document == json.loads((tmp_path / "kept/r.json").read_text())
    assert document["complete"] and document["digest"] == store.digest_of(document)
    for ours, theirs in zip(document["results"], here["results"], strict=True):
        assert set(theirs) <= set(ours) and set(theirs["latency"]) == set(ours["latency"])
        assert ours["latency"]["rounds_ns"] == [[500_000] * 2] * 6
        assert ours["verification"]["max_rel_diff"] <= 1e-6
        assert ours["memory"]["peak_rss_bytes"] is not None or ours["memory"]["why"]
        assert ours["cold_start"]["session_ms"] == 1.5
    env = document["env"]
    assert env["onnxruntime"] == "1.0" and env["runtime"] == "onnxruntime-node" and "python" not in env
    assert {e["event"] for e in events} == {"start", "round", "probe", "done"}
    assert any("clock" in note for note in document["notes"]) is False  # 1 us of 500 us


def test_outputs_that_differ_are_refused(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "b")
    with np.load(tmp_path / "b/reference.npz") as stored:
        moved = {k: stored[k] * np.float32(1.01) for k in stored.files}
    np.savez(tmp_path / "b/reference.npz", **moved)
    with pytest.raises(Finding, match="outputs differ"):
        run_javascript(plan.parent, tmp_path / "r.json", stand_in(tmp_path / "t"))


def renamed(plan: Path, precision: str) -> Path:
    """The plan with its second model under a name that the stand-in refuses."""
    document = json.loads(plan.read_text())
    document["models"][1].update(file="REFUSED.onnx", precision=precision, role="candidate")
    (plan.parent / "B.onnx").rename(plan.parent / "REFUSED.onnx")
    plan.write_text(json.dumps(document))
    return plan


def test_an_int8_file_that_does_not_load_is_a_note_and_fp32_a_refusal(tmp_path: Path) -> None:
    tools = stand_in(tmp_path / "t")
    document = run_javascript(renamed(write_plan(tmp_path / "b"), "int8").parent, tmp_path / "r.json", tools)
    assert [r["label"] for r in document["results"]] == ["A"]
    assert "no kernel for MatMulInteger" in document["notes"][0]
    with pytest.raises(RmtkdError, match="no kernel"):
        run_javascript(renamed(write_plan(tmp_path / "c"), "fp32").parent, tmp_path / "r2.json", tools)


@pytest.mark.parametrize(
    ("script", "limits", "error", "says"),
    [
        ("import sys\nsys.exit('out of luck')\n", {}, RmtkdError, "out of luck"),
        ("import time\ntime.sleep(60)\n", {"stall_s": 0.2}, UserError, "said nothing for"),
        ("import time\ntime.sleep(60)\n", {"timeout_s": 0.2}, UserError, "the time was up"),
    ],
)
def test_a_runtime_that_ends_or_hangs_is_an_error_and_is_stopped(
    tmp_path: Path, script: str, limits: dict[str, float], error: type[Exception], says: str
) -> None:
    tools, begun = stand_in(tmp_path / "t", script), time.monotonic()
    with pytest.raises(error, match=says):
        run_javascript(write_plan(tmp_path / "b").parent, tmp_path / "r.json", tools, **limits)
    assert time.monotonic() - begun < 20


def test_a_stopped_link_leaves_no_process(tmp_path: Path) -> None:
    tools = stand_in(tmp_path / "t")
    link = NodeLink(tools.binary, SCRIPTS / "node.mjs", tmp_path, tmp_path, Limits(None, 20.0))
    assert link.call("hello")["node"] == "0"
    pid = link.process.pid
    link.stop()
    assert link.process.poll() is not None
    assert not Path(f"/proc/{pid}").exists() or not Path("/proc").exists()


# ---- the server, and a page that is played by a plain HTTP client ----


def ask(url: str, body: bytes | None = None) -> tuple[int, bytes, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as got:
            return got.status, got.read(), got.headers
    except urllib.error.HTTPError as err:
        return err.code, b"", err.headers


def test_only_the_page_reads_and_only_the_folders(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open/page.mjs").write_text("1")
    (tmp_path / "secret").write_text("no")
    (tmp_path / "open/link").symlink_to(tmp_path / "secret")
    replies: queue.Queue[dict[str, Any]] = queue.Queue()
    server = PageServer({"js": tmp_path / "open"}, replies)
    try:
        code, body, headers = ask(server.url + "/js/page.mjs?x=1")
        assert (code, body) == (200, b"1") and headers["Content-Type"] == "text/javascript"
        assert all(headers[name] == value for name, value in ISOLATION.items())
        port = server.http.server_port
        for bad in ("/js/../../secret", "/js/%2e%2e/secret", "/js/link", "/js", "/other/page.mjs", "/"):
            assert ask(server.url + bad)[0] == 404
        assert ask(f"http://127.0.0.1:{port}/guess/js/page.mjs")[0] == 404
        assert ask(f"http://127.0.0.1:{port}/guess/reply", b"{}")[0] == 404
        assert ask(server.url + "/reply", b"[")[0] == 400
        assert replies.empty()
        assert ask(server.url + "/reply", b'{"id": 3}')[0] == 204
        assert replies.get(timeout=1) == {"id": 3}
        server.commands.put({"what": "hello"})
        assert json.loads(ask(server.url + "/next")[1]) == {"what": "hello"}
    finally:
        server.stop()


def fake_browser(folder: Path) -> Path:
    """A program that takes a browser's options and is the page: fetches commands, posts what STAND_IN answers."""
    script = STAND_IN.split("print(", 1)[0].replace("Path(sys.argv[3])", 'Path(sys.argv[0]).parent / "b"') + (
        "import urllib.request\n"
        "base = sys.argv[-1].split('/js/')[0]\n"
        "while True:\n"
        "    c = json.loads(urllib.request.urlopen(base + '/next').read())\n"
        "    reply = {**answer(c), 'id': c['id'], 'wasm_threads': THREADS}\n"
        "    if 'cpu_ns' in reply: reply['cpu_ns'] = None\n"
        "    urllib.request.urlopen(base + '/reply', json.dumps(reply).encode()).read()\n"
    )
    (folder / "page.py").write_text(script)
    binary = folder / "chromium"
    binary.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder}/page.py" "$@"\n')
    binary.chmod(0o755)
    return binary


@pytest.mark.parametrize("threads", [1, 4])
def test_a_page_that_posts_its_blocks(tmp_path: Path, threads: int) -> None:
    binary = fake_browser(tmp_path)
    page = tmp_path / "page.py"
    page.write_text(f"THREADS = {threads}\n" + page.read_text())
    (tmp_path / "onnxruntime-web/dist").mkdir(parents=True)
    tools = Tools("browser", str(binary), "Chromium 1", tmp_path, "1.0", SCRIPTS)
    plan = write_plan(tmp_path / "b", provider="WasmExecutionProvider")
    if threads != 1:  # the plan wants one
        with pytest.raises(ProviderError, match="the page has 4"):
            run_javascript(plan.parent, tmp_path / "r.json", tools)
        return
    document = run_javascript(plan.parent, tmp_path / "r.json", tools)
    for result in document["results"]:
        assert result["cold_start_ms"] == 7.0  # the page's own clock
        assert result["energy"]["why"] == "a browser reads no meter"
        assert result["cpu_s_per_inf"] is None and result["cpu_s_per_inf_why"]  # blocks of a millisecond
        assert result["quality"]["verdict"] != "clean"
        assert result["env"]["spinning"] is None and "spinning" in result["env"]["unread"]
        assert result["env"]["program"] == "Chromium 1"


def test_a_page_that_fails_says_why(tmp_path: Path) -> None:
    link = object.__new__(PageLink)
    link.limits, link.sent, link.replies = Limits(None, 5.0), 0, queue.Queue()
    link._send = lambda command: link.replies.put({"id": None, "error": "no such file"})  # type: ignore[method-assign]
    with pytest.raises(basics.RunnerError, match="no such file"):
        link.call("hello")


# ---- pieces ----


@pytest.mark.parametrize("kind", javascript_session.TYPES)
def test_arrays_keep_their_bytes(tmp_path: Path, kind: str) -> None:
    value = np.arange(6).reshape(2, 3).astype(kind)
    told = javascript_session.write_array(tmp_path, "x", value.T.astype(value.dtype.newbyteorder(">")).T)
    assert told["type"] == kind and told["dims"] == [2, 3]
    data = (tmp_path / told["file"]).read_bytes()
    assert data == value.tobytes()
    back = javascript_session.to_array({**told, "data": base64.b64encode(data).decode()})
    assert (back == value).all()


def test_arrays_of_the_same_bytes_and_other_shapes_are_other_tensors(tmp_path: Path) -> None:
    zeros = [np.zeros(shape, np.int64) for shape in ((8, 42), (7, 48), (8, 42))]
    first, other, again = (javascript_session.write_array(tmp_path, "x", value)["file"] for value in zeros)
    assert first == again != other  # JavaScript keeps tensors by file


def test_odd_types_and_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(basics.RunnerError, match="float16"):
        javascript_session.write_array(tmp_path, "x", np.zeros(2, np.float16))
    with pytest.raises(basics.RunnerError, match="outside"):
        javascript_session.open_session(None, {}, {"file": "../a.onnx"}, tmp_path)  # type: ignore[arg-type]


def test_quality_is_never_clean_where_processor_time_is_unknown() -> None:
    nothing = dict.fromkeys(("ticks_total", "ticks_busy", "ticks_steal", "quota", "throttle", "capped", "waited_ns"))
    block = {"ns": [2 * 10**7] * 50, "cpu_ns": None, "wall_ns": 10**9, "joules": {}, "machine": [nothing, nothing]}
    found = quality.quality([block], {"provider": "WasmExecutionProvider", "threads": 1}, 2)
    assert found["verdict"] == "unknown" and found["reasons"] and "cpu_wall_ratio" in found["unread"]
    slow = quality.quality([{**block, "cpu_ns": 10**8}], {"provider": "WasmExecutionProvider", "threads": 1}, 2)
    assert slow["verdict"] == "contended"


def test_what_is_missing_is_named_with_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_javascript.shutil, "which", lambda name: None)
    for transport, says in (("node", "Node.js"), ("browser", "apt install chromium")):
        with pytest.raises(ProviderError) as caught:
            find_tools(transport)
        assert says in caught.value.hint
    monkeypatch.setattr(transport_javascript.shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(ProviderError, match="onnxruntime-node") as caught:
        find_tools("node", tmp_path)
    assert f"npm ci --ignore-scripts --prefix {tmp_path}" in caught.value.hint and "cp " in caught.value.hint


def test_other_ways_to_these_profiles_are_refused(tmp_path: Path) -> None:
    for name in ("node", "web-wasm"):
        profile = load_profile(name)
        refuse_device(profile, None)
        with pytest.raises(UserError, match="this machine"):
            refuse_device(profile, "pi5")
        with pytest.raises(UserError, match="another runtime"):
            write_bundle(exported_run(tmp_path / name), BundleOptions(run=tmp_path, on=profile, out=tmp_path / "out"))


def test_the_family_of_a_process() -> None:
    assert os.getpid() in family(os.getppid()) or not Path("/proc").exists()


def test_every_version_is_pinned_and_every_file_ships() -> None:
    wanted = json.loads((SCRIPTS / "package.json").read_text())["dependencies"]
    locked = json.loads((SCRIPTS / "package-lock.json").read_text())["packages"]
    for name, version in wanted.items():
        assert version[0].isdigit() and locked[f"node_modules/{name}"]["version"] == version
    assert all(entry.get("integrity") for path, entry in locked.items() if path)
    project = SCRIPTS.parent.parent / "pyproject.toml"
    if project.is_file():
        hatch = tomllib.loads(project.read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
        files = {p.name for p in SCRIPTS.iterdir() if p.is_file()}
        assert {Path(source).name for source in hatch if source.startswith("tools/javascript/")} == files


# ---- the real ones ----


def installed(transport: str) -> bool:
    try:
        return find_tools(transport) is not None
    except ProviderError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(("name", "transport"), [("node", "node"), ("web-wasm", "browser")])
def test_the_real_runtime(tmp_path: Path, name: str, transport: str) -> None:
    if not installed(transport):
        pytest.skip(f"{transport} or its onnxruntime is not installed (npm ci --prefix tools/javascript)")
    run = exported_run(tmp_path / "a", external=True)
    profile = load_profile(name).model_copy(update={"threads": 1})
    short: dict[str, Any] = {"quick": True, "batch_sizes": (2,), "lengths": (8,), "min_runs": 5, "min_duration_s": 0.0}
    out = profile_run(run, ProfileOptions(run=run.path, on=profile, timeout_s=300, **short), SilentReporter())
    assert [r.label for r in out.results] == ["rmt-kd fp32", "rmt-kd int8", "original fp32", "original int8"]
    for result in out.results:
        assert result.schema == "rmtkd-edge/result@2" and result.latency.n >= 5
        assert result.env["threads"] == 1 and result.env["timer_resolution_ns"] > 0
        assert result.verification.max_rel_diff <= 1e-4
        assert result.cold_start_ms is not None and result.cold_start_ms > 0
    assert out.comparisons


@pytest.mark.slow
def test_a_model_that_the_real_runtime_cannot_read_is_a_refusal(tmp_path: Path) -> None:
    if not installed("node"):
        pytest.skip("node or onnxruntime-node is not installed (npm ci --prefix tools/javascript)")
    plan = write_plan(tmp_path / "b")
    (tmp_path / "b/A.onnx").write_bytes(b"no model")
    document = json.loads(plan.read_text())
    document["models"][0]["sha256"] = sha256(tmp_path / "b/A.onnx")
    plan.write_text(json.dumps(document))
    with pytest.raises(RmtkdError, match=r"A\.onnx does not load in node"):
        carry_out(tmp_path / "b", tmp_path / "r.json", load_profile("node"), Reach())
