"""Clocks of `benchmarks.hf`: around a text, and around the forwards of both models."""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from benchmarks.hf_modes import Counts, Inputs, Runner
from flyball.demo.loader import DemoModels

Result = TypeVar("Result")


def timed(device: torch.device, work: Callable[[], Result]) -> tuple[Result, float]:
    """The result and seconds of `work`, with the device idle at both ends."""
    gc.collect()
    gc.disable()
    try:
        _synchronize(device)
        start = time.perf_counter()
        result = work()
        _synchronize(device)
        return result, time.perf_counter() - start
    finally:
        gc.enable()


def probe(models: DemoModels, runner: Runner, inputs: Inputs) -> Counts:
    """Count and time the forwards of one text, in a pass of its own because it slows it down.

    The target's forwards are rounds; what they verify is drafted. A prompt's first forward is a
    round too. `host_s` is everything outside the forwards of both models, so it holds the work
    around a draft's forwards, which Flyball's own `stats` count as drafting.
    """
    spent, widths = [0.0], list[int]()
    with _watched(models.target, spent, widths), _watched(models.draft, spent, []):
        out, seconds = timed(models.target.device, lambda: runner.generate(inputs))
    tokens = out.shape[1] - inputs["input_ids"].shape[1]
    rounds = len(widths)
    return Counts(rounds, sum(widths) - rounds, tokens - rounds, seconds - spent[0])


@contextmanager
def _watched(model: Any, spent: list[float], widths: list[int]) -> Iterator[None]:
    forward = model.forward

    # transformers looks at the signature to see which arguments a model takes.
    @functools.wraps(forward)
    def watched(*args: Any, **kwargs: Any) -> Any:
        _synchronize(model.device)
        start = time.perf_counter()
        result = forward(*args, **kwargs)
        _synchronize(model.device)
        spent[0] += time.perf_counter() - start
        widths.append(result.logits.shape[1])
        return result

    model.forward = watched
    try:
        yield
    finally:
        del model.forward


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
