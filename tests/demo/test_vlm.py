"""The vision-language pair that ships, and what it is for."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from flyball.demo.measure_vlm import Agreement, agreements
from flyball.demo.scenes import IMAGE_SIZE, KINDS, draw_scene, inside, render
from flyball.demo.vlm_data import IMAGE_ID, NUM_IMAGE_TOKENS, SCENARIOS, VlmPrompt, draw_prompts
from flyball.demo.vlm_loader import (
    DRAFT_FOLDER,
    TARGET_FOLDER,
    VlmModels,
    left_padded,
    load_vlm_demo,
)
from flyball.demo.vlm_views import (
    NUM_POOLED_TOKENS,
    VIEWS,
    batch_logits,
    make_batch,
    pooled_features,
    view_ids,
)


@pytest.fixture(scope="module")
def models() -> VlmModels:
    return load_vlm_demo()


def test_weights_are_small_enough_to_ship() -> None:
    files = [path for folder in (TARGET_FOLDER, DRAFT_FOLDER) for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) < 8e6
    assert max(path.stat().st_size for path in files) < 4e6


def test_a_seed_gives_the_same_images_and_another_seed_gives_others() -> None:
    first, again, other = (
        render(draw_scene(random.Random(seed), num_shapes=4)) for seed in (1, 1, 2)
    )
    assert first.shape == (3, IMAGE_SIZE, IMAGE_SIZE) and first.dtype == np.float32
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.min() >= -1.0 and first.max() <= 1.0


def test_no_two_kinds_of_shape_look_alike() -> None:
    side = np.linspace(-1.0, 1.0, 33, dtype=np.float32)
    masks = [inside(kind, *np.meshgrid(side, side)) for kind in KINDS]
    for i, one in enumerate(masks):
        assert one.any()
        for another in masks[:i]:
            assert (one != another).mean() > 0.1


def test_a_seed_gives_the_same_prompts(models: VlmModels) -> None:
    first, again, other = (draw_prompts(models.tokenizer, seed, 2) for seed in (5, 5, 6))
    for scenario in SCENARIOS:
        for one, two in zip(first[scenario], again[scenario], strict=True):
            assert one.input_ids == two.input_ids and one.caption_ids == two.caption_ids
            assert np.array_equal(one.pixel_values, two.pixel_values)
        assert not np.array_equal(first[scenario][0].pixel_values, other[scenario][0].pixel_values)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_prompts_end_with_text_and_count_their_images(models: VlmModels, scenario: str) -> None:
    prompts = models.prompts[scenario]
    assert len(prompts) == 24
    for prompt in prompts:
        num_images = len(prompt.pixel_values)
        assert num_images >= (3 if scenario == "sequences" else 1)
        assert prompt.input_ids[-1] != IMAGE_ID
        assert prompt.input_ids.count(IMAGE_ID) == num_images * NUM_IMAGE_TOKENS
        assert len(prompt.caption_ids) == num_images
        assert view_ids(prompt, "pooled").count(IMAGE_ID) == num_images * NUM_POOLED_TOKENS
        assert IMAGE_ID not in view_ids(prompt, "text") + view_ids(prompt, "caption")
        text = [token for token in prompt.input_ids if token != IMAGE_ID]
        assert view_ids(prompt, "text") == text


def test_views_predict_the_same_tokens(models: VlmModels) -> None:
    dialogues = [(models.prompts[s][0], [7, 8, 9]) for s in ("captions", "sequences")]
    first, *others = [make_batch(dialogues, view) for view in VIEWS]
    assert first.labels[first.answers].tolist() == [7, 8, 9, 7, 8, 9]
    for other in others:
        assert torch.equal(first.labels, other.labels)
        assert torch.equal(first.answers, other.answers)


@torch.no_grad()
def test_pooled_features_are_means_of_neighbours(models: VlmModels) -> None:
    pixels = torch.from_numpy(models.prompts["captions"][0].pixel_values)
    features = models.draft.get_image_features(pixels).pooler_output[0]
    pooled = pooled_features(models.draft, pixels)[0]
    torch.testing.assert_close(pooled[1], features[[2, 3, 8, 9]].mean(dim=0))


@torch.no_grad()
@pytest.mark.parametrize("name", ["target", "draft"])
def test_padded_batches_write_what_single_prompts_do(models: VlmModels, name: str) -> None:
    model = getattr(models, name)
    prompts = [models.prompts[s][1] for s in ("captions", "second_turn", "sequences")]
    bare = view_ids(prompts[0], "text")
    prompts.append(VlmPrompt(bare, prompts[0].pixel_values[:0], []))
    together = _generate(model, prompts)
    assert together == [_generate(model, [prompt])[0] for prompt in prompts]


def _generate(model: Any, prompts: list[VlmPrompt]) -> list[list[int]]:
    inputs = left_padded(prompts)
    text = model.generate(**inputs, do_sample=False, max_new_tokens=24, min_new_tokens=24)
    answers: list[list[int]] = text[:, inputs["input_ids"].shape[1] :].tolist()
    return answers


@torch.no_grad()
def test_generate_follows_the_logits_of_the_whole_dialogue(models: VlmModels) -> None:
    prompt = models.prompts["captions"][0]
    (answer,) = _generate(models.target, [prompt])
    batch = make_batch([(prompt, answer)], "multimodal")
    best = batch_logits(models.target, batch)[batch.answers]
    best[:, 0] = -torch.inf  # the end token was forbidden
    assert best.argmax(dim=-1).tolist() == answer


def test_block_efficiency_counts_the_bonus_token() -> None:
    row = np.array([True, True, False, True, True, True, True, True, True])
    assert Agreement([row]).block_efficiency(5) == pytest.approx(9 / 2)
    assert Agreement([row]).block_efficiency(2) == pytest.approx(9 / 3)
    assert Agreement([row]).mean_run == 8.0


def test_the_image_helps_where_the_text_is_about_it_and_harms_where_it_is_not(
    models: VlmModels,
) -> None:
    gain = {}
    for scenario in SCENARIOS:
        found = agreements(models, scenario, 6, ("multimodal", "text"))
        gain[scenario] = found["multimodal"].per_token - found["text"].per_token
    assert min(gain["captions"], gain["questions"]) > 0.05, gain
    assert abs(gain["second_turn"]) < 0.1, gain
    assert max(gain["misleading"], gain["sequences"]) < -0.15, gain
