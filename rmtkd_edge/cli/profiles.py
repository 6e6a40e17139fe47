"""`rmtkd-edge profiles`."""

from __future__ import annotations

from rmtkd_edge.cli.arguments import JsonOption
from rmtkd_edge.cli.output import show, show_json


def command(as_json: JsonOption = False) -> None:
    """List the hardware profiles that ship."""
    from rmtkd_edge.cli.tables import table_of
    from rmtkd_edge.config.hardware import list_profiles, load_profile

    found = [load_profile(name) for name in list_profiles()]
    rows = [{"profile": p.name, "device": p.title, "provider": p.provider, "transport": p.transport} for p in found]
    if as_json:
        show_json(rows)
    else:
        show(table_of(list(rows[0]), [list(row.values()) for row in rows]))
