"""`rmtkd-edge calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmtkd_edge.cli.arguments import ForceOption, HostOption, JsonOption
from rmtkd_edge.cli.output import progress, say, show, show_json


def command(
    on: Annotated[
        str, typer.Option("--on", "--device", help="Hardware profile: of this machine, or of --host.")
    ] = "local-cpu",
    host: HostOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File; PROFILE-calibrated.toml when left out.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure latency against width on this device, and write the best multiples into a copy of its profile.

    Then: rmtkd-edge compress RECIPE --on FILE.toml rounds widths up to them. Takes about a minute.
    """
    from rmtkd_edge.api.calibrate import CalibrateOptions, calibrate_device
    from rmtkd_edge.cli.tables import calibration_table

    with progress(as_json) as reporter:
        found = calibrate_device(CalibrateOptions(on=on, host=host, out=out, force=force), reporter)
    profile = found.profile
    if as_json:
        show_json({"path": str(found.path), **profile.model_dump(mode="json")})
        return
    show(calibration_table(profile))
    say(
        f"{found.path}: convolutions to multiples of {profile.alignment.conv}, products to multiples of "
        f"{profile.alignment.gemm}",
        f"next: rmtkd-edge compress RECIPE --on {found.path}",
    )
