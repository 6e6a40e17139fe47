"""The ssh transport against a real sshd on this machine, under its own keys and port, cut off in the middle."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from profile_bundle import write_plan
from profile_run_sample import exported_run

from rmtkd_edge.api.profile import ProfileOptions, profile_run
from rmtkd_edge.config.hardware import load_profile
from rmtkd_edge.errors import ProviderError, RmtkdError, UserError
from rmtkd_edge.profile import reach, transport_ssh
from rmtkd_edge.profile.identity import refuse_device
from rmtkd_edge.profile.measuring.store import digest_of
from rmtkd_edge.profile.plan import copy_runner
from rmtkd_edge.profile.transport_ssh import FOLDER, Target, Waiting, make_target, run_over_ssh
from rmtkd_edge.run.directory import Run

SOON = Waiting(poll_s=0.1)
SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
needs_sshd = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None, reason="no sshd here: apt-get install openssh-server"
)


class Server:
    """An sshd on a port of its own with one key; `home` is what its sessions take for the home folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        for name in ("host", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        (folder / "authorized").write_text((folder / "key.pub").read_text())
        public = " ".join((folder / "host.pub").read_text().split()[:2])
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {public}\n")
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\n"
            f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            f"PidFile none\nSetEnv HOME={self.home}\n"
        )
        (folder / "ssh_config").write_text(
            f"Host board\n HostName 127.0.0.1\n Port {self.port}\n User {getpass.getuser()}\n"
            f" IdentityFile {folder}/key\n IdentitiesOnly yes\n UserKnownHostsFile {folder}/known\n"
            " StrictHostKeyChecking yes\n"
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.target = Target("board", sys.executable, ("-F", str(folder / "ssh_config")))

    def start(self) -> None:
        """Listen, and wait until it does."""
        assert SSHD is not None
        log = self.folder / "log"
        command = [SSHD, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(log)]
        self.process = subprocess.Popen(command, start_new_session=True)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.process.poll() is not None:
                pytest.skip(f"sshd does not start here: {log.read_text()[-200:] if log.exists() else 'no log'}")
            time.sleep(0.05)

    def cut(self) -> None:
        """Drop every connection, and listen no more."""
        if self.process is not None and self.process.poll() is None:
            children = subprocess.run(
                ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False
            )
            for pid in children.stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            self.process.kill()
            self.process.wait()


def started(folder: Path) -> Server:
    """Return a server that lets us in, or skip."""
    made = Server(folder)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    made.start()
    try:
        home = made.target.run("echo $HOME").decode().strip()
    except (UserError, transport_ssh.ConnectionLost) as err:
        made.cut()
        pytest.skip(f"sshd lets nobody in here: {err}")
    if home != str(made.home):
        made.cut()
        pytest.skip(f"this sshd does not set HOME ({home})")
    return made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = started(tmp_path / "sshd")
    yield made
    made.cut()


def bundle_of(path: Path, **changes) -> Path:
    plan = write_plan(path, **changes)
    copy_runner(path)
    return plan.parent


def left_over(server: Server) -> set[str]:
    folder = server.home / FOLDER
    return {p.relative_to(folder).parts[0] for p in folder.rglob("*") if p.is_file()}


@needs_sshd
def test_there_and_back_sending_only_what_changed(server: Server, tmp_path: Path) -> None:
    events: list[dict] = []
    bundle = bundle_of(tmp_path / "b")
    found = run_over_ssh(bundle, tmp_path / "r.json", server.target, events.append, SOON)
    assert found["complete"] and json.loads((tmp_path / "r.json").read_text()) == found
    assert {r["label"] for r in found["results"]} == {"A", "B"}
    assert {e["event"] for e in events} >= {"send", "start", "round", "done"}
    assert left_over(server) == {"store"}
    again: list[dict] = []
    run_over_ssh(bundle_of(tmp_path / "c", seed=5), tmp_path / "s.json", server.target, again.append, SOON)
    assert [e["text"].split()[2] for e in again if e["event"] == "send"] == ["plan.json"]


@needs_sshd
def test_a_cut_connection_neither_stops_the_runner_nor_loses_it(server: Server, tmp_path: Path) -> None:
    bundle, rounds = bundle_of(tmp_path / "b", rounds=4, min_runs=4, min_duration_s=4.0), []

    def cut_once(event: dict) -> None:
        if event["event"] == "round" and not rounds:
            rounds.append(event)
            server.cut()
            threading.Timer(1.0, server.start).start()

    found = run_over_ssh(bundle, tmp_path / "r.json", server.target, cut_once, SOON)
    assert rounds and found["complete"]
    blocks = [len(r["latency"]["rounds_ns"]) for r in found["results"]]
    assert blocks == [4] * len(blocks)


@needs_sshd
def test_out_of_patience_the_same_command_picks_the_runner_up(server: Server, tmp_path: Path) -> None:
    bundle, results = bundle_of(tmp_path / "b", rounds=4, min_runs=4, min_duration_s=6.0), tmp_path / "r.json"

    def cut(event: dict) -> None:
        if event["event"] == "round":
            server.cut()

    with pytest.raises(UserError, match="cannot be reached") as caught:
        run_over_ssh(bundle, results, server.target, cut, Waiting(patience_s=1.0, poll_s=0.1))
    assert "keeps running" in caught.value.hint and not results.exists()
    server.start()
    with pytest.raises(UserError, match="not finished within"):
        run_over_ssh(bundle, results, server.target, waiting=Waiting(0.0, poll_s=0.1))
    events: list[dict] = []
    found = run_over_ssh(bundle, results, server.target, events.append, SOON)
    assert found["complete"] and sum(e["event"] == "start" for e in events) == 1
    assert "send" not in {e["event"] for e in events}


@needs_sshd
def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "b")
    digest = transport_ssh.sha256_file(bundle / "A.onnx")
    store = server.home / FOLDER / "store"
    store.mkdir(parents=True)
    whole = (bundle / "A.onnx").read_bytes()
    (store / f"{digest}.part").write_bytes(whole[:100])
    transport_ssh._append(bundle / "A.onnx", digest, server.target)
    assert (store / digest).read_bytes() == whole and not (store / f"{digest}.part").exists()
    (store / digest).unlink()
    (store / f"{digest}.part").write_bytes(b"x" * 50)  # a part of something else: thrown away, sent again
    with pytest.raises(transport_ssh.ConnectionLost, match="damaged"):
        transport_ssh._append(bundle / "A.onnx", digest, server.target)
    transport_ssh._append(bundle / "A.onnx", digest, server.target)
    assert (store / digest).read_bytes() == whole


@needs_sshd
def test_a_killed_runner_and_a_refusal_are_told_and_nothing_is_lost(server: Server, tmp_path: Path) -> None:
    bundle, results = bundle_of(tmp_path / "b", rounds=4, min_runs=4, min_duration_s=6.0), tmp_path / "r.json"

    def kill(event: dict) -> None:
        if event["event"] == "round":
            for pid in (server.home / FOLDER / "jobs").glob("*/pid"):
                subprocess.run(["pkill", "-KILL", "-P", pid.read_text().strip()], check=False)
                os.kill(int(pid.read_text()), signal.SIGKILL)

    with pytest.raises(RmtkdError, match=r"was killed|ended with code 137") as caught:
        run_over_ssh(bundle, results, server.target, kill, SOON)
    assert "repeat the command" in caught.value.hint
    events: list[dict] = []
    assert run_over_ssh(bundle, results, server.target, events.append, SOON)["complete"]
    assert any("continued" in e["text"] for e in events if e["event"] == "start")
    wrong = bundle_of(tmp_path / "w", provider="NoSuchExecutionProvider")
    with pytest.raises(ProviderError, match="NoSuch"):
        run_over_ssh(wrong, tmp_path / "w.json", server.target, waiting=SOON)


@needs_sshd
def test_unknown_keys_missing_packages_and_strangers_get_their_hint(server: Server, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "b")
    no_python = Target("board", "no-such-python", server.target.options)
    with pytest.raises(ProviderError, match="cannot run the measurement"):
        run_over_ssh(bundle, tmp_path / "r.json", no_python, waiting=Waiting(patience_s=1.0))
    (server.folder / "known").write_text("")
    with pytest.raises(UserError, match="Host key verification failed") as caught:
        run_over_ssh(bundle, tmp_path / "r.json", server.target, waiting=Waiting(patience_s=1.0))
    assert "ssh board" in caught.value.hint


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "", "a b", "a;b", "$(x)"])
def test_a_host_is_never_an_option_or_a_command(host: str) -> None:
    with pytest.raises(UserError, match="no host name"):
        make_target(host)


def test_results_that_were_altered_on_the_way_are_refused() -> None:
    document = {"complete": True, "results": [1.5]}
    transport_ssh.refuse_altered({**document, "digest": digest_of(document)}, "pi5")
    for odd in (document, {**document, "results": [1.4], "digest": digest_of(document)}):
        with pytest.raises(UserError, match="pi5"):
            transport_ssh.refuse_altered(odd, "pi5")


def test_hosts_are_names_users_and_addresses() -> None:
    for host in ("pi5", "pi@raspberrypi.local", "fe80::1%eth0", "10.0.0.7"):
        assert make_target(host).host == host


def test_a_remote_device_has_threads_of_its_own() -> None:
    refuse_device(load_profile("raspberry-pi-5"), "pi5")
    for name, says in (("generic-x86-avx2", "threads"), ("local-cpu", "describes the machine")):
        with pytest.raises(UserError, match=says):
            refuse_device(load_profile(name), "box")
    with pytest.raises(UserError, match="how to reach"):
        refuse_device(load_profile("raspberry-pi-5"), None)


@needs_sshd
def test_two_devices_are_measured_at_a_time_and_a_third_that_fails_costs_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = started(tmp_path / "sshd-2")
    nowhere = Target("nowhere.invalid", sys.executable)
    targets = {"one": server.target, "two": other.target, "three": nowhere}
    monkeypatch.setattr(reach, "make_target", lambda name, **_: targets[name])
    exported_run(tmp_path / "a")
    for name in targets:
        (tmp_path / f"{name}.toml").write_text(
            f'name = "{name}"\ntitle = "D"\ntransport = "ssh"\nhost = "{name}"\ncomparable = false\nthreads = 1\n'
            "[alignment]\ngemm = 1\nconv = 1\n[workloads]\nbatches = [1]\nseq = [8]\n"
        )
    names = [str(tmp_path / f"{name}.toml") for name in targets]
    spans: dict[str, list[float]] = {}

    class Watch:
        def event(self, kind: str, **facts) -> None:
            spans.setdefault(facts["device"], []).append(time.monotonic())

    with pytest.raises(UserError, match="nowhere") as caught:
        profile_run(
            ProfileOptions(run=tmp_path / "a", on=tuple(names), quick=True, min_runs=40, min_duration_s=1.0), Watch()
        )
    other.cut()
    assert "measured and kept" in caught.value.message
    run = Run.open(tmp_path / "a")
    for name in ("one", "two"):
        assert len(run.read_json(f"profile/{name}.json")["results"]) == 4
    assert not run.has("profile/three.json")
    assert max(spans["one"][0], spans["two"][0]) < min(spans["one"][-1], spans["two"][-1]), "they ran side by side"
