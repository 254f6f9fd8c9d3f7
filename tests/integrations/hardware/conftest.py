"""A fake GPU for tests of hardware."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_nvml import State, build, open_state


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def _shared_state(fake_library: Path) -> State:
    return open_state(fake_library.with_name("state"))


@pytest.fixture
def gpu_state(
    fake_library: Path, _shared_state: State, monkeypatch: pytest.MonkeyPatch
) -> Iterator[State]:
    """The state of a fake GPU, which NVML shows here and in processes that are started."""
    pynvml = pytest.importorskip("pynvml")
    monkeypatch.setenv("FAKE_NVML_STATE", str(fake_library.with_name("state")))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake_library.parent))
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(fake_library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    _shared_state.reset()
    yield _shared_state
    _shared_state.reset()
