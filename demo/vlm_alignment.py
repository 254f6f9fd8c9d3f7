"""Projected image features are held close to the words for what they show.

LLaVA's first stage trains the projector alone on captions, so that image tokens read like words.
Here labels do the same: the mean of a cell's projected features, read by the tied embeddings, is
to name size, colour, kind and place of the shape in it. What a model learns about copying words
from text then finds them in the image as well, long before it would learn to look there.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from flyball.demo.scenes import CELLS, Scene, draw_scene, render
from flyball.demo.vlm_views import pooled_features

SCENES = 12  # a step
ALIGNMENT_WEIGHT = 0.2  # beside the loss on text


class Alignment:
    """The loss of a model's projector on scenes drawn from a seed."""

    def __init__(self, tokenizer: Any, seed: int) -> None:
        self.tokenizer = tokenizer
        self.rng = random.Random(seed)

    def loss(self, model: Any) -> torch.Tensor:
        """Cross-entropy between a cell's words, weighing the same, and its reading."""
        scenes = [draw_scene(self.rng, self.rng.randint(2, 7)) for _ in range(SCENES)]
        pixels = torch.from_numpy(np.stack([render(scene) for scene in scenes]))
        wanted = torch.stack([self._words(scene, model.lm_head.out_features) for scene in scenes])
        logits = model.lm_head(pooled_features(model, pixels)).float()
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(0, 1))

    def _words(self, scene: Scene, vocab_size: int) -> torch.Tensor:
        """Distribution over the tokens that name each cell."""  # (cells, vocabulary)
        names = dict.fromkeys(CELLS, "nothing") | {s.place: s.name for s in scene.shapes}
        wanted = torch.zeros(len(CELLS), vocab_size)
        for row, (place, name) in zip(wanted, names.items(), strict=True):
            for word in f"{place} {name} {scene.background}".split():
                row[self.tokenizer(f" {word}")["input_ids"][0]] += 1.0
        return wanted / wanted.sum(dim=1, keepdim=True)
