"""Every energy meter by its name: the files of meters/, and what entry points of third parties add."""

from __future__ import annotations

import importlib
import importlib.util
import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from rmtkd_edge.errors import ProviderError
from rmtkd_edge.profile import meters

GROUP = "rmtkd_edge.meters"
NAME = re.compile(r"^[a-z][a-z0-9_]*$")
OWN = Path(meters.__file__).resolve().parent
NOT_METERS = ("__init__", "base")


def meter_names() -> list[str]:
    """Return the names of all meters, sorted."""
    own = {path.stem for path in OWN.glob("*.py") if path.stem not in NOT_METERS}
    return sorted(own | set(_installed()))


def load_meter(name: str) -> ModuleType:
    """Return the module of a meter, with `open_meter`.

    Raises:
        ProviderError: there is none of that name, or a third party's does not load.
    """
    if (OWN / f"{name}.py").is_file():
        return importlib.import_module(f"{meters.__name__}.{name}")
    point = _installed().get(name)
    if point is None:
        raise ProviderError(f"there is no energy meter `{name}`", f"known: {', '.join(meter_names())}")
    try:
        return importlib.import_module(point.module)
    except Exception as err:  # a third party's module may fail in any way
        raise ProviderError(f"the meter {name} ({point.value}) does not load: {err}", "update its package") from err


def third_party_files() -> dict[str, Path]:
    """Return the file of every third party's meter by name, which travels in a bundle as meters/NAME.py."""
    found = {}
    for name, point in _installed().items():
        spec = importlib.util.find_spec(point.module)
        if spec is None or spec.origin is None:
            raise ProviderError(f"the meter {name} ({point.value}) has no file", "reinstall its package")
        found[name] = Path(spec.origin)
    return found


def _installed() -> dict[str, EntryPoint]:
    """Return the entry points by name; one of a name that ships, or that no profile could write, does not count."""
    points = {point.name: point for point in entry_points(group=GROUP) if NAME.match(point.name)}
    return {name: point for name, point in points.items() if not (OWN / f"{name}.py").is_file()}
