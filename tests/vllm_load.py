"""Load for an engine: requests that come, go and get in each other's way, by seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from vllm_fake import NUM_TOKENS
from vllm_fake_engine import FakeEngine

REGEX = r"[0-9]{3,8}(-[a-z]{1,4}){1,6}"


def put_under_load(
    engine: FakeEngine,
    seed: int,
    *,
    num_requests: int = 40,
    aborts: float = 0.0,
    grammar: float = 0.0,
    resets: float = 0.0,
    longest_prompt: int = 40,
    most_tokens: int = 60,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Send requests at random moments and step until all are answered.

    Args:
        engine: that answers.
        seed: of everything that is drawn.
        num_requests: in all.
        aborts: probability of a step that some client goes away.
        grammar: share of requests whose answer follows a regular expression.
        resets: probability of a step that the prefix cache is emptied and all are preempted.
        longest_prompt: tokens.
        most_tokens: asked for in an answer; the length limit of the model may come first.
        after_step: called after every step.
    """
    rng = np.random.default_rng(seed)
    stem = rng.integers(1, NUM_TOKENS, longest_prompt).tolist()  # prompts share parts of it
    num_sent = 0
    while num_sent < num_requests or engine.busy:
        for _ in range(min(int(rng.poisson(0.5)), num_requests - num_sent)):
            own = rng.integers(1, NUM_TOKENS, rng.integers(1, longest_prompt // 2 + 1)).tolist()
            prompt = stem[: int(rng.integers(0, longest_prompt // 2 + 1))] + own
            regex = REGEX if rng.random() < grammar else None
            engine.add(f"r{num_sent}", prompt, int(rng.integers(1, most_tokens + 1)), regex)
            num_sent += 1
        if rng.random() < aborts and engine.waited_for:
            engine.abort([str(rng.choice(engine.waited_for))], late=bool(rng.random() < 0.5))
        if rng.random() < resets:
            engine.core.reset_prefix_cache(reset_running_requests=True)
        engine.step()
        after_step()
