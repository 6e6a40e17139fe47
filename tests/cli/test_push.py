"""`rmtkd-edge push` against a hub on this machine: what arrives there, and what is said where there is none."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
from export.conftest import _exported
from export.export_sample import make_text_run

from rmtkd_edge.cli.app import main

REPO = "somebody/small-model"
CARD = {"license": "cc-by-4.0"}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP API as a push asks for; `state` remembers what came."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        state = self.server.state
        state.asked.append((self.path, self.headers.get("Authorization")))
        if state.refuse:
            return self.answer({"error": "no rights"}, 403)
        if self.path == "/api/repos/create":
            wanted = json.loads(body)  # one of the two, as the version of huggingface_hub has it
            private = wanted.get("private", False) or wanted.get("visibility") == "private"
            state.private = private if state.private is None else state.private
            return self.answer({"url": f"{state.url}/{REPO}"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.path.startswith(f"/api/models/{REPO}/preupload/"):
            files = json.loads(body)["files"]
            modes = ["lfs" if f["path"].endswith(state.large) else "regular" for f in files]
            modes_of = [{**f, "uploadMode": m, "shouldIgnore": False} for f, m in zip(files, modes, strict=True)]
            return self.answer({"files": modes_of})
        if self.path == f"/{REPO}.git/info/lfs/objects/batch":
            links = lambda oid: {"upload": {"href": f"{state.url}/object/{oid}"}, "verify": {"href": f"{state.url}/ok"}}
            found = [{**item, "actions": links(item["oid"])} for item in json.loads(body)["objects"]]
            return self.answer({"transfer": "basic", "objects": found})
        if self.path == "/ok":
            told = json.loads(body)
            return self.answer({}, 200 if len(state.objects[told["oid"]]) == told["size"] else 404)
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines:
            if line["key"] == "file":
                state.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            if line["key"] == "lfsFile":
                state.files[line["value"]["path"]] = state.objects[line["value"]["oid"]]
                state.pointers.add(line["value"]["path"])
        done = {"commitOid": "0" * 40, "commitUrl": f"{state.url}/{REPO}/commit/{'0' * 40}"}
        if "create_pr=1" in self.path:
            done["pullRequestUrl"] = f"{state.url}/{REPO}/discussions/1"
        return self.answer(done)

    def do_PUT(self):
        state = self.server.state
        state.asked.append((self.path, self.headers.get("Authorization")))
        state.objects[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({}, 403 if state.full else 200)

    def do_GET(self):
        self.server.state.asked.append((self.path, self.headers.get("Authorization")))
        self.answer(
            {
                "id": REPO,
                "private": bool(self.server.state.private),
                "sha": "0" * 40,
                "tags": [],
                "siblings": [],
                "cardData": CARD,
            }
        )

    def answer(self, value, code=200):
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    url = f"http://127.0.0.1:{server.server_port}"
    server.state = SimpleNamespace(
        asked=[], files={}, objects={}, pointers=set(), large=(), full=False, private=None, refuse=False, url=url
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)  # HF_ENDPOINT, which was read at import
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield server.state
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return _exported(make_text_run(tmp_path_factory.mktemp("push") / "a")).options.run


def push(capsys, *argv):
    with pytest.raises(SystemExit) as left:
        main(["push", *map(str, argv)])
    told = capsys.readouterr()
    return left.value.code, told.out, told.err


def test_what_arrives_is_the_exported_folder_and_its_card(run, hub, capsys):
    code, out, err = push(capsys, run, REPO)
    assert code == 0, err
    record = json.loads((run / "export/rmtkd.json").read_text())
    assert set(hub.files) == {*record["files"], "rmtkd.json", "README.md"}
    for name in {*record["files"], "rmtkd.json"}:
        assert hub.files[name] == (run / "export" / name).read_bytes()
    assert f'snapshot_download("{REPO}")'.encode() in hub.files["README.md"]
    assert {token for path, token in hub.asked if "/commit/" in path} == {"Bearer hf_of_a_test"}
    assert "hf_of_a_test" not in out + err
    assert f"sent to {REPO}: {hub.url}" in out and "note: no licence is stated" in out


LARGE = (".onnx", ".safetensors")


def test_large_files_go_as_objects_and_the_commit_names_them(run, hub, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # Xet's servers are not played here
    hub.large = LARGE
    code, _, err = push(capsys, run, REPO)
    assert code == 0, err
    record = json.loads((run / "export/rmtkd.json").read_text())
    assert hub.pointers == {name for name in record["files"] if name.endswith(LARGE)} and len(hub.pointers) > 2
    assert set(hub.objects) == {record["files"][name] for name in hub.pointers}
    for name in {*record["files"], "rmtkd.json"}:
        assert hub.files[name] == (run / "export" / name).read_bytes()
    assert {token for path, token in hub.asked if path.startswith("/object/")} == {None}  # links that need none


def test_a_large_file_that_is_not_taken_is_told_and_nothing_is_committed(run, hub, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    hub.large, hub.full = LARGE, True
    code, _, err = push(capsys, run, REPO)
    assert code == 2 and "the same command again" in err and ".onnx" in err and "403" in err and hub.files == {}


def test_the_licence_of_a_base_model_is_asked_of_the_hub(run, hub, capsys, monkeypatch):
    found = lambda source, name: run if name == "config.json" else None  # as if it had been downloaded
    monkeypatch.setattr("rmtkd_edge.export.origin._in_cache", found)
    code, out, err = push(capsys, run, REPO)
    assert code == 0, err
    assert b"license: cc-by-4.0" in hub.files["README.md"] and "note: no licence" not in out


def test_a_dry_run_needs_neither_network_nor_token_and_sends_nothing(run, hub, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    code, out, _ = push(capsys, run, REPO, "--dry-run")
    assert code == 0 and hub.asked == [] and f"would go to {REPO}" in out
    assert "pipeline_tag: text-classification" in out and "onnx/model.onnx" in out


def test_a_pull_request_and_a_private_repository(run, hub, capsys):
    code, out, err = push(capsys, run, REPO, "--pull-request", "--private", "--json")
    assert code == 0, err
    assert json.loads(out)["url"] == f"{hub.url}/{REPO}/discussions/1" and hub.private is True


def test_nothing_goes_to_a_public_repository_that_was_to_be_private(run, hub, capsys):
    hub.private = False
    code, _, err = push(capsys, run, REPO, "--private")
    assert code == 2 and "public" in err and hub.files == {}


@pytest.mark.parametrize("case", ["no token", "no hub", "offline", "no rights"])
def test_without_a_hub_the_next_command_is_told(run, hub, capsys, monkeypatch, case):
    if case == "no token":
        monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    elif case == "no hub":
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    elif case == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.refuse = case == "no rights"
    code, _, err = push(capsys, run, REPO)
    said = {"no token": "hf auth login", "no hub": "connection", "offline": "HF_HUB_OFFLINE", "no rights": "HF_TOKEN"}
    assert code == 2 and said[case] in err.partition("try: ")[2] and hub.files == {} and "Traceback" not in err


@pytest.mark.parametrize("repo", ["model", "a/b/c", "a/b c", "../x", "package:x", "-a/b"])
def test_a_name_that_is_no_repository_is_refused(run, hub, capsys, repo):
    argv = [run, "--", repo] if repo.startswith("-") else [run, repo]
    code, _, err = push(capsys, *argv)
    assert code == 2 and "OWNER/NAME" in err and hub.asked == []


def test_what_was_altered_or_never_exported_is_not_sent(run, hub, capsys, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(run / "export", folder)
    (folder / "onnx/notes.txt").write_text("mine")
    assert push(capsys, folder, REPO)[0] == 0 and "onnx/notes.txt" not in hub.files
    hub.files.clear()
    (folder / "config.json").write_text("{}")
    code, _, err = push(capsys, folder, REPO)
    assert code == 2 and "config.json was altered" in err and hub.files == {}
    code, _, err = push(capsys, tmp_path, REPO)
    assert code == 2 and "no exported folder" in err


def test_the_hub_is_the_one_of_the_environment(run, hub):
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_of_a_test", "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    command = [sys.executable, "-m", "rmtkd_edge", "push", str(run), REPO, "--private"]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "README.md" in hub.files and hub.private is True
