"""NVIDIA GPUs: the driver's energy counter (Volta and later, mJ) and its sampled power, both recorded.

The two have been seen 75 % apart, so neither is hidden: the counter is the figure where there is one, the sampled power
is its cross-check. libnvidia-ml comes with the driver; no Python package is needed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

from .base import Integral, Meter, MeterAbsent, Reading, Sampler

PERIOD_S = 0.1
SAMPLE_S = 0.05
WAYS_OUT = (
    "run on a machine with an NVIDIA driver and a profile that asks for CUDAExecutionProvider (--on nvidia-gpu)",
    "take another source: --meter rapl for the processor, or --meter unavailable",
)


class Nvml(Meter):
    """One GPU: counter and sampled power, or sampled power alone on GPUs before Volta."""

    period_s = PERIOD_S

    def __init__(self, library: Any, device: int) -> None:
        self._library, self._device = library, _handle(library, device)
        self._first_mj, self._most_mj = self._counter_mj(), 0
        counted = self._first_mj is not None
        self._power = Integral(self._watts)
        if not counted and self._power.why:
            raise MeterAbsent(f"NVML gives neither energy nor power for GPU {device}", WAYS_OUT)
        self.provenance = "measured-counter" if counted else "measured-sampled"
        self.name = f"nvml:{'energy' if counted else 'power'}-{device}"
        self.scope = f"the board of GPU {device} ({_name(library, self._device)}); not the host"
        self._sampler = Sampler([self._power], SAMPLE_S)
        self._sampler.start()

    def _counter_mj(self) -> int | None:
        value = ctypes.c_ulonglong()
        status = self._library.nvmlDeviceGetTotalEnergyConsumption(self._device, ctypes.byref(value))
        return int(value.value) if status == 0 else None

    def _watts(self) -> float:
        value = ctypes.c_uint()
        status = self._library.nvmlDeviceGetPowerUsage(self._device, ctypes.byref(value))
        if status != 0:
            raise OSError(f"the power could not be read (status {status})")
        return value.value / 1e3

    def read(self) -> Reading:
        """Return the energy since the meter was opened; one that stops answering is a reading without joules."""
        if self._first_mj is None:
            return self._sampled(self.name)
        now = self._counter_mj()
        if now is None:
            return Reading(None, "unavailable", self.name, self.scope, "the energy counter stopped answering")
        self._most_mj = max(self._most_mj, now - self._first_mj)
        return Reading(self._most_mj / 1e3, self.provenance, self.name, self.scope)

    def also(self) -> list[Reading]:
        """Return the sampled power's energy, a cross-check of the counter."""
        return [] if self._first_mj is None else [self._sampled(self.name.replace("energy", "power"))]

    def _sampled(self, name: str) -> Reading:
        return self._power.reading("measured-sampled", name, self.scope)

    def close(self) -> None:
        """Stop the sampler and release NVML."""
        self._sampler.stop()
        self._library.nvmlShutdown()


def _handle(library: Any, device: int) -> Any:
    handle = ctypes.c_void_p()
    status = library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(device), ctypes.byref(handle))
    if status != 0:
        raise MeterAbsent(f"NVML has no GPU {device} (status {status})", WAYS_OUT)
    return handle


def _name(library: Any, handle: Any) -> str:
    text = ctypes.create_string_buffer(96)
    status = library.nvmlDeviceGetName(handle, text, ctypes.c_uint(96))
    return text.value.decode("utf-8", "replace") if status == 0 else "name not given"


def open_meter(options: Mapping[str, Any]) -> Meter:
    """Return the meter; raise MeterAbsent without driver or GPU, or where the work does not run on the GPU."""
    provider = options.get("provider", "CUDAExecutionProvider")
    if provider not in ("CUDAExecutionProvider", "TensorrtExecutionProvider"):
        raise MeterAbsent(f"NVML counts the GPU, and the work runs on {provider}", WAYS_OUT)
    library = options.get("library")
    if library is None:
        try:
            library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError as err:
            raise MeterAbsent(f"libnvidia-ml.so.1 cannot be loaded ({err})", WAYS_OUT) from err
    status = library.nvmlInit_v2()
    if status != 0:
        raise MeterAbsent(f"NVML does not start (status {status})", WAYS_OUT)
    try:
        return Nvml(library, int(options.get("device") or 0))
    except MeterAbsent:
        library.nvmlShutdown()
        raise
