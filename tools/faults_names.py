"""Markup in every name that reaches a report: no element, attribute or script comes out of one, in no parser."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import faults_data
import tomli_w
from faults_trials import Tally, call
from markdown_it import MarkdownIt

from rmtkd_edge.profile.measuring.command import main as runner
from rmtkd_edge.profile.measuring.store import digest_of

ELEMENT = "x-evil"
SHAPES = (
    '<x-evil onload="alert(1)">{}</x-evil><script>alert(1)</script>',
    '"><x-evil src=x onerror=alert(1)>{}',
    "'><x-evil onload=alert(1)>{}",
    "</style></title></svg></script><x-evil>{}",
    "--><x-evil>{}<!--",
    "]]><x-evil>{}",
    "[{}](javascript:alert(1)) <x-evil>",
    "`{}` | ![x](x) <x-evil onclick=alert(1)>",
)
SHORT = "<x-evil onload=alert(1)>{}"


class Elements(HTMLParser):
    """Collects what a page would do that none of ours does, and the text that it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element that runs something, or that came out of a name."""
        if tag in (ELEMENT, "script", "iframe", "object", "embed", "base", "form"):
            self.found.append(f"<{tag}>")
        for name, value in attrs:
            if name.startswith("on") or (value or "").strip().lower().startswith("javascript:"):
                self.found.append(f"<{tag} {name}={(value or '')[:40]!r}>")
        self.text += " ".join(value or "" for _, value in attrs)

    def handle_data(self, data: str) -> None:
        """Keep the text."""
        self.text += data


def names(case: faults_data.Case, work: Path) -> Iterator[Tally]:
    """Carry one shape of markup a run through all stages, in every name that a user, a device or a file gives."""
    tally = Tally(f"{case.name}: markup in every name")
    for number, shape in enumerate(SHAPES):
        home = work / f"names-{number}"
        home.mkdir()
        fault, shown = _carried(case, shape, home)
        lost = sorted({"title", "device", "env", "folder"} - shown)
        tally.note(fault or (f"{', '.join(lost)} did not reach the report" if lost else ""))
        shutil.rmtree(home)
    yield tally


def _carried(case: faults_data.Case, shape: str, home: Path) -> tuple[str, set[str]]:
    """Return what came out of the names in the report of one run, and the places whose names it shows."""
    run, log = home / SHORT.format("folder"), home / "log.txt"
    given = _case(case, shape, home, run)
    board = home / "board.toml"
    faults_data.board(board)
    device = {**tomllib.loads(board.read_text()), "title": shape.format("device")}
    board.write_text(tomli_w.dumps(device))
    for stage in ("compress", "export", "profile"):
        given.run_whole(stage, log)
    out = home / "bundle"
    if code := call(given.bundled(board, out), log):
        return f"bundle: exit {code}: {log.read_text()[-400:]}", set()
    if code := call([str(out / "plan.json"), str(out / "results.json")], log, program=runner):
        return f"runner.py: exit {code}: {log.read_text()[-400:]}", set()
    if code := call(["collect", str(run), str(_measured(home, shape))], log):
        return f"collect: exit {code}: {log.read_text()[-400:]}", set()
    given.run_whole("report", log)
    return looked_through(run / "report")


def _case(case: faults_data.Case, shape: str, home: Path, run: Path) -> faults_data.Case:
    """Return a case of text with markup for its title, task, folders, columns, labels and words."""
    data, column, label = home / SHORT.format("data"), shape.format("column"), shape.format("target")
    data.mkdir()
    for file in sorted(case.data.glob("*.csv")):
        rows = list(csv.reader(file.read_text().splitlines()))
        with open(data / file.name, "w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerow([column, label])
            csv.writer(out).writerows([[text, f"{shape.format('label')}{name}"] for text, name in rows[1:]])
    task = {**case.recipe["task"], "name": shape.format("task")[:100], "text": [column], "label": label}
    recipe: dict[str, Any] = {**case.recipe, "title": shape.format("title"), "task": task}
    file = home / f"{SHORT.format('recipe')}.toml"
    file.write_text(tomli_w.dumps(recipe), encoding="utf-8")
    return dataclasses.replace(case, recipe=recipe, file=file, data=data, whole=run)


def _measured(home: Path, shape: str) -> Path:
    """Return results of a bundle in which every text about the machine is markup."""
    document = json.loads((home / "bundle/results.json").read_text())
    for part in (document["env"], *(result["env"] for result in document["results"])):
        for key, value in part.items():
            if isinstance(value, str) and key not in ("arch", "machine", "provider"):
                part[key] = shape.format("env") + value[:20]
    document["digest"] = digest_of(document)
    (home / "results.json").write_text(json.dumps(document))
    return home / "results.json"


def looked_through(report: Path) -> tuple[str, set[str]]:
    """Return what came out of the names in the pages and figures of a report, and the places that it shows."""
    html, text = Elements(), Elements()
    html.feed((report / "report.html").read_text())
    text.feed(MarkdownIt("commonmark").enable("table").render((report / "report.md").read_text()))
    found = [*(f"report.html: {f}" for f in html.found), *(f"report.md: {f}" for f in text.found)]
    for figure in (report / "figures").glob("*.svg"):
        for element in ElementTree.parse(figure).iter():
            tag = str(element.tag).rpartition("}")[2]
            if tag in (ELEMENT, "script") or any(name.startswith("on") for name in element.attrib):
                found.append(f"{figure.name}: <{tag}>")
    shown = {
        place for place in ("title", "label", "device", "env", "folder", "task", "column") if _has(html.text, place)
    }
    return "; ".join(found), shown


def _has(text: str, place: str) -> bool:
    return re.search(rf"[>\[`]{place}\b|{place}\]|{place}`", text) is not None
