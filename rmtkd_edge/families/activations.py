"""The functions between the layers of transformers, by the names that transformers gives them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from rmtkd_edge.errors import UserError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
_SAME = {  # transformers' other names for the same function
    "swish": "silu",
    "gelu_python": "gelu",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_python_tanh": "gelu_new",
}


def plain_name(name: str) -> str:
    """Return the one name, of those that transformers has for a function, by which it is known here."""
    return _SAME.get(name, name)


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the function of a name; raise UserError for one that is not known."""
    if name not in ACTIVATIONS:
        raise UserError(f"the activation `{name}` is not known", f"known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
