"""Results as tables for a terminal; a figure that is not there is a dash, never a zero."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from rmtkd_edge.run import Run

if TYPE_CHECKING:
    from rmtkd_edge.hardware import HardwareProfile


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


def profile_table(result: dict[str, Any]) -> Table:
    """Return the table of one profile's results: of an emulated device how far outputs agree, and no times."""
    if result.get("hardware", {}).get("emulated"):
        from rmtkd_edge.profile.emulation import agreement_rows

        header, *rows = agreement_rows(result["results"])
        return table_of(header, rows, f"{result['profile']}: largest differences from the outputs on this machine")
    rows = []
    for item in result["results"]:
        latency, load, model = item["latency"], item["load"], item["model"]
        row = [item["label"], load["batch"], load.get("seq") or "-"]
        row += [figure(latency.get("p50"), ".2f"), figure(latency.get("p90"), ".2f")]
        row += [figure(item.get("throughput_per_s"), ".1f")]
        row += [figure((item.get("memory") or {}).get("peak_rss_bytes"), ".0f", 1e-6)]
        row += [figure(model.get("disk_bytes"), ".1f", 1e-6), energy_cell(item.get("energy") or {})]
        rows.append([*row, (item.get("quality") or {}).get("verdict") or "-"])
    header = ["model", "batch", "tokens", "p50 ms", "p90 ms", "per s", "RSS MB", "disk MB", "mJ", "verdict"]
    return table_of(header, rows, result["profile"])


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


def comparison_lines(result: dict[str, Any]) -> list[str]:
    """Return one line a comparison of a candidate with the original: how many times as fast, with its interval."""
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
    return [*lines, *(note for note in result.get("notes", []) if " is refused " in note)]


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
