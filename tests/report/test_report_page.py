"""The pages: everything measured is shown, nothing else is, and nothing reaches outside."""

from __future__ import annotations

import dataclasses
import re
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from report.report_sample import LABELS, build_run, exported, profiled, scores, variant, write_profile

from rmtkd_edge.errors import RunDirError, UserError
from rmtkd_edge.report import text
from rmtkd_edge.report.stage import report_runs
from rmtkd_edge.run import layout
from rmtkd_edge.run.records.base import to_json
from rmtkd_edge.run.records.compress import CompressRecord

VOID = {"meta", "br", "hr", "img", "input", "link", "path", "use"}


class Page(HTMLParser):
    """Collects tags, ids, references and text; fails on tags that do not nest."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [v for k, v in attrs if k == "id"]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def read(paths):
    return paths.html.read_text(encoding="utf-8"), paths.markdown.read_text(encoding="utf-8")


def plain(markdown: str) -> str:
    return unescape(re.sub(r"\\(.)", r"\1", markdown))


def test_what_was_read_is_shown(finished):
    page, markdown = Page(finished.html).text, plain(finished.markdown)
    for shown in (page, markdown):
        for part in ("train.csv", "negative (3,310), positive (3,610)", "Not used of sst2: 1 (dev.csv)", "64 tokens"):
            assert part in shown, part
        assert "[CLS] a <b>dull</b> | film [SEP] (9 tokens)" in shown and "2.5\u00a0%" in shown


def test_html_nests_and_ids_are_unique(finished):
    page = Page(finished.html)
    assert len(page.ids) == len(set(page.ids))
    anchors = {a["href"][1:] for tag, a in page.tags if tag == "a"}
    assert anchors <= set(page.ids)
    labelled = {i for _, a in page.tags for i in (a.get("aria-labelledby") or "").split()}
    assert labelled <= set(page.ids)


def test_html_needs_nothing_from_outside(finished):
    page = Page(finished.html)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "img", "object", "embed"}
    for _, attrs in page.tags:
        for key in ("src", "href", "xlink:href", "action", "srcset"):
            assert (attrs.get(key) or "#").startswith("#")
        assert not any(key.startswith("on") for key in attrs)
    assert "http://" not in finished.html and "https://" not in finished.html
    assert "@import" not in finished.html and not re.search(r"url\((?!#)", finished.html)


def test_headings_tables_and_figures_are_accessible(finished):
    page = Page(finished.html)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert sum(t == "caption" for t, _ in page.tags) == sum(t == "table" for t, _ in page.tags)
    for tag, attrs in page.tags:
        if tag == "svg":
            assert attrs["role"] == "img" and attrs["aria-labelledby"]


def test_every_measured_figure_is_shown(finished):
    shown = Page(finished.html).text, plain(finished.markdown)
    for name in ("laptop", "raspberry-pi-5"):
        for r in finished.run.read_json(f"profile/{name}.json")["results"]:
            latency, memory = r["latency"], r["memory"]
            wanted = [
                text.number(latency[k]) for k in ("mean", "p50", "p90", "p95", "p99", "stdev") if latency[k] is not None
            ]
            wanted += [
                text.number(r["throughput_per_s"]),
                text.number(r["cpu_s_per_inf"]),
                text.milliseconds(r["cold_start_ms"]),
            ]
            wanted += [text.megabytes(memory[k]) for k in ("peak_rss_bytes", "rss_after_load_bytes")]
            wanted += [
                text.joules(v) for k in ("j_per_inf_gross", "j_per_inf_net") if (v := r["energy"][k]) is not None
            ]
            wanted += [text.count(r["model"]["disk_bytes"]), r["quality"]["verdict"], r["model"]["sha256"]]
            for page in shown:
                assert [w for w in wanted if w not in page] == []


def test_every_figure_of_the_cycles_is_shown(finished):
    page = Page(finished.html).text
    for cycle in finished.run.read_json("compress/result.json")["cycles"]:
        wanted = [text.count(cycle["parameters_after"])]
        wanted += [text.percent(cycle[k]["values"]["accuracy"]) for k in ("before", "closed_form", "after")]
        wanted += [text.seconds(v) for v in cycle["seconds"].values()]
        for s in cycle["sites"]:
            wanted += [text.number(s[k]) for k in ("lambda_plus", "lambda_minus", "sigma2", "q", "quantile")]
            wanted += [
                f"{s['width_before']} → {s['width_after']}",
                text.count(s["n"]),
                text.count(s["n_eff"]),
            ]
        assert [w for w in wanted if w not in page] == []


def test_verification_and_comparisons_are_shown(finished):
    page = Page(finished.html).text
    for c in finished.run.read_json("profile/laptop.json")["comparisons"]:
        assert text.number(c["ratio"]) in page and f"{text.number(c['ci95'][0])} to {text.number(c['ci95'][1])}" in page
    check = finished.run.read_json("export/rmtkd.json")["verification"]
    for key in ("fold_float64", "fold_float32", "onnx_float32"):
        assert text.scientific(check[key]) in page and text.scientific(check["tolerances"][key]) in page


def test_gain_in_the_verdict_is_the_recorded_comparison(finished):
    pairs = finished.run.read_json("profile/laptop.json")["comparisons"]
    c = next(
        p
        for p in pairs
        if p["candidate"] == "rmt-kd int8" and (p["workload"]["batch"], p["workload"]["seq"]) == (1, 128)
    )
    verdict = Page(finished.html).text
    assert f"{1 / c['ratio']:.2f}× faster" in verdict
    assert f"{1 / c['ci95'][1]:.2f} to {1 / c['ci95'][0]:.2f}×" in verdict


def test_the_summary_shows_cold_starts_beside_the_originals(finished):
    results = finished.run.read_json("profile/laptop.json")["results"]
    rows = [line for line in plain(finished.markdown).splitlines() if line.startswith("| Cold start")]
    first = [r for r in results if (r["workload"]["batch"], r["workload"]["seq"]) == (1, 128)]
    assert {"baseline", "candidate"} <= {r["role"] for r in first}
    for r in first:
        assert any(text.milliseconds(r["cold_start_ms"]) in row for row in rows), (r["label"], rows)


def test_energy_that_was_not_measured_says_why_and_is_never_zero(finished):
    for page in (Page(finished.html).text, plain(finished.markdown)):
        assert "not measured: no energy counter can be read on this device" in page
        assert not re.search(r"(?<![\d.,])0(\.0+)?\s?m?J\b", page)
    assert not (finished.run.path / "report/figures/raspberry-pi-5-energy.svg").exists()


def test_modelled_energy_is_named_and_not_drawn(tmp_path):
    run = build_run(tmp_path / "a")
    data = profiled("laptop", 1.0, metered=True)
    for r in data["results"]:
        r["energy"].update(kind="modelled", meter="watts of the profile")
    write_profile(run, data)
    paths = report_runs([run])
    assert "modelled, watts of the profile" in Page(read(paths)[0]).text
    assert not [p for p in paths.figures if "energy" in p.name]


def test_markdown_links_figures_that_exist(finished):
    links = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", finished.markdown)
    assert links and len(links) == len(finished.paths.figures)
    for link in links:
        assert (finished.paths.markdown.parent / link).is_file()


def test_markdown_tables_are_rectangular(finished):
    blocks = re.findall(r"(?:^\|.*\|\n)+", finished.markdown, flags=re.M)
    assert len(blocks) > 10
    for block in blocks:
        rows = [len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()]
        assert len(set(rows)) == 1, block[:200]
        assert re.fullmatch(r"\|( -+:? \|)+", block.splitlines()[1])


@pytest.mark.parametrize("stages", ["", "compress", "compress export"])
def test_missing_stages_name_their_command(tmp_path, stages):
    html, markdown = read(report_runs([build_run(tmp_path / "a", stages=stages)]))
    for page in (Page(html).text, plain(markdown)):
        for stage, command in (
            ("compress", "rmtkd-edge compress"),
            ("export", "rmtkd-edge export"),
            ("profile", "rmtkd-edge profile"),
        ):
            if stage not in stages:
                assert f"{stage} has not been run" in page and command in page


def test_a_run_that_was_killed_shows_the_cycles_it_has(tmp_path):
    run = build_run(tmp_path / "a", stages="compress")
    run.remove("compress/result.json")
    run.mark("compress", "running")
    html, _ = read(report_runs([run]))
    page = Page(html).text
    assert "did not finish" in page and "layer.0.ffn" in page and "3,918,402" in page


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", 'a"><img src=x onerror=alert(1)>', "a|b`c*d_e\n# f", "$x$ & {{ 7*7 }}"]
)
def test_hostile_names_stay_text(tmp_path, hostile):
    run = build_run(tmp_path / "a", title="t", stages="compress export")
    recipe = run.read_text("recipe.toml").replace('"t"', "'''" + hostile + "'''")
    run.write_text("recipe.toml", recipe)
    described = to_json(exported(False, {}))
    described["model_id"] = described["versions"]["torch"] = hostile
    described["variants"]["int8"]["refused"] = hostile
    described["fusion"]["emitted"]["found"][hostile] = 1
    run.write_json("export/rmtkd.json", described)
    whole = run.read_json("compress/result.json")
    whole["title"] = hostile
    whole["notes"] = [hostile]
    whole["cycles"][0]["sites"][0].update(name=hostile, note=hostile)
    whole["cycles"][0]["reason"] = whole["task"]["name"] = hostile
    run.write_json("compress/result.json", whole)
    html, markdown = read(report_runs([run]))
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert " ".join(hostile.split()) in " ".join(page.text.split())
    outside = re.sub(r"^(`{3,}).*?^\1", "", markdown, flags=re.S | re.M)
    assert "<script" not in outside and "<img" not in outside and "\n# f" not in outside


def test_hostile_folder_names_stay_text(tmp_path):
    run = build_run(tmp_path / "<script>alert(1)<" / "x; rm -rf $HOME", stages="")
    other = build_run(tmp_path / "b" / "x; rm -rf $HOME", stages="")
    html, _ = read(report_runs([run, other], tmp_path / "out"))
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "'<script>alert(1)</x; rm -rf $HOME'" in page.text


def test_the_same_run_gives_the_same_bytes(finished, tmp_path):
    again = report_runs([finished.run], tmp_path / "again")
    for first, second in zip(finished.paths.figures, again.figures, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert read(again) == (finished.html, finished.markdown)


def test_several_runs_are_compared_and_kept_apart(finished, tmp_path):
    other = build_run(tmp_path / "sst2-b", title="another")
    paths = report_runs([finished.run, other, build_run(tmp_path / "empty", stages="")], tmp_path / "out")
    page = Page(read(paths)[0])
    assert len(page.ids) == len(set(page.ids))
    assert "3 runs compared" in page.text and "nothing is averaged" in page.text
    assert len({p.name for p in paths.figures}) == len(paths.figures)
    assert all(p.is_file() for p in paths.figures)


def test_a_refused_int8_is_not_the_headline(tmp_path):
    run = build_run(tmp_path / "a")
    described = exported(False, {})
    refused = dataclasses.replace(variant("int8", False), refused="accuracy fell by 3.1 points, the recipe allows 1.0")
    changed = dataclasses.replace(described, variants={**described.variants, "int8": refused})
    run.write_record("export/rmtkd.json", changed)
    page = Page(read(report_runs([run]))[0]).text
    assert "the fp32 file is" in page and "the int8 file is" not in page
    assert "accuracy fell by 3.1 points" in page


def test_report_is_recorded_in_the_run(finished):
    finished.run.verify("report/")
    assert finished.run.stage("report")["state"] == "done"


def test_figures_of_an_earlier_report_do_not_stay(tmp_path):
    run = build_run(tmp_path / "a")
    report_runs([run])
    write_profile(run, profiled("laptop", 1.0, metered=False))
    report_runs([run])
    assert not (run.path / "report/figures/laptop-energy.svg").exists()
    run.verify()


def test_a_damaged_file_is_refused(tmp_path):
    run = build_run(tmp_path / "a", stages="compress")
    (run.path / "compress/result.json").write_text("{}")
    with pytest.raises(RunDirError, match=r"result\.json"):
        report_runs([run])
    assert not (run.path / "report").exists()


def test_an_unknown_schema_is_refused(tmp_path):
    run = build_run(tmp_path / "a", stages="compress")
    run.write_json("profile/laptop.json", {"schema": "rmtkd-edge/profile@9"})
    with pytest.raises(RunDirError, match="profile@9"):
        report_runs([run])


def test_no_run_is_a_user_error():
    with pytest.raises(UserError):
        report_runs([])


def test_labels_of_other_baselines_get_a_column(tmp_path):
    run = build_run(tmp_path / "a")
    data = profiled("laptop", 1.0, metered=True)
    for r in data["results"]:
        if r["label"] == LABELS[1]:
            r["label"] = "distilled fp32"
    data["comparisons"] = []
    write_profile(run, data)
    page = Page(read(report_runs([run]))[0]).text
    assert "distilled fp32" in page and "profiled only" in page


def test_figures_come_from_the_test_split_and_cycles_from_validation(finished):
    page = Page(finished.html).text
    assert "test accuracy is 80.8" in page and "1,821 test rows" in page
    assert "on validation, in torch" in page and "no test split" not in page
    assert "test 80.9" in page and "test 81.3" in page  # student and teacher


def test_a_run_without_a_test_split_says_so(tmp_path):
    run = build_run(tmp_path / "a", tested=False)
    page = Page(read(report_runs([run]))[0]).text
    assert "This run has no test split" in page and "validation accuracy is 81.7" in page and "test rows" not in page


def test_another_metric_and_method_are_named_throughout(tmp_path):
    run = build_run(tmp_path / "a", stages="compress export")
    kept = run.read_record(CompressRecord, layout.RESULT)
    known = lambda split: scores(0.61, split, True, "matthews_corrcoef")
    student = dataclasses.replace(kept.student, validation=known("validation"), test=known("test"))
    teacher = dataclasses.replace(kept.teacher, validation=known("validation"), test=known("test"))
    changed = dataclasses.replace(kept, method="plain-kd", cycles=(), student=student, teacher=teacher)
    run.write_record(layout.RESULT, changed)
    for role, original in (("export", False), ("baseline", True)):
        files = {
            name: dataclasses.replace(variant(name, original), validation=known("validation"), test=known("test"))
            for name in ("fp32", "int8")
        }
        described = dataclasses.replace(exported(original, {}), variants=files, metric="matthews_corrcoef")
        run.write_record(f"{role}/rmtkd.json", described)
    html, markdown = read(report_runs([run]))
    page = Page(html).text
    assert "Plain KD removed" in page and "test Matthews correlation is 61.0" in page and "plain-kd int8" in page
    assert not re.search("accuracy|RMT-KD|rmt-kd", page.replace(run.read_text("recipe.toml"), ""))
    assert "analyses no spectra" in plain(markdown) and "method plain KD: one training" in page
    assert ">student<" in (run.path / "report/figures/quality.svg").read_text(encoding="utf-8")


def test_a_drop_that_allows_anything_is_no_floor(tmp_path):
    run = build_run(tmp_path / "a", stages="compress")
    kept = run.read_record(CompressRecord, layout.RESULT)
    run.write_record(layout.RESULT, dataclasses.replace(kept, floor=kept.teacher.validation.value - 1.0))
    assert "floor of" not in Page(read(report_runs([run]))[0]).text.replace("stayed under the floor of", "")


def test_a_notebook_shows_the_page_in_a_frame_of_its_own(finished):
    shown = finished.paths._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and unescape(shown.split('"')[1]) == finished.html


def test_a_strangers_page_is_not_replaced_and_a_report_of_ours_is(tmp_path: Path) -> None:
    run, out = build_run(tmp_path / "a"), tmp_path / "out"
    out.mkdir()
    (out / "report.md").write_text("mine")
    with pytest.raises(RunDirError, match=r"report\.md is none of our reports"):
        report_runs([run], out)
    assert [path.read_text() for path in out.iterdir()] == ["mine"]
    (out / "report.md").unlink()
    assert report_runs([run], out).markdown.read_bytes() == report_runs([run], out).markdown.read_bytes()
