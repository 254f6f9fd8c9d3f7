"""What vLLM reads from the environment when it is imported, and the engines that tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

os.environ.update(
    HF_HUB_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    VLLM_LOGGING_LEVEL="WARNING",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",  # the engine core in the test's own process
    OMP_NUM_THREADS="1",
    # The n-gram drafter would raise torch's threads to numba's, which wait for each other
    # busily: on two cores that others use too, steps took up to 70 times as long.
    NUMBA_NUM_THREADS="1",
)


@pytest.fixture(scope="session")
def all_engines() -> dict[Hashable, Any]:
    """Every engine that was started, by what tells it apart."""
    return {}


@pytest.fixture
def share(all_engines: dict[Hashable, Any]) -> Iterator[Callable[..., Any]]:
    """Starts an engine, or gives the one that runs; it is checked when the test is over."""
    used = {}

    def start(key: Hashable, make: Callable[[], Any]) -> Any:
        if key not in all_engines:
            all_engines[key] = make()
        used[key] = all_engines[key]
        return used[key]

    yield start
    for engine in used.values():
        engine.check()


@pytest.fixture
def make_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Engines with fabricated workers, stopped in the end; arguments as of `make_config`."""
    monkeypatch.setenv("VLLM_PLUGINS", "")  # ours would leave its marks on this process
    # Collects all garbage three times, which costs more than all else here.
    monkeypatch.setattr("vllm.v1.engine.core.freeze_gc_heap", lambda: None)
    _draw_waits_for_grammars(monkeypatch)
    from vllm_fake_engine import (  # vLLM reads the environment when imported
        FakeEngine,
        make_config,
    )

    engines: list[FakeEngine] = []

    def make(*args: Any, delay: int = 0, seed: int = 0, **settings: Any) -> FakeEngine:
        own = {name: settings.pop(name) for name in ("skill", "v2") if name in settings}
        config = make_config(*args, delay=delay, **settings)
        engines.append(FakeEngine(config, delay=delay, seed=seed, **own))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def _draw_waits_for_grammars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grammars are compiled by threads: steps would differ from run to run."""
    from vllm.v1.structured_output.request import StructuredOutputRequest

    rng, done = np.random.default_rng(0), StructuredOutputRequest._check_grammar_completion

    def look(request: Any) -> bool:
        if not isinstance(request._grammar, Future):
            return True
        if not hasattr(request, "num_looks"):
            request.num_looks = int(rng.integers(0, 12))
        request.num_looks -= 1
        if request.num_looks >= 0:
            return False
        request._grammar.exception()  # waits for the thread
        return bool(done(request))

    monkeypatch.setattr(StructuredOutputRequest, "_check_grammar_completion", look)
