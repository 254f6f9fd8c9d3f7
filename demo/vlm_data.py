"""Dialogues of the vision-language pair by scenario, as text and as token ids.

In-domain scenarios speak about the image: `captions`, `questions`, `second_turn`. Out of domain
the text goes on by itself: `misleading` has an image that has nothing to do with it, `sequences`
has one for each of its pages. `cells` is for training alone: every word of its answers takes a
look at the image, which captions teach much more slowly. `lists` is for the draft's training
alone, see `image_lists`. Everything follows from a seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.demo import plain_text, scene_dialogue, scene_text
from flyball.demo.image_lists import image_list
from flyball.demo.scenes import IMAGE_SIZE, Scene, draw_scene, render

IN_DOMAIN = ("captions", "questions", "second_turn")
OUT_OF_DOMAIN = ("misleading", "sequences")
SCENARIOS = IN_DOMAIN + OUT_OF_DOMAIN

END, IMAGE, USER, ASSISTANT = "<|end|>", "<image>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = (END, IMAGE, USER, ASSISTANT)  # ids in this order
END_ID, IMAGE_ID = 0, 1
PATCH_SIZE = 8
GRID = IMAGE_SIZE // PATCH_SIZE  # image tokens a side
NUM_IMAGE_TOKENS = GRID * GRID


@dataclass(frozen=True)
class Sample:
    """One dialogue in text.

    Attributes:
        prompt: up to and with the last `<|assistant|>`, one `<image>` for each image.
        answer: what a good model would say.
        scenes: of the images, in their order.
        captions: a short and faulty caption for each image.
    """

    prompt: str
    answer: str
    scenes: list[Scene]
    captions: list[str]


@dataclass(frozen=True)
class VlmPrompt:
    """A prompt as the models read it.

    Attributes:
        input_ids: token ids, NUM_IMAGE_TOKENS placeholders for each image; the last one is text.
        pixel_values: (num_images, 3, IMAGE_SIZE, IMAGE_SIZE) float32, from -1 to 1.
        caption_ids: for each image the ids that take the place of its placeholders in the caption
            view.
    """

    input_ids: list[int]
    pixel_values: NDArray[np.float32]
    caption_ids: list[list[int]]


def _captions(rng: random.Random) -> Sample:
    scene = draw_scene(rng, rng.randint(3, 4))
    prompt = f"{USER}{IMAGE}{scene_text.caption_request(rng)}{ASSISTANT}"
    return _sample(prompt, scene_text.caption(scene, rng), [scene], rng)


def _questions(rng: random.Random) -> Sample:
    scene = draw_scene(rng, rng.randint(3, 4))
    asked, answer = scene_dialogue.question(scene, rng)
    return _sample(f"{USER}{IMAGE}{asked}{ASSISTANT}", answer, [scene], rng)


def _second_turn(rng: random.Random) -> Sample:
    scene = draw_scene(rng, rng.randint(3, 4))
    first = f"{USER}{IMAGE}{scene_text.caption_request(rng)}{ASSISTANT}"
    asked, answer = scene_dialogue.second_turn(scene, rng)
    prompt = f"{first}{scene_text.caption(scene, rng)}{END}{USER}{asked}{ASSISTANT}"
    return _sample(prompt, answer, [scene], rng)


def _cells(rng: random.Random) -> Sample:
    scene = draw_scene(rng, rng.randint(3, 7))
    prompt = f"{USER}{IMAGE}Go through the cells.{ASSISTANT}"
    return _sample(prompt, scene_dialogue.all_cells(scene, rng), [scene], rng)


def _lists(rng: random.Random) -> Sample:
    scene = draw_scene(rng, rng.randint(6, 9))
    pieces = image_list(scene, rng)
    shown = rng.randint(1, 3)
    prompt = f"{USER}{IMAGE}Go on: {''.join(pieces[:shown])}{ASSISTANT}"
    return _sample(prompt, "".join(pieces[shown:]), [scene], rng)


def _misleading(rng: random.Random) -> Sample:
    begun, rest = plain_text.plain_text(rng)
    scene = draw_scene(rng, rng.randint(1, 4))
    return _sample(f"{USER}{IMAGE}Go on: {begun}{ASSISTANT}", rest, [scene], rng)


def _sequences(rng: random.Random) -> Sample:
    begun, rest = plain_text.pages(rng, 3)
    scenes = [draw_scene(rng, rng.randint(1, 4)) for _ in begun]
    pages = "".join(f"{IMAGE}{page}" for page in begun)
    return _sample(f"{USER}Go on: {pages}{ASSISTANT}", rest, scenes, rng)


def _sample(prompt: str, answer: str, scenes: list[Scene], rng: random.Random) -> Sample:
    captions = [scene_text.short_caption(scene, rng) for scene in scenes]
    return Sample(prompt, answer, scenes, captions)


MAKERS: dict[str, Callable[[random.Random], Sample]] = {
    "cells": _cells,
    "lists": _lists,
    "captions": _captions,
    "questions": _questions,
    "second_turn": _second_turn,
    "misleading": _misleading,
    "sequences": _sequences,
}


def draw_sample(scenario: str, rng: random.Random) -> Sample:
    """A dialogue of one scenario."""
    return MAKERS[scenario](rng)


def encode_prompt(sample: Sample, tokenizer: Any) -> VlmPrompt:
    """Token ids and pixels of a sample's prompt."""
    ids = tokenizer(sample.prompt)["input_ids"]
    widths = (NUM_IMAGE_TOKENS if token == IMAGE_ID else 1 for token in ids)
    expanded = [t for t, width in zip(ids, widths, strict=True) for _ in range(width)]
    pixels = np.stack([render(scene) for scene in sample.scenes])
    captions = [tokenizer(text)["input_ids"] for text in sample.captions]
    return VlmPrompt(expanded, pixels, captions)


def encode_answer(sample: Sample, tokenizer: Any, max_tokens: int) -> list[int]:
    """Token ids of a sample's answer, with the end token unless it is cut short."""
    ids: list[int] = [*tokenizer(sample.answer)["input_ids"], END_ID]
    return ids[:max_tokens]


def draw_prompts(tokenizer: Any, seed: int, per_scenario: int) -> dict[str, list[VlmPrompt]]:
    """Prompts of every scenario from one seed."""
    return {
        scenario: [
            encode_prompt(draw_sample(scenario, rng), tokenizer) for _ in range(per_scenario)
        ]
        for scenario, rng in ((name, random.Random(f"{seed} {name}")) for name in SCENARIOS)
    }
