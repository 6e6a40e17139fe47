"""Other programs open an exported folder and answer as we do, each in its own environment; the card's code runs.

`python tools/clients.py --setup` makes the environments; without one its tests are skipped, with the reason.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import clients
import numpy as np
import pytest
from client import environments
from client.comparing import Reference, compare
from client.environments import Missing, default_place
from client.running import CLIENTS, Answer, Client, Job, call
from export.conftest import _exported
from export.export_sample import image_rows, make_image_run, make_text_run, text_rows
from PIL import Image

from rmtkd_edge.export.card import card
from rmtkd_edge.export.load import load
from rmtkd_edge.export.origin import Origin

PLACE = default_place()
PAIRS = [row[:2] for row in text_rows("test", pairs=True)]
LONG = ("w1 w2 w3 " * 7, "w4 w5 " * 5)  # is cut off


@pytest.fixture(scope="module")
def portable_text(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return _exported(make_text_run(tmp_path_factory.mktemp("portable") / "a", export={"graph": "portable"}))


@pytest.fixture(scope="module")
def portable_image(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return _exported(make_image_run(tmp_path_factory.mktemp("portable") / "a", export={"graph": "portable"}))


def pictures(run: Path, folder: Path) -> list[str]:
    """Write test rows as files and return their paths."""
    paths = []
    for i, image in enumerate(image_rows("test", load(run).spec.image_size)[0]):
        paths.append(str(folder / f"{i}.png"))
        Image.fromarray(image).save(paths[-1])
    return paths


def places_of(name: str) -> list[Path]:
    """Return the environments of a client; skip the test, with the reason, where they are not there."""
    try:
        return CLIENTS[name].found(PLACE)
    except Missing as err:
        pytest.skip(str(err))


# ---- the real ones ----


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_client_gives_our_outputs_and_labels(
    name: str, modality: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    places_of(name)
    if (name, modality) == ("c", "image"):
        pytest.skip("the example reads token ids")
    run = request.getfixturevalue(f"portable_{modality}" if name == "openvino" else f"{modality}_run").run.path
    items: list[Any] = [*PAIRS, LONG] if modality == "text" else pictures(run, tmp_path)
    for precision in ("fp32", "int8"):
        (tmp_path / precision).mkdir()
        found = compare(CLIENTS[name], PLACE, Reference.of(run / "export", precision, items, 5), tmp_path / precision)
        assert not found.skipped and not found.wrong, found
        assert found.rows + found.cut == len(items) and found.cut == (modality == "text" and not CLIENTS[name].cuts)
        assert found.versions and all(found.versions.values())


SHOWN = {
    "python": "import json\nprint(json.dumps(logits.tolist()))",
    "js": "console.log(JSON.stringify(logits.tolist()))",
}


def as_printed(made: str, title: str, exported: Path, folder: Path, shown: dict[str, str]) -> str:
    """Run the code of a card in a folder with `path/to/this/folder`, and a last line that shows what came of it."""
    (place,) = places_of(title.lower())
    found = re.search(rf"^{title}:\n\n```(\w+)\n(.*?)^```", made, re.DOTALL | re.MULTILINE)
    assert found is not None
    language, code = found.groups()
    shutil.copytree(exported, folder / "path/to/this/folder")
    script = folder / {"python": "snippet.py", "js": "snippet.mjs"}[language]
    script.write_text(f"{code}{shown.get(language, '')}\n")
    if language == "js":
        (folder / "node_modules").symlink_to(place / "node_modules")
    return call(["node" if language == "js" else place / "bin/python", script], folder)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("title", ["Optimum", "transformers.js"])
def test_the_cards_code_for_texts_runs_as_it_is_printed(
    title: str, columns: int, text_run: SimpleNamespace, tmp_path: Path
) -> None:
    folder, made = text_run.run.path / "export", card(text_run.record, Origin(columns=columns))
    told = as_printed(made, title, folder, tmp_path, SHOWN)
    wanted = load(folder, precision="int8").predict([("a text", "its pair") if columns == 2 else "a text"]).outputs
    np.testing.assert_allclose(json.loads(told.splitlines()[-1]), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("title", ["Optimum", "transformers.js"])
def test_the_cards_code_for_images_runs_as_it_is_printed(
    title: str, image_run: SimpleNamespace, tmp_path: Path
) -> None:
    folder, picture = image_run.run.path / "export", tmp_path / "picture.png"
    shutil.copy(pictures(image_run.run.path, tmp_path)[0], picture)
    told = as_printed((folder / "README.md").read_text(), title, folder, tmp_path, {"python": SHOWN["python"]})
    wanted = load(folder, precision="int8").predict([str(picture)])
    if title == "Optimum":
        np.testing.assert_allclose(json.loads(told.splitlines()[-1]), wanted.outputs, rtol=1e-3, atol=1e-3)
    else:  # prints labels, the most likely one first
        found = re.search(r"label: '(.*?)'", told)
        assert found is not None and found[1] == wanted.labels[0]


# ---- the tool, without any of them ----


def played(change: Callable[[Job, Answer], Answer]) -> Client:
    """A client that is our own session, with its answer changed."""

    def run(job: Job, places: Sequence[Path]) -> Answer:
        model = load(job.folder, precision=job.precision)  # type: ignore[arg-type]
        return change(job, Answer([model.predict(items).outputs for items in job.items], {"played": "1"}))

    return Client("played", (), (), run)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda job, answer: answer, ""),
        (lambda job, answer: replace(answer, labels=["a", "b", "c"]), "labels"),
        (lambda job, answer: replace(answer, outputs=[batch * 1.001 for batch in answer.outputs]), "differ by more"),
        (lambda job, answer: replace(answer, outputs=[-batch for batch in answer.outputs]), "labels differ"),
        (lambda job, answer: replace(answer, outputs=answer.outputs[:-1]), "outputs (10, 3), ours (12, 3)"),
        (lambda job, answer: replace(answer, outputs=[batch * np.nan for batch in answer.outputs]), "differ by more"),
        (lambda job, answer: call([sys.executable, "-c", "raise SystemExit('out of luck')"], job.work), "out of luck"),
    ],
)
def test_what_differs_is_told(change: Any, says: str, text_run: SimpleNamespace, tmp_path: Path) -> None:
    reference = Reference.of(text_run.run.path / "export", "fp32", PAIRS, 5)
    found = compare(played(change), PLACE, reference, tmp_path)
    assert says in found.wrong and bool(says) == bool(found.wrong)


def test_rows_of_a_run_are_its_test_split(
    text_run: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def seen(job: Job, answer: Answer) -> Answer:
        rows.extend(item for batch in job.items for item in batch)
        return answer

    rows: list[Any] = []
    monkeypatch.setattr(clients, "CLIENTS", {"played": played(seen)})
    split, found = clients.compare_all(["played"], tmp_path, text_run.run.path, None, 9)
    assert split == "test" and [item.precision for item in found] == ["fp32", "int8"]
    assert rows[:9] == PAIRS[:9] and "| played | int8 | 9 |" in capsys.readouterr().out


def test_what_is_not_there_is_skipped_with_what_to_type(text_run: SimpleNamespace, tmp_path: Path) -> None:
    reference = Reference.of(text_run.run.path / "export", "fp32", [("w1", "w2")])
    found = compare(CLIENTS["optimum"], tmp_path, reference, tmp_path)
    assert f"python tools/clients.py --setup --environments {tmp_path}" in found.skipped and not found.wrong
    assert "skipped" in clients.line(found)
    (tmp_path / "optimum").mkdir()
    (tmp_path / "optimum/pins.txt").write_text("numpy==1.0\n")
    with pytest.raises(Missing, match="has other versions"):
        environments.find("optimum", tmp_path)


def test_a_set_up_without_npm_leaves_its_clients_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert clients.set_up_all(["transformers.js", "onnxruntime-node", "c"], tmp_path)
    assert capsys.readouterr().out.count("npm is not on PATH") == 3 and not list(tmp_path.iterdir())


def test_every_version_is_pinned() -> None:
    for name in ("optimum", "openvino"):
        lines = environments.ENVIRONMENTS[name].pins.splitlines()
        assert lines and all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    folder = environments.HERE / "transformers"
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    locked = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert all(locked[f"node_modules/{name}"]["version"] == version for name, version in wanted.items())
    assert all(entry.get("integrity") for path, entry in locked.items() if path)
