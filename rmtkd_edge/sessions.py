"""onnxruntime sessions with explicit threads, on the provider that was asked for or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from rmtkd_edge.errors import ProviderError, RunDirError, UserError, reason

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@contextmanager
def written_whole(target: Path) -> Iterator[None]:
    """Raise RunDirError where a model cannot be written, or was cut off, of which native code says nothing."""
    try:
        yield
    except OSError as err:
        raise RunDirError(f"cannot write {target}: {err.strerror or err}", "free space, then export again") from err
    except Exception as err:
        if type(err).__name__ != "DecodeError":  # protobuf's, which has no stable home
            raise
        raise RunDirError(
            f"cannot write {target}: what was written cannot be read again ({err})", "free space, then export again"
        ) from err


def open_session(
    path: Path, *, threads: int, provider: str = CPU, optimised: Path | None = None, trace: Path | None = None
) -> ort.InferenceSession:
    """Return a session on `provider` with `threads` intra-op threads that do not spin.

    `optimised` receives the graph as onnxruntime runs it; a file whose name begins with `trace` the time of every node,
    by `end_profiling`. Raises ProviderError where the provider is not there or
    another one was taken in its place, RunDirError naming a file that is no valid model.
    """
    if threads < 1:
        raise UserError(f"threads is {threads}", "--threads 1 or more")
    available = ort.get_available_providers()
    if provider not in available:
        raise ProviderError(
            f"{provider} is not in this onnxruntime ({ort.__version__}: {', '.join(available)})", f"--provider {CPU}"
        )
    if provider == CUDA and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds the CUDA libraries that pip installed, which no search path names
    options = session_options(threads)
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    if trace is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(trace)
    try:
        session = ort.InferenceSession(str(path), options, providers=[provider])
    except Exception as err:  # onnxruntime's own exceptions share no base class but Exception
        raise RunDirError(f"onnxruntime cannot load {path}: {reason(err)}", "export again with --force") from err
    if session.get_providers()[0] != provider:
        raise ProviderError(
            f"{provider} was asked for, onnxruntime took {session.get_providers()[0]}",
            "install the libraries of that provider, or --provider " + CPU,
        )
    session.disable_fallback()  # else a call that fails there is repeated on the processor, with no error
    return session


def session_options(threads: int) -> ort.SessionOptions:
    """Return options with explicit threads that do not spin, and only errors in the log."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def run_session(session: ort.InferenceSession, batch: Mapping[str, Any]) -> np.ndarray:
    """Return the first output of tensors or arrays by input name; what the graph does not read is left out."""
    kinds = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
    feed = {item.name: np.asarray(batch[item.name], dtype=kinds[item.type]) for item in session.get_inputs()}
    return session.run([session.get_outputs()[0].name], feed)[0]
