from collections.abc import Callable, Iterator
from typing import Any

import pytest
from vllm_engine import FakeEngine, make_config


@pytest.fixture
def make_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeEngine]]:
    """Engines with fabricated workers, stopped in the end; arguments as of `make_config`."""
    monkeypatch.setenv("VLLM_PLUGINS", "")  # ours would leave its marks on this process
    # Collects all garbage three times, which costs more than all else here.
    monkeypatch.setattr("vllm.v1.engine.core.freeze_gc_heap", lambda: None)
    engines: list[FakeEngine] = []

    def make(*args: Any, delay: int = 0, seed: int = 0, **settings: Any) -> FakeEngine:
        own = {name: settings.pop(name) for name in ("skill", "v2") if name in settings}
        config = make_config(*args, delay=delay, **settings)
        engines.append(FakeEngine(config, delay=delay, seed=seed, **own))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()
