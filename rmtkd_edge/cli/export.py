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
    explain: Annotated[
        bool, typer.Option("--explain", help="Time by operator, against what this machine reaches at its best.")
    ] = False,
    data: DataOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fold the projections, write ONNX (fp32, int8, on request fp16), and prove that every file computes the same.

    With --explain alone, a run that was exported is not exported again.
    """
    from rmtkd_edge.api.explain import asks_for_export, explain_exported
    from rmtkd_edge.api.export import ExportOptions, export_run, exported_family
    from rmtkd_edge.cli.operator_tables import show_operators
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
    if not explain or asks_for_export(options):
        with progress(as_json) as reporter:
            own = export_run(options, reporter)
        family = exported_family(run)
        if not as_json:
            show(variants_table(family))
        elif not explain:
            show_json(own if len(family) == 1 else list(family.values()))
    if explain:
        with progress(as_json) as reporter:
            record = explain_exported(options, reporter)
        show_operators(record, as_json)
    if not as_json:
        say(f"next: rmtkd-edge profile {run} --on local-cpu")
