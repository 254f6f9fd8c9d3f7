"""What people expect around `generate`: streams, stop strings, one caller at a time, numbers."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from hf_texts import pad_left, random_models, random_rows
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from flyball.controller.errors import HostError
from flyball.demo.loader import DemoModels, load_demo
from flyball.integrations.hf import govern

LENGTH = 40


class Notes(BaseStreamer):
    """A streamer that notes what it gets."""

    def __init__(self) -> None:
        self.puts: list[list[int]] = []
        self.ends = 0

    def put(self, value: torch.Tensor) -> None:
        self.puts.append(value.flatten().tolist())

    def end(self) -> None:
        self.ends += 1


class FailsAfter(LogitsProcessor):
    """A caller's processor that raises in the middle of a text."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] > self.length:
            raise RuntimeError("the caller's own")
        return scores


@pytest.fixture(scope="module")
def demo() -> DemoModels:
    return load_demo()


@pytest.fixture
def pair() -> tuple[Any, Any]:
    return random_models("qwen2")


def test_a_streamer_gets_what_stock_gives_it(pair: tuple[Any, Any]) -> None:
    ids = random_rows(1)[0][None]
    theirs, ours = Notes(), Notes()
    pair[0].generate(ids, max_new_tokens=LENGTH, do_sample=False, streamer=theirs)
    gov = govern(pair[0], [pair[1], "prompt_lookup"])
    gov.generate(ids, max_new_tokens=LENGTH, do_sample=False, streamer=ours)
    assert ours.puts == theirs.puts
    assert ours.ends == theirs.ends == 1


def test_after_an_error_the_stream_has_ended_and_the_governor_goes_on(
    pair: tuple[Any, Any],
) -> None:
    ids, notes = random_rows(1)[0][None], Notes()
    gov = govern(pair[0], [pair[1]])
    failing = LogitsProcessorList([FailsAfter(ids.shape[1] + 9)])
    settings: dict[str, Any] = {"max_new_tokens": LENGTH, "do_sample": False}
    with pytest.raises(RuntimeError, match="the caller's own"):
        gov.generate(ids, logits_processor=failing, streamer=notes, **settings)
    assert notes.ends == 1
    assert len(notes.puts) > 1
    expected = pair[0].generate(ids, **settings)
    assert gov.generate(ids, **settings).tolist() == expected.tolist()
    assert gov.governor._pool.num_slots == 1  # taken back


def test_a_streamer_takes_one_text(pair: tuple[Any, Any]) -> None:
    notes = Notes()
    with pytest.raises(HostError, match="one text with a streamer, but got 2"):
        govern(pair[0], [pair[1]]).generate(
            **pad_left(random_rows(2), 0), streamer=notes, max_new_tokens=3
        )
    assert notes.ends == 1


@pytest.mark.parametrize("where", ["argument", "configuration"])
def test_stop_strings(demo: DemoModels, where: str) -> None:
    inputs = demo.tokenizer(
        demo.prompts["code"][0], return_tensors="pt", return_token_type_ids=False
    )
    settings: dict[str, Any] = {**inputs, "do_sample": False, "tokenizer": demo.tokenizer}
    if where == "argument":
        settings |= {"max_new_tokens": 120, "stop_strings": ["self", "):"]}
    else:
        settings["generation_config"] = GenerationConfig(
            max_new_tokens=120, stop_strings=["self", "):"], eos_token_id=0, pad_token_id=0
        )
    expected = demo.target.generate(**settings)
    assert expected.shape[1] < inputs["input_ids"].shape[1] + 120
    gov = govern(demo.target, [demo.draft, "prompt_lookup"])
    assert gov.generate(**settings).tolist() == expected.tolist()
    many = gov.generate_many(
        [inputs["input_ids"][0]] * 2, max_new_tokens=120, stop_strings=["self", "):"],
        tokenizer=demo.tokenizer, do_sample=False,
    )  # fmt: skip
    assert [text.tolist() for text in many] == 2 * expected.tolist()


def test_a_second_call_at_the_same_time_is_refused(pair: tuple[Any, Any]) -> None:
    ids = random_rows(1)[0][None]
    errors: list[str] = []

    def second() -> None:
        try:
            other.generate(ids, max_new_tokens=3, do_sample=False)
        except HostError as error:
            errors.append(str(error))

    def on_round(_: object) -> None:
        if not errors:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()

    gov = govern(pair[0], [pair[1]], on_round=on_round)
    other = govern(pair[0], [pair[1]])
    expected = pair[0].generate(ids, max_new_tokens=20, do_sample=False)
    out = gov.generate(ids, max_new_tokens=20, do_sample=False)
    assert out.tolist() == expected.tolist()
    assert "already generating" in errors[0]
    second()
    assert len(errors) == 1  # afterwards the model is free


def test_a_closed_governor_refuses(pair: tuple[Any, Any]) -> None:
    with govern(pair[0], [pair[1]]) as gov:
        gov.generate(random_rows(1)[0][None], max_new_tokens=3)
    with pytest.raises(HostError, match="it is closed"):
        gov.generate(random_rows(1)[0][None], max_new_tokens=3)
    with pytest.raises(HostError, match="it is closed"):
        pair[0].generate(random_rows(1)[0][None], max_new_tokens=3, custom_generate=gov)


def test_stats_add_up(pair: tuple[Any, Any]) -> None:
    rounds: list[Any] = []
    gov = govern(pair[0], [pair[1], "prompt_lookup"], on_round=rounds.append)
    prompts = random_rows(3)
    out = gov.generate_many(prompts, max_new_tokens=30, do_sample=False)
    stats = gov.stats
    new = sum(len(text) - len(row) for text, row in zip(out, prompts, strict=True))
    assert stats.num_calls == 1
    assert stats.num_tokens == new == sum(r.num_tokens for r in rounds) + len(prompts)
    assert stats.num_rounds == len(rounds)
    assert stats.num_drafted == sum(int(r.draft_len.sum()) for r in rounds)
    assert stats.num_accepted == sum(int(r.num_accepted.sum()) for r in rounds)
    assert 0.0 <= stats.acceptance <= 1.0
    assert 0.0 < stats.prompt_s + stats.draft_s + stats.verify_s < stats.total_s
    assert stats.host_s > 0.0


def test_callers_get_ordinary_tensors(pair: tuple[Any, Any]) -> None:
    gov = govern(pair[0], [pair[1]])
    out = gov.generate(
        random_rows(1)[0][None], max_new_tokens=5, do_sample=False,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    many = gov.generate_many(random_rows(1), max_new_tokens=5, do_sample=False)
    assert not any(t.is_inference() for t in (out.sequences, *out.scores, *many))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"custom_generate": lambda: 0}, "governor's own place"),
        ({"assistant_model": 1}, "pass it to govern"),
        ({"prompt_lookup_num_tokens": 3}, "'prompt_lookup'"),
        ({"stop_strings": "x"}, "expected a tokenizer"),
        ({"stop_strings": "", "tokenizer": 1}, "at least one character"),
    ],
)
def test_arguments_that_are_not_for_here(
    pair: tuple[Any, Any], settings: dict[str, Any], match: str
) -> None:
    with pytest.raises(HostError, match=match) as caught:
        govern(pair[0], [pair[1]]).generate(random_rows(1)[0][None], **settings)
    assert "\n" not in str(caught.value)


def test_wrong_drafts(pair: tuple[Any, Any]) -> None:
    with pytest.raises(HostError, match="write drafts="):
        govern(pair[0], pair[1])
    with pytest.raises(HostError, match="once among the drafts"):
        govern(pair[0], ["prompt_lookup", "prompt_lookup"])
