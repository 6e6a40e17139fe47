"""`rmtkd-edge export`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from rmtkd_edge.cli.arguments import DataOption, ForceOption, JsonOption, RunArgument
from rmtkd_edge.cli.output import progress, say, show, show_json


def command(
    run: RunArgument,
    no_int8: Annotated[bool, typer.Option("--no-int8", help="No int8 files.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half-precision files too, for GPUs.")] = False,
    opset: Annotated[int | None, typer.Option(help="ONNX opset (recipe key export.opset).")] = None,
    graph: Annotated[
        Literal["fast", "portable"] | None,
        typer.Option(help="With onnxruntime's own operators, or standard ONNX alone (recipe key export.graph)."),
    ] = None,
    data: DataOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fold the projections, write ONNX (fp32, int8, on request fp16), and prove that every file computes the same."""
    from rmtkd_edge.api.export import ExportOptions, export_run, exported_family
    from rmtkd_edge.cli.tables import variants_table

    options = ExportOptions(
        run=run,
        int8=False if no_int8 else None,
        fp16=True if fp16 else None,
        opset=opset,
        graph=graph,
        data=data,
        force=force,
    )
    with progress(as_json) as reporter:
        own = export_run(options, reporter)
    family = exported_family(run)
    if as_json:
        show_json(own if len(family) == 1 else list(family.values()))
        return
    show(variants_table(family))
    say(f"next: rmtkd-edge profile {run} --on local-cpu")
