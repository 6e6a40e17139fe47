"""Results as tables for a terminal; a figure that is not there is a dash, never a zero."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from rmtkd_edge.run.directory import Run

if TYPE_CHECKING:
    from rmtkd_edge.config.hardware import HardwareProfile
    from rmtkd_edge.profile.across_sessions import Contrast


def table_of(header: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> Table:
    """Return a table of plain texts (no markup is read from them); columns of numbers after the first go right."""
    cells = [[str(cell) for cell in row] for row in rows]
    table = Table(box=None, padding=(0, 2), title=title, title_justify="left")
    for place, name in enumerate(header):
        numbers = [row[place] for row in cells if row[place] not in ("", "-")]
        right = place > 0 and bool(numbers) and all(text[:1].isdigit() for text in numbers)
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*[Text(cell) for cell in row])
    return table


def figure(value: float | None, form: str, scale: float = 1.0) -> str:
    """Return a formatted figure, or a dash for None."""
    return "-" if value is None else format(value * scale, form)


def variants_table(result: dict[str, Any]) -> Table:
    """Return the table of the files that an export wrote or refused."""
    rows = []
    for name, variant in result["variants"].items():
        if variant.get("refused"):
            rows.append([name, f"refused: {variant['refused']}", "-", "-"])
        else:
            rows.append(
                [
                    name,
                    variant["file"],
                    figure(variant["size_bytes"], ".2f", 1e-6),
                    figure(variant.get("accuracy"), ".4f"),
                ]
            )
    return table_of(["variant", "file", "MB", "accuracy"], rows)


def profile_tables(documents: Sequence[dict[str, Any]]) -> list[Table]:
    """Return one table of all measured devices, and one of each that was emulated."""
    apart = [[d for d in documents if _emulated(d) is emulated] for emulated in (False, True)]
    return [*([profile_table(*apart[0])] if apart[0] else []), *(profile_table(d) for d in apart[1])]


def _emulated(document: dict[str, Any]) -> bool:
    return bool(document.get("hardware", {}).get("emulated"))


def profile_table(*documents: dict[str, Any]) -> Table:
    """Return one table of the results of one profile, or of several, each row then with its device.

    Of an emulated device it says how far outputs agree, and no times.
    """
    if len(documents) == 1 and _emulated(documents[0]):
        from rmtkd_edge.profile.emulation import agreement_rows

        header, *rows = agreement_rows(documents[0]["results"])
        return table_of(
            header, rows, f"{documents[0]['profile']}: largest differences from the outputs on this machine"
        )
    names = ["model", "batch", "tokens", "p50 ms", "p90 ms", "per s", "RSS MB", "disk MB", "mJ", "verdict"]
    if len(documents) == 1:
        (only,) = documents
        return table_of(names, [_result_row(item) for item in only["results"]], only["profile"])
    rows = [[document["profile"], *_result_row(item)] for document in documents for item in document["results"]]
    return table_of(["device", *names], rows)


def _result_row(item: dict[str, Any]) -> list[Any]:
    latency, load, model = item["latency"], item["load"], item["model"]
    row = [item["label"], load["batch"], load.get("seq") or "-"]
    row += [figure(latency.get("p50"), ".2f"), figure(latency.get("p90"), ".2f")]
    row += [figure(item.get("throughput_per_s"), ".1f")]
    row += [figure((item.get("memory") or {}).get("peak_rss_bytes"), ".0f", 1e-6)]
    row += [figure(model.get("disk_bytes"), ".1f", 1e-6), energy_cell(item.get("energy") or {})]
    return [*row, (item.get("quality") or {}).get("verdict") or "-"]


def energy_cell(energy: dict[str, Any]) -> str:
    """Return millijoules per inference with their provenance, net of idle where that is known."""
    for kind in ("net", "gross"):
        joules = energy.get(f"j_per_inf_{kind}")
        if joules is not None:
            return f"{joules * 1e3:.1f} ({energy.get('kind')}, {kind})"
    return "-"


def load_text(load: dict[str, Any]) -> str:
    """Return a load in words."""
    return f"batch {load['batch']}" + ("" if load.get("seq") is None else f", {load['seq']} tokens")


def comparison_lines(result: dict[str, Any], name: bool = False) -> list[str]:
    """Return one line a comparison of a candidate with the original: how many times as fast, with its interval.

    name: begin every line with the device.
    """
    lines = []
    for pair in result.get("comparisons", []):
        if pair["metric"] != "latency_ms" or not pair["baseline"].startswith("original"):
            continue
        ends = pair.get("ci95")
        interval = (
            f", 95 % interval {1 / ends[1]:.2f} to {1 / ends[0]:.2f}"
            if ends
            else f" ({pair.get('why', 'no interval')})"
        )
        load = pair["load"]
        lines.append(
            f"{pair['candidate']} is {1 / pair['ratio']:.2f} times as fast as {pair['baseline']}"
            f" ({load_text(load)}{interval})"
        )
    lines += [note for note in result.get("notes", []) if " is refused " in note or " does not fit " in note]
    return [f"{result['profile']}: {line}" for line in lines] if name else lines


def contrast_table(contrasts: Sequence[Contrast]) -> Table:
    """Return the table of two measurements side by side; ratios are the second file over the first."""
    rows = []
    for c in contrasts:
        ends = c.latency_ci95
        interval = "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
        row = [c.label, c.load, *(f"{ms:.3f}" for ms in c.latency_ms), f"{c.latency_ratio:.3f}", interval]
        row += [figure(ratio, ".3f") for ratio in (c.memory_ratio, c.disk_ratio, c.energy_ratio)]
        rows.append([*row, "same" if c.same_file else "other", " / ".join(c.verdicts)])
    header = ["model", "load", "a ms", "b ms", "b / a", "95 % interval", "RSS", "disk", "energy", "file", "verdicts"]
    return table_of(header, rows)


def contrast_lines(contrasts: Sequence[Contrast]) -> list[str]:
    """Return what a reader must know before the ratios are believed."""
    lines = ["two sessions, not interleaved: a difference of some per cent may be the machine's"]
    differences = dict.fromkeys(text for c in contrasts for text in c.differences)
    if differences:
        lines.append("not the same in both: " + "; ".join(differences))
    if any(verdict != "clean" for c in contrasts for verdict in c.verdicts):
        lines.append("not every result is clean: see the verdicts")
    unclear = [f"{c.label} {c.load}" for c in contrasts if not c.clear]
    if unclear:
        lines.append("no difference in latency can be told: " + ", ".join(unclear))
    return lines


def summary_table(run: Run, profile: str) -> Table:
    """Return a run's last table: the original against the compressed model, at the first load that was measured."""
    result, measured = run.read_json("compress/result.json"), run.read_json(f"profile/{profile}.json")["results"]
    load = measured[0]["load"] if measured else {"batch": None}
    found = {item["label"]: item for item in measured if item["load"] == load}
    rows = []
    for folder, who, side in (("baseline", "original", "teacher"), ("export", "rmt-kd", "student")):
        for precision, variant in run.read_json(f"{folder}/rmtkd.json")["variants"].items():
            label, refused = f"{who} {precision}", variant.get("refused")
            size = "-" if refused else figure(variant["size_bytes"], ".1f", 1e-6)
            accuracy = "refused" if refused else figure(variant.get("accuracy"), ".4f")
            item = found.get(label, {})
            p50 = figure(item.get("latency", {}).get("p50"), ".2f")
            verdict = item.get("quality", {}).get("verdict") or "-"
            rows.append([label, f"{result[side]['parameters']:,}", size, accuracy, p50, verdict])
    header = ["model", "parameters", "disk MB", "accuracy", f"p50 ms ({load_text(load)})"]
    header.append("verdict")
    return table_of(header, rows, result.get("title") or None)


def calibration_table(profile: HardwareProfile) -> Table:
    """Return the curves of a calibrated profile: the multiples tried, and the mean latency that each leads to."""
    from rmtkd_edge.profile.calibrate import MULTIPLES, mean_latency

    found = profile.calibration
    assert found is not None, "the profile was just calibrated"
    rows = [
        [str(multiple), *(f"{mean_latency(curve, multiple):.3f}" for curve in (found.conv, found.gemm))]
        for multiple in MULTIPLES
    ]
    return table_of(["widths rounded up to", "convolutions ms", "products ms"], rows)
