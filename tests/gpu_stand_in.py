"""A GPU that is none: tensors that say they are on CUDA, compute on the CPU, and refuse to meet tensors of the CPU.

    with gpu_stand_in():
        ...  # accelerate finds `cuda`, and what would fail on a GPU for tensors on two devices fails here

It shows tensors that were left on the wrong device, `numpy()` of a tensor on the GPU, and the like. It shows nothing of
CUDA's own kernels, their precision, or their speed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

# torch's name for a device that has no streams and no driver of its own
GPU, CPU = torch.device("lazy", 0), torch.device("cpu")
aten = torch.ops.aten
# tensors of the CPU that CUDA takes: indices, what is copied, and numbers (tensors without axes)
MIXED = {
    aten.copy_.default,
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}


class OnGpu(torch.Tensor):
    """A tensor on the stand-in; `values` are on the CPU."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> OnGpu:
        made = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, values.stride(), values.storage_offset(), dtype=values.dtype, device=GPU
        )
        made.values = values
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnGpu({self.values!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def on_gpu(device: Any) -> bool:
    """Return whether a device, or its name, is the stand-in's."""
    return device is not None and torch.device(device).type == GPU.type


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator on the CPU; its result is where its operands are, or where `device` says."""
    flat = [item for item in tree_flatten((args, kwargs))[0] if isinstance(item, torch.Tensor)]
    here = [item for item in flat if not isinstance(item, OnGpu)]
    asked = "device" in kwargs and kwargs["device"] is not None
    there = on_gpu(kwargs["device"]) if asked else len(here) < len(flat)
    if func is aten._fused_sdp_choice.default:
        return 0  # attention as a formula: the fused kernels are the CPU's or CUDA's own
    if len(here) < len(flat) and func not in MIXED and any(item.dim() for item in here):
        found = [f"{tuple(item.shape)} on {item.device}" for item in flat]
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} of {', '.join(found)}")
    if func is aten.copy_.default:
        _copy(args[0], args[1])
        return args[0]
    if func in (aten.is_pinned.default,):
        return False
    bare_args, bare = tree_map_only(OnGpu, lambda item: item.values, (args, kwargs))
    if asked:
        bare["device"] = CPU
    out = func(*bare_args, **bare)
    wrapped = tree_map(lambda item: OnGpu(item) if isinstance(item, torch.Tensor) and there else item, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if there else wrapped


def _copy(target: torch.Tensor, source: torch.Tensor) -> None:
    bare = [item.values if isinstance(item, OnGpu) else item for item in (target, source)]
    bare[0].copy_(bare[1])


class Factories(TorchDispatchMode):
    """What is made on, or moved to, the stand-in."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if on_gpu(kwargs.get("device")):
            return compute(func, args, kwargs)
        return func(*args, **kwargs)


@contextmanager
def gpu_stand_in() -> Iterator[None]:
    """Let accelerate, and the code under test, find one GPU."""
    import accelerate
    from accelerate.state import AcceleratorState, PartialState

    real = accelerate.Accelerator
    swap = torch.__future__.get_swap_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerate, "Accelerator", lambda **options: real(**{**options, "cpu": False}))
        patch.setattr(PartialState, "default_device", property(lambda self: GPU))
        patch.setattr(sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda *_, **__: None)
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
        torch.__future__.set_swap_module_params_on_conversion(True)
        AcceleratorState._reset_state(reset_partial_state=True)
        try:
            with Factories():
                yield
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swap)
            AcceleratorState._reset_state(reset_partial_state=True)
