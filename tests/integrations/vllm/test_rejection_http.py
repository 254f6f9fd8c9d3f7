"""Clients of a vLLM server are answered whatever becomes of their candidates."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from vllm_serving import Server, serving

from flyball.demo.widen import save_for_vllm

POLICY = "version: 1\nrejection: {policy: first_finish}\n"
PROMPT = "The old man went to the market and bought"
# Before the first checkpoint nobody may end: candidates reach the engine one by one.
SAMPLED: dict[str, Any] = {
    "temperature": 1.0,
    "seed": 3,
    "n": 4,
    "min_tokens": 8,
    "max_tokens": 200,
    "stop": ["e"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    target, _ = save_for_vllm(folder)
    template = folder / "template.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    flags = (
        *("--served-model-name", "demo", "--kv-cache-memory-bytes", str(2**28)),
        *("--chat-template", str(template)),
    )
    with serving(target, *flags, policy=policy) as running:
        yield running


def check(reasons: list[str]) -> None:
    """Some have found the end that they were asked for, the others were stopped."""
    found = Counter(reasons)
    assert found["stop"] > 0 < found["abort"]
    assert found["stop"] + found["abort"] == SAMPLED["n"]


def test_a_whole_answer_tells_who_was_stopped(server: Server) -> None:
    answer = server.complete(model="demo", prompt=PROMPT, **SAMPLED)
    check([choice["finish_reason"] for choice in answer["choices"]])
    assert sorted(choice["index"] for choice in answer["choices"]) == [0, 1, 2, 3]
    for choice in answer["choices"]:
        assert choice["text"]
    num_stopped = sum(choice["finish_reason"] == "abort" for choice in answer["choices"])
    assert len(server.logged("stopped candidate", num_stopped)) == num_stopped


REQUESTS: dict[str, dict[str, Any]] = {
    "completions": {"prompt": PROMPT},
    "chat/completions": {"messages": [{"role": "user", "content": PROMPT}]},
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_streamed_answer_ends(server: Server, kind: str) -> None:
    chunks = server.stream(kind, model="demo", **REQUESTS[kind], **SAMPLED)
    reasons: dict[int, list[str]] = defaultdict(list)
    texts: dict[int, str] = defaultdict(str)
    for chunk in chunks:
        for choice in chunk["choices"]:
            assert not reasons[choice["index"]], "text after the end"
            new = choice["delta"]["content"] if "delta" in choice else choice["text"]
            texts[choice["index"]] += new or ""
            if choice["finish_reason"] is not None:
                reasons[choice["index"]].append(choice["finish_reason"])
    check([reason for (reason,) in reasons.values()])
    assert all(texts.values())


def test_a_request_for_one_answer_is_none_of_its_business(server: Server) -> None:
    one = {**SAMPLED, "n": 1, "stop": [], "max_tokens": 12, "ignore_eos": True}
    answer = server.complete(model="demo", prompt=PROMPT, **one)
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length"]
