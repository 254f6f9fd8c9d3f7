"""Greedy output of a governed engine is that of the same engine without speculation.

Token for token in float32, up to near ties: where two of the target's logits lie within 1e-4,
the shape of a batch may tip the balance. Such a place is proven in float64 and logged.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams
from vllm_bench import Bench
from vllm_engines import Engine, RandomLengths

from flyball.commands.vllm_args import LOOKUP
from flyball.demo.loader import MODELS
from flyball.demo.widen import save_for_vllm
from flyball.integrations.vllm.traits import PROBED_WORKER

DOMAINS = ("code", "prose", "tables")
NEW_TOKENS = 32
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}
KINDS: dict[str, dict[str, Any]] = {
    "roomy": {"max_model_len": 1024, "kv_cache_memory_bytes": 2**28},
    # Long prompts are read in parts, and a batch outgrows the cache.
    "tight": {
        "max_model_len": 512,
        "num_gpu_blocks_override": 20,
        "max_num_batched_tokens": 128,
    },
    "short": {"max_model_len": 128},
}


def greedy(**settings: Any) -> SamplingParams:
    return SamplingParams(
        temperature=0.0, **{"max_tokens": NEW_TOKENS, "ignore_eos": True, **settings}
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of the demo's target and draft."""
    return save_for_vllm(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Prompts of all domains in turn."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODELS / "target")
    texts = json.loads((MODELS / "prompts.json").read_text(encoding="utf-8"))
    rows = zip(*(texts[domain] for domain in DOMAINS), strict=True)
    return [tokenizer(text)["input_ids"] for row in rows for text in row]


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[str, list[list[int]]]]:
    """What plain engines wrote, which is asked for by one test after the other."""
    return {kind: {} for kind in KINDS}


@pytest.fixture(params=["ngram", "lookup", "draft_model", "probed"])
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(
    share: Callable[..., Any], models: tuple[Path, Path], expected: Any, method: str
) -> Callable[[str], Bench]:
    drafter: dict[str, Any] = {
        "ngram": {"method": "ngram", "prompt_lookup_max": 4, "prompt_lookup_min": 2},
        "lookup": {"method": "custom_class", "model": LOOKUP},
    }.get(method, {"method": "draft_model", "model": str(models[1])})
    speculative = {"num_speculative_tokens": 8, **drafter}
    worker = PROBED_WORKER if method == "probed" else "auto"

    @functools.cache
    def target() -> Any:
        return AutoModelForCausalLM.from_pretrained(models[0], dtype=torch.float64)

    def bench(kind: str) -> Bench:
        start = functools.partial(Engine, models[0], **KINDS[kind])
        return Bench(
            share((method, kind), functools.partial(start, speculative, worker_cls=worker)),
            share(("plain", kind), start),
            target,
            expected[kind],
        )

    return bench


@pytest.fixture(params=["goodput", "random"])
def bench(
    request: pytest.FixtureRequest, make: Callable[[str], Bench]
) -> Iterator[Callable[[str], Bench]]:
    """Engines under the usual policy, and under lengths that are drawn at random."""
    if request.param == "goodput":
        yield make
        return
    with contextlib.ExitStack() as stack:

        def seated(kind: str) -> Bench:
            bench = make(kind)
            stack.enter_context(bench.governed.seat(RandomLengths()))
            return bench

        yield seated


@pytest.fixture
def roomy(bench: Callable[[str], Bench]) -> Bench:
    return bench("roomy")


@pytest.fixture
def tight(bench: Callable[[str], Bench]) -> Bench:
    return bench("tight")


def test_a_wrong_token_is_no_near_tie(
    make: Callable[[str], Bench], prompts: list[list[int]]
) -> None:
    bench = make("roomy")
    (text,) = bench.plain.texts(prompts[:1], greedy())
    with pytest.raises(AssertionError, match="text 0, token 5: "):
        bench.judge(prompts[:1], [text], [[*text[:5], (text[5] + 1) % 512, *text[6:]]])
    with pytest.raises(AssertionError, match="text 0: 32 tokens, not 31"):
        bench.judge(prompts[:1], [text], [text[:-1]])


def test_batches_of_all_sizes(roomy: Bench, prompts: list[list[int]]) -> None:
    pilot = roomy.governed.pilot
    proposed, accepted = pilot.num_proposed, pilot.num_accepted
    for size in (1, 4, 16, 32):
        roomy.compare(prompts[:size], greedy())
    proposed, accepted = pilot.num_proposed - proposed, pilot.num_accepted - accepted
    assert 200 < accepted < proposed - 20  # lookup knows what the engine said before


def test_prompts_that_take_several_steps(tight: Bench, prompts: list[list[int]]) -> None:
    long = [sum(prompts[first : first + 9 : 3], []) for first in range(8)]
    assert min(map(len, long)) > KINDS["tight"]["max_num_batched_tokens"]
    tight.compare(long, greedy())


def test_preempted_requests(tight: Bench, prompts: list[list[int]]) -> None:
    before = tight.governed.metric("num_preemptions")
    tight.compare(prompts[:32], greedy())
    assert tight.governed.metric("num_preemptions") > before + 5


def test_texts_that_fill_the_context(
    bench: Callable[[str], Bench], prompts: list[list[int]]
) -> None:
    short = bench("short")
    rows = [prompt[: 40 + 7 * number] for number, prompt in enumerate(prompts[:9])]
    texts = short.compare(rows, greedy(max_tokens=100))
    lengths = [len(row) + len(text) for row, text in zip(rows, texts, strict=True)]
    assert lengths == [KINDS["short"]["max_model_len"]] * len(rows)


def test_prefixes_that_are_cached(roomy: Bench, prompts: list[list[int]]) -> None:
    prefix = prompts[2] + prompts[5]
    rows = [prefix + prompt[: 5 * i] for i, prompt in enumerate(prompts[:8])]
    roomy.compare(rows[:1], greedy())
    outputs = roomy.governed.generate(rows, greedy())
    assert min(output.num_cached_tokens for output in outputs) >= 96
    roomy.compare(rows, greedy())


def test_aborts_in_mid_stream_leave_the_others_alone(
    roomy: Bench, prompts: list[list[int]]
) -> None:
    engine, rows = roomy.governed.llm.llm_engine, prompts[:12]
    expected = roomy.plain.texts(rows, greedy(max_tokens=64))
    for number, prompt in enumerate(rows):
        engine.add_request(str(number), {"prompt_token_ids": prompt}, greedy(max_tokens=64))
    texts, aborts = [[] for _ in rows], {1: ["0", "5"], 3: ["7"], 6: ["3", "8", "10"]}
    for step in itertools.count():
        for output in engine.step():
            texts[int(output.request_id)] = list(output.outputs[0].token_ids)
        engine.abort_request(aborts.get(step, []))
        if not engine.has_unfinished_requests():
            break
    for number in (0, 5, 7, 3, 8, 10):
        assert 0 < len(texts[number]) < 64
        expected[number] = expected[number][: len(texts[number])]
    roomy.judge(rows, texts, expected)


def test_a_schema_among_free_requests(roomy: Bench, prompts: list[list[int]]) -> None:
    schema = StructuredOutputsParams(json=SCHEMA)
    bound = greedy(ignore_eos=False, max_tokens=48, structured_outputs=schema)
    settings = [bound if number % 3 == 0 else greedy() for number in range(9)]
    texts = roomy.compare(prompts[:9], settings)
    tokenizer = roomy.governed.llm.get_tokenizer()
    assert all(tokenizer.decode(text).startswith("{") for text in texts[::3])
    assert sum(text[-1] == tokenizer.eos_token_id for text in texts[::3]) > 1


ENDS: dict[str, dict[str, Any]] = {
    "one token": {"max_tokens": 1},
    "end token": {"ignore_eos": False, "allowed_token_ids": list(range(0, 512, 32))},
    "tokens": {"stop_token_ids": [82, 97]},
    "string": {"stop": ["e ", "\n\n"]},
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_texts_that_end_early(roomy: Bench, prompts: list[list[int]], end: dict[str, Any]) -> None:
    texts = roomy.compare(prompts[:9], greedy(**end))
    assert sum(len(text) < NEW_TOKENS for text in texts) >= 2


PROCESSORS: dict[str, dict[str, Any]] = {
    "repetition penalty": {"repetition_penalty": 1.3},
    "presence and frequency": {"presence_penalty": 0.7, "frequency_penalty": 0.4},
    "least length": {"min_tokens": 20, "stop_token_ids": [82, 97], "ignore_eos": False},
    "bad words": {"bad_words": ["the", "self", "return x"]},
    "allowed tokens": {"allowed_token_ids": list(range(1, 512, 2))},
}


@pytest.mark.parametrize("settings", PROCESSORS.values(), ids=PROCESSORS)
def test_processors_see_each_positions_own_prefix(
    roomy: Bench, prompts: list[list[int]], settings: dict[str, Any]
) -> None:
    assert roomy.compare(prompts[:6], greedy(**settings)) != roomy.plain.texts(
        prompts[:6], greedy()
    )


def test_greedy_requests_among_sampled_ones(roomy: Bench, prompts: list[list[int]]) -> None:
    sampled = SamplingParams(temperature=1.0, max_tokens=NEW_TOKENS, ignore_eos=True)
    settings = [greedy() if number % 2 == 0 else sampled for number in range(8)]
    texts = roomy.governed.texts(prompts[:8], settings)[::2]
    roomy.judge(prompts[:8:2], texts, roomy.plain.texts(prompts[:8:2], greedy()))
