"""The draft's views of one dialogue, as in TABED (arXiv 2601.20357, section 3).

`multimodal` has the image, `text` drops it, `pooled` averages its features two by two, and
`caption` puts a caption in its place. Views of one dialogue differ in length; what they share are
its text tokens, and a batch knows where each of these is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from flyball.demo.vlm_data import END_ID, GRID, IMAGE_ID, NUM_IMAGE_TOKENS, VlmPrompt

VIEWS = ("multimodal", "text", "pooled", "caption")
NUM_POOLED_TOKENS = NUM_IMAGE_TOKENS // 4


def view_ids(prompt: VlmPrompt, view: str) -> list[int]:
    """Token ids of a prompt as a view shows it."""
    return [token for token, _ in _tokens(prompt, view)]


def _tokens(prompt: VlmPrompt, view: str) -> list[tuple[int, bool]]:
    """Token ids, each with whether it is text of the dialogue itself."""
    if view == "multimodal":
        return [(token, token != IMAGE_ID) for token in prompt.input_ids]
    captions = iter(prompt.caption_ids)
    tokens: list[tuple[int, bool]] = []
    for is_image, run in groupby(prompt.input_ids, key=lambda token: token == IMAGE_ID):
        if not is_image:
            tokens += [(token, True) for token in run]
            continue
        for _ in range(len(list(run)) // NUM_IMAGE_TOKENS):
            instead = {"text": [], "pooled": [IMAGE_ID] * NUM_POOLED_TOKENS}
            tokens += [(t, False) for t in instead.get(view, next(captions))]
    return tokens


@dataclass(frozen=True)
class Batch:
    """Dialogues in one view, padded on the right.

    Attributes:
        ids: (rows, width) token ids.
        pixels: (images, 3, side, side), or None in a view without images.
        pooled: whether the image features are to be pooled.
        rows: (predictions,) row of each predicted text token.
        columns: (predictions,) column of the position that predicts it.
        labels: (predictions,) the token.
        answers: (predictions,) whether it belongs to the last answer.
    """

    ids: torch.Tensor
    pixels: torch.Tensor | None
    pooled: bool
    rows: torch.Tensor
    columns: torch.Tensor
    labels: torch.Tensor
    answers: torch.Tensor


def make_batch(dialogues: Sequence[tuple[VlmPrompt, list[int]]], view: str) -> Batch:
    """Prompts with answers in one view; predictions come in the same order in every view."""
    texts = []
    spots: list[tuple[int, int, int, bool]] = []
    for row, (prompt, answer) in enumerate(dialogues):
        tokens = _tokens(prompt, view)
        answer_start = len(tokens)
        tokens = tokens + [(token, True) for token in answer]
        texts.append([token for token, _ in tokens])
        spots += [
            (row, i - 1, token, i >= answer_start)
            for i, (token, is_text) in enumerate(tokens)
            if is_text and i > 0
        ]
    width = max(map(len, texts))
    ids = torch.tensor([text + [END_ID] * (width - len(text)) for text in texts])
    rows, columns, labels, answers = (torch.tensor(list(x)) for x in zip(*spots, strict=True))
    pixels = None
    if view in ("multimodal", "pooled"):
        images = [p.pixel_values for p, _ in dialogues if len(p.pixel_values)]
        pixels = torch.from_numpy(np.concatenate(images)) if images else None
    return Batch(ids, pixels, view == "pooled", rows, columns, labels, answers)


def pooled_features(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Projected image features averaged two by two."""  # (images, NUM_POOLED_TOKENS, hidden)
    features = torch.stack(list(model.get_image_features(pixels).pooler_output))
    grid = features.transpose(1, 2).unflatten(2, (GRID, GRID))
    return F.avg_pool2d(grid, 2).flatten(2).transpose(1, 2)


def batch_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Logits that predict the batch's text tokens."""  # (predictions, vocabulary)
    inputs: dict[str, Any] = {"input_ids": batch.ids}
    if batch.pixels is not None and batch.pooled:
        embeds = model.get_input_embeddings()(batch.ids)
        features = pooled_features(model, batch.pixels).to(embeds.dtype)
        is_image = (batch.ids == IMAGE_ID).unsqueeze(-1)
        inputs = {"inputs_embeds": embeds.masked_scatter(is_image, features)}
    elif batch.pixels is not None:
        inputs["pixel_values"] = batch.pixels
    hidden = model.model(**inputs, use_cache=False).last_hidden_state
    logits: torch.Tensor = model.lm_head(hidden[batch.rows, batch.columns]).float()
    return logits
