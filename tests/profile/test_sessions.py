"""A provider that was asked for and does not run is refused on this machine wherever a session is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail
from profile_bundle import tiny_encoder

from rmtkd_edge import sessions
from rmtkd_edge.errors import ProviderError
from rmtkd_edge.profile.measuring import basics
from rmtkd_edge.profile.measuring import sessions as measuring

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
OPENS: list[Callable[[Path, str], Any]] = [
    lambda file, provider: sessions.open_session(file, threads=1, provider=provider),
    lambda file, provider: measuring.open_session({"provider": provider, "threads": 1, "spinning": False}, file),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tiny_encoder(tmp_path / "a.onnx", 4)
    return tmp_path / "a.onnx"


@pytest.mark.skipif(torch.cuda.is_available(), reason="the provider may load")
@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("opened", OPENS)
def test_a_session_that_onnxruntime_opens_on_the_processor_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[[Path, str], Any]
) -> None:
    """It is listed and does not load, though libraries that pip installed are looked for: onnxruntime falls back."""
    looked: list[str] = []
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: looked.append("libraries"), raising=False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    with pytest.raises((ProviderError, basics.RunnerError), match=f"{CUDA} was asked for.*{CPU}"):
        opened(file, CUDA)
    assert looked == ["libraries"]


@pytest.mark.parametrize("opened", OPENS)
def test_a_provider_that_fails_in_a_call_is_not_replaced(
    file: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[[Path, str], Any]
) -> None:
    """onnxruntime would go on on the processor and say so on standard output alone."""

    class Fails:
        def __getattr__(self, name: str) -> Any:
            return getattr(whole, name)

        def run(self, *args: Any) -> Any:
            raise EPFail("CUDA failure 999")

    session = opened(file, CPU)
    whole, replaced = session._sess, []
    monkeypatch.setattr(session, "_sess", Fails())
    monkeypatch.setattr(session, "set_providers", lambda *args: replaced.append(args))
    feeds = {item.name: [[1, 2]] for item in session.get_inputs()}
    with pytest.raises(EPFail):
        session.run(None, feeds)
    assert not replaced
