"""Compress transformers and ResNets by random-matrix-guided self-distillation, export to ONNX, measure on devices.

    import rmtkd_edge as rk

    model = rk.from_transformers(hf_model)
    spectra = rk.analyse(model, calibration_loader)
    plan = rk.plan(spectra, reduction=0.8)
    student = rk.compress(model, plan, calibration_loader)
    student = rk.distil(student, model, train_loader)
    folder = rk.export(student, "out", tokenizer=tokenizer)
    result = rk.profile(folder, on="local-cpu")

Every name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from inspect import Signature, signature
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rmtkd_edge.api.analyse import Spectra, analyse
    from rmtkd_edge.api.compress import compress
    from rmtkd_edge.api.distil import distil
    from rmtkd_edge.api.export import export
    from rmtkd_edge.api.load import load
    from rmtkd_edge.api.models import from_torchvision, from_transformers
    from rmtkd_edge.api.plan import Plan, plan
    from rmtkd_edge.api.profile import profile
    from rmtkd_edge.api.report import report

__version__ = "0.2.0"

_PLACES = {
    "Plan": "plan",
    "Spectra": "analyse",
    "analyse": "analyse",
    "distil": "distil",
    "from_torchvision": "models",
    "from_transformers": "models",
    "load": "load",
    "plan": "plan",
}
VERBS = ("compress", "export", "profile", "report")  # subpackages with the names of the functions below

__all__ = [
    "Plan",
    "Spectra",
    "__version__",
    "analyse",
    "compress",
    "distil",
    "export",
    "from_torchvision",
    "from_transformers",
    "load",
    "plan",
    "profile",
    "report",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.api.{_PLACES[name]}"), name)


class _Verb(ModuleType):
    """A package that can be called: `rmtkd_edge.compress` holds the stage, `rmtkd_edge.compress(...)` is the verb."""

    @property
    def _function(self) -> Any:
        verb = self.__name__.rpartition(".")[2]
        return getattr(import_module(f"{__name__}.api.{verb}"), verb)

    @property
    def __signature__(self) -> Signature:
        return signature(self._function)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._function(*arguments, **options)


for _name in VERBS:
    import_module(f"{__name__}.{_name}").__class__ = _Verb
