"""Targets that see images, and the views that drafts have of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ensemble_calls import ensemble_policy, only_together, take_over
from vlm_texts import IMAGE, NUM_TOKENS, one_row, prompts_with_images, random_llava

from flyball.controller.errors import HostError
from flyball.integrations.hf import DraftView, govern
from flyball.integrations.hf.views import PromptImages, embed, view_prompts

IDS = [7, 8, 9], [10], [11, 12], [13, 14]


def captions_of(num_images: list[int]) -> list[list[list[int]]]:
    """Token ids for each image of each row."""
    return [[IDS[place % 4] for place in range(count)] for count in num_images]


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return random_llava()


def all_views(draft: Any) -> list[DraftView]:
    return [DraftView(draft, image=image) for image in ("own", "none", "pooled", "caption")]


def expected(target: Any, inputs: dict[str, Any], num_images: list[int]) -> list[list[int]]:
    """New tokens of plain `generate` for each row alone."""
    texts = []
    for row in range(len(num_images)):
        own = one_row(inputs, row, num_images)
        out = target.generate(**own, max_new_tokens=40, do_sample=False)
        texts.append(out[0, own["input_ids"].shape[1] :].tolist())
    return texts


def check(out: torch.Tensor, width: int, texts: list[list[int]]) -> None:
    for row, text in zip(out[:, width:].tolist(), texts, strict=True):
        assert row[: len(text)] == text


@pytest.mark.parametrize("num_images", [[1], [1, 1, 1, 1], [2, 0, 1, 3]], ids=str)
def test_greedy_output_is_the_targets(pair: tuple[Any, Any], num_images: list[int]) -> None:
    target, draft = pair
    inputs = prompts_with_images(num_images)
    texts = expected(target, inputs, num_images)
    gov = govern(target, [*all_views(draft), "prompt_lookup"], policy=ensemble_policy())
    only_together(gov)
    captions = captions_of(num_images)
    out = gov.generate(
        **inputs, draft_inputs={"captions": captions}, max_new_tokens=40, do_sample=False
    )
    check(out, inputs["input_ids"].shape[1], texts)
    assert gov.stats.num_accepted > 0 and gov.governor.faults == {}
    # Without an ensemble one view drafts at a time.
    plain = govern(target, all_views(draft), policy={"version": 1})
    used: set[int] = set()
    plain.session.on_round = lambda stats: used.update(stats.draft[stats.draft_len > 0].tolist())
    for _ in range(3):
        out = plain.generate(**inputs, max_new_tokens=40, do_sample=False)
        check(out, inputs["input_ids"].shape[1], texts)
    assert used


def test_the_models_own_generate_takes_draft_inputs(pair: tuple[Any, Any]) -> None:
    target, draft = pair
    inputs = prompts_with_images([1, 1])
    gov = govern(target, all_views(draft), policy=ensemble_policy())
    only_together(gov)
    out = target.generate(
        **inputs,
        max_new_tokens=40,
        do_sample=False,
        custom_generate=gov,
        draft_inputs={"pixel_values": inputs["pixel_values"], "captions": captions_of([1, 1])},
    )
    check(out, inputs["input_ids"].shape[1], expected(target, inputs, [1, 1]))


def test_several_texts_of_one_prompt(pair: tuple[Any, Any]) -> None:
    """Every copy of a prompt has its images: a draft that is the target is always right."""
    target, _ = pair
    gov = govern(target, [target], policy={"version": 1})
    torch.manual_seed(0)
    gov.generate(
        **prompts_with_images([2, 1]),
        num_return_sequences=3,
        max_new_tokens=30,
        min_new_tokens=30,
        do_sample=True,
    )
    assert gov.stats.num_drafted > 50 and gov.stats.acceptance == 1.0


def test_a_draft_that_is_the_target_is_always_right(pair: tuple[Any, Any]) -> None:
    target, _ = pair
    num_images = [2, 1, 1]
    inputs = prompts_with_images(num_images)
    policy = {
        "version": 1,
        "length": {"policy": "static", "draft_len": 4, "max_draft_len": 4},
    }
    gov = govern(target, [target], policy=policy)
    gov.generate(**inputs, max_new_tokens=40, min_new_tokens=40, do_sample=False)
    assert gov.stats.acceptance == 1.0  # it sees the image, where stock assistants are blind


@pytest.mark.parametrize("image", ["own", "none", "pooled", "caption"])
def test_each_view_drafts_what_it_would_say_alone(pair: tuple[Any, Any], image: Any) -> None:
    """In float64 the tokens drafted by a lane among others are those of a plain forward."""
    target, draft = pair
    inputs = prompts_with_images([2, 1])
    gov = govern(target, all_views(draft), policy=ensemble_policy())
    only_together(gov)
    number = ["own", "none", "pooled", "caption"].index(image)
    said: list[tuple[int, list[float]]] = []  # slot, and the hits of one round
    weigh = gov.governor.weigh

    def watched(step_id: int, slots: Any, overlap: Any, *rest: Any) -> None:
        own = overlap[:, :, number]
        said.extend(
            (slot, row[~np.isnan(row)].tolist())
            for slot, row in zip(slots.tolist(), own, strict=True)
        )
        weigh(step_id, slots, overlap, *rest)

    take_over(gov, "weigh", watched)
    rounds: list[int] = []
    gov.session.on_round = lambda stats: rounds.extend(stats.num_accepted.tolist())
    out = gov.generate(
        **inputs,
        draft_inputs={"captions": captions_of([2, 1])},
        max_new_tokens=20,
        do_sample=False,
    )
    images = PromptImages(
        IMAGE,
        np.array([2, 1]),
        {},
        inputs["pixel_values"],
        [[np.array(ids) for ids in row] for row in captions_of([2, 1])],
    )
    prompts = [
        row[mask.bool()].numpy()
        for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]
    texts, hits = out[:, inputs["input_ids"].shape[1] :], []
    with torch.no_grad():
        viewed = view_prompts(DraftView(draft, image=image), prompts, images)
        for prompt, text in zip(viewed, texts, strict=True):
            before = embed(draft, [prompt], len(prompt.tokens))
            after = draft.get_input_embeddings()(text[None])
            logits = draft(inputs_embeds=torch.cat([before, after], dim=1)).logits[0]
            own = logits[len(prompt.tokens) - 1 : -1].argmax(dim=-1)
            hits.append((own == text).double().tolist())
    places = [1, 1]  # reading the prompt makes the first token
    for (slot, seen), accepted in zip(said, rounds, strict=True):
        assert seen == hits[slot][places[slot] : places[slot] + len(seen)]
        places[slot] += accepted + 1
    assert min(places) > 10


def test_views_without_an_image_stand_aside(
    pair: tuple[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    target, draft = pair
    inputs = prompts_with_images([0, 0])
    gov = govern(target, all_views(draft), policy=ensemble_policy())
    only_together(gov)
    overlaps: list[Any] = []
    weigh = gov.governor.weigh

    def watched(step_id: int, slots: Any, overlap: Any, *rest: Any) -> None:
        overlaps.append(overlap)
        weigh(step_id, slots, overlap, *rest)

    take_over(gov, "weigh", watched)
    out = gov.generate(**inputs, max_new_tokens=40, do_sample=False)
    check(out, inputs["input_ids"].shape[1], expected(target, inputs, [0, 0]))
    assert "left out of this call: own, pooled, caption" in caplog.text
    assert all(np.isnan(overlap[:, :, [0, 2, 3]]).all() for overlap in overlaps)
    assert any((overlap[:, :, 1] >= 0).any() for overlap in overlaps)


def test_one_view_at_a_time_where_that_one_lacks_its_image(pair: tuple[Any, Any]) -> None:
    target, draft = pair
    gov = govern(target, all_views(draft)[:2], policy=ensemble_policy("metasd"))
    only_together(gov)
    torch.manual_seed(0)
    for num_images in ([0], [1, 0]):
        gov.generate(**prompts_with_images(num_images), max_new_tokens=40, do_sample=True, top_k=0)
    assert gov.stats.num_accepted > 0 and gov.governor.faults == {}


def test_bad_inputs_are_refused_in_one_line(pair: tuple[Any, Any]) -> None:
    target, draft = pair
    inputs = prompts_with_images([1, 1])
    gov = govern(target, all_views(draft), policy=ensemble_policy())
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (inputs, {"pixels": 1}, "draft_inputs of captions and pixel_values, but got pixels"),
        (inputs, {"captions": [[[1]]]}, r"captions for \[1, 1\] images .*but got \[1\]"),
        (inputs, {"pixel_values": inputs["pixel_values"][:1]}, "for 2 images .*but got 1"),
        (prompts_with_images([0]), {"captions": [[[1]]]}, "images for the target .*got none"),
    ]
    for own, draft_inputs, message in cases:
        with pytest.raises(HostError, match=message) as error:
            gov.generate(**own, draft_inputs=draft_inputs, max_new_tokens=4)
        assert "\n" not in str(error.value)
    three = dict(inputs, pixel_values=inputs["pixel_values"][[0, 1, 1]])
    with pytest.raises((HostError, ValueError)):
        gov.generate(**three, max_new_tokens=4)
    with pytest.raises(HostError, match="expected text, and pixel_values .*but got video;"):
        gov.generate(**prompts_with_images([0]), mm_encoder_outputs={"video": inputs})
    with pytest.raises(HostError, match="no images with a queue of prompts; use generate"):
        pixels = inputs["pixel_values"][:1]
        gov.generate_many([inputs["input_ids"][1].tolist()], pixel_values=pixels, max_new_tokens=4)
    odd = [DraftView(draft, image="pooled", pool=3)]
    with pytest.raises(HostError, match="whose side 3 divides, but got 16 tokens"):
        govern(target, odd).generate(**inputs, max_new_tokens=4)
    assert NUM_TOKENS == 16
