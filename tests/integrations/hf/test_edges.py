"""Corners: contexts that end, criteria without an end token, prefixes that do not come to be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hf_texts import pad_left, random_models, random_rows
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.stopping_criteria import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from flyball.controller.errors import HostError
from flyball.integrations.hf import govern
from flyball.integrations.hf.checks import check_model

EOS = 2


class EndsAfterToken(StoppingCriteria):
    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.isin(input_ids[:, -1], torch.arange(30, 38))


class Counts(BaseStreamer):
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.inference: list[bool] = []

    def put(self, value: torch.Tensor) -> None:
        self.tokens += value.flatten().tolist()
        self.inference.append(value.is_inference())

    def end(self) -> None:
        pass


@pytest.mark.parametrize("drafts", [0, 1, 2])
def test_a_text_that_outgrows_the_targets_context(drafts: int) -> None:
    target, draft = random_models("qwen2")
    target.config.max_position_embeddings = draft.config.max_position_embeddings = 40
    inputs = pad_left(random_rows(4), 0)
    settings: dict[str, Any] = {**inputs, "max_new_tokens": 60, "do_sample": False}
    expected = target.generate(**settings)
    gov = govern(target, [draft, "prompt_lookup"][:drafts])
    assert gov.generate(**settings).tolist() == expected.tolist()


def test_a_stream_ends_where_the_text_does() -> None:
    target, draft = random_models("qwen2")
    target.generation_config.eos_token_id = None
    ids = random_rows(1)[0][None]
    settings: dict[str, Any] = {
        "max_new_tokens": 60, "do_sample": False,
        "stopping_criteria": StoppingCriteriaList([EndsAfterToken()]),
    }  # fmt: skip
    theirs, ours = Counts(), Counts()
    target.generate(ids, streamer=theirs, **settings)
    govern(target, [draft, "prompt_lookup"]).generate(ids, streamer=ours, **settings)
    assert ours.tokens == theirs.tokens
    assert not any(ours.inference)


def test_without_an_end_token_rows_go_on_until_the_last_has_ended_and_no_further() -> None:
    target, draft = random_models("qwen2")
    target.generation_config.eos_token_id = None
    settings: dict[str, Any] = {
        **pad_left(random_rows(4), 0), "max_new_tokens": 200, "do_sample": False,
        "stopping_criteria": StoppingCriteriaList([EndsAfterToken()]),
    }  # fmt: skip
    expected = target.generate(**settings)
    rounds: list[Any] = []
    gov = govern(target, [draft, "prompt_lookup"], on_round=rounds.append)
    out = gov.generate(**settings)
    assert out.tolist() == expected.tolist()
    assert len(rounds) <= expected.shape[1] - settings["input_ids"].shape[1]


def test_nothing_is_allowed_behind_the_end() -> None:
    target, draft = random_models("qwen2")

    def allowed(row: int, ids: torch.Tensor) -> list[int]:
        return [] if EOS in ids.tolist() else [EOS, *range(3, 40)]

    settings: dict[str, Any] = {
        **pad_left(random_rows(3), 0), "max_new_tokens": 60, "do_sample": False,
    }  # fmt: skip
    bias = {(EOS,): 2.0}  # texts that end
    expected = target.generate(
        **settings, prefix_allowed_tokens_fn=lambda r, i: list(range(2, 40)), sequence_bias=bias
    )
    gov = govern(target, [draft, "prompt_lookup"])
    out = gov.generate(**settings, prefix_allowed_tokens_fn=allowed, sequence_bias=bias)
    assert out.tolist() == expected.tolist()
    with pytest.raises(HostError, match="it allows none"):
        gov.generate(**settings, prefix_allowed_tokens_fn=lambda row, ids: [])


class OnlyWhatWasWritten(LogitsProcessor):
    """Refuses prefixes that are shorter than the prompt, or not the prompt's continuation."""

    def __init__(self, prompts: torch.Tensor) -> None:
        self.prompts = prompts

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        width = self.prompts.shape[1]
        assert input_ids.shape[1] >= width
        starts = {tuple(prompt) for prompt in self.prompts.tolist()}
        assert all(tuple(row[:width]) in starts for row in input_ids.tolist())
        assert (input_ids[:, width:] > 0).all()  # padding is never a token's place
        return scores


def test_processors_see_no_prefix_that_nobody_wrote() -> None:
    target, draft = random_models("qwen2")
    short = random_models("qwen2")[1]
    short.config.max_position_embeddings = 30
    inputs = pad_left(random_rows(5), 0)
    check = LogitsProcessorList([OnlyWhatWasWritten(inputs["input_ids"])])
    settings: dict[str, Any] = {
        **inputs, "max_new_tokens": 70, "do_sample": False, "suppress_tokens": [0],
    }  # fmt: skip
    expected = target.generate(**settings)
    gov = govern(target, [draft, short, "prompt_lookup"])
    for _ in range(3):
        out = gov.generate(**settings, logits_processor=check)
        assert out.tolist() == expected.tolist()


class MasksAll(LogitsProcessor):
    """Leaves nothing to draw from."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, self.value)

    def __init__(self, value: float) -> None:
        self.value = value


@pytest.mark.parametrize("verification", ["standard", "block"])
@pytest.mark.parametrize("value", [-torch.inf, torch.nan])
def test_nothing_is_drawn_where_there_is_nothing_to_draw_from(
    verification: Any, value: float
) -> None:
    target, draft = random_models("qwen2")
    gov = govern(target, [draft], verification=verification)
    with pytest.raises(HostError, match="row 0 of the batch has none to draw from"):
        gov.generate(
            **pad_left(random_rows(2), 0), max_new_tokens=4, do_sample=True,
            logits_processor=LogitsProcessorList([MasksAll(value)]),
        )  # fmt: skip


def test_models_in_several_places_are_refused() -> None:
    target, _ = random_models("qwen2")
    target.hf_device_map = {"model.embed_tokens": 0, "lm_head": "cpu"}
    with pytest.raises(HostError, match="on one device, but it is on 0, cpu"):
        check_model(target, "target")


def test_a_target_that_is_split_over_processes_is_refused(tmp_path: Any) -> None:
    from torch import distributed
    from torch.distributed.tensor import distribute_tensor, init_device_mesh

    target, _ = random_models("qwen2")
    alone = not distributed.is_initialized()  # an engine that ran before leaves its group
    if alone:
        distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
        )
    try:
        split = distribute_tensor(target.lm_head.weight.detach(), init_device_mesh("cpu", (1,)))
        target.lm_head.weight = torch.nn.Parameter(split)
        with pytest.raises(HostError, match="in one process, but Qwen2ForCausalLM is split"):
            govern(target)
    finally:
        if alone:
            distributed.destroy_process_group()
