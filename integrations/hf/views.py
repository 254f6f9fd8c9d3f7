"""Views of a prompt with images: what a draft model gets to read in the target's place."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from flyball.controller.errors import HostError
from flyball.integrations.hf.device import upload

Longs = NDArray[np.int64]
Image = Literal["own", "pooled", "caption", "none"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DraftView:
    """A draft model, and how it sees a prompt's images (TABED's drafts, arXiv 2601.20357).

    Views of one model draft as rows of one batch with shared parameters.

    Attributes:
        model: small model with the target's tokenizer.
        image: "own", as the draft's own vision tower encodes them; "pooled", the same with means
            of `pool` x `pool` neighbouring image tokens; "caption", a text in their place, from
            `draft_inputs`; "none", the prompt without them. None for "own" where the model sees
            images, else "none".
        pool: side of the square of image tokens that "pooled" averages.
    """

    model: PreTrainedModel
    image: Image | None = None
    pool: int = 2

    @property
    def seen(self) -> Image:
        """How it sees images."""
        if self.image is not None:
            return self.image
        return "own" if image_token(self.model) is not None else "none"

    @property
    def name(self) -> str:
        """Of the view, for logs."""
        return self.seen if self.image is not None else "model"


@dataclass(frozen=True)
class PromptImages:
    """The images of some prompts.

    Attributes:
        token: id of the placeholder that stands in a prompt once for each token of an image.
        count: (texts,) images of each prompt.
        inputs: of the target's forward, for all prompts.
        pixel_values: (images, channels, height, width) for drafts, by prompt; None where they
            get none.
        captions: for each prompt, ids of a text in place of each of its images; None without.
        encoded: features (images, tokens, hidden) by id of the draft model, once they are known.
    """

    token: int
    count: Longs
    inputs: Mapping[str, Any]
    pixel_values: torch.Tensor | None
    captions: Sequence[Sequence[Longs]] | None = None
    encoded: dict[int, torch.Tensor] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class ViewedPrompt:
    """What one view reads in place of a prompt.

    Attributes:
        tokens: (p,) ids.
        features: (f, hidden) of the placeholders among them.
        absent: whether the view is nothing but the text, since it lacks what it needs.
    """

    tokens: Longs
    features: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))
    absent: bool = False


def image_token(model: PreTrainedModel) -> int | None:
    """Id of a model's image placeholder; None where it sees no images."""
    config: Any = model.config
    for name in ("image_token_id", "image_token_index"):
        token = getattr(config, name, None)
        if token is not None and hasattr(model, "get_image_features"):
            return int(token)
    return None


def view_prompts(
    view: DraftView, prompts: Sequence[Longs], images: PromptImages | None
) -> list[ViewedPrompt]:
    """What a view reads in place of prompts, whose last tokens are text.

    Args:
        view: how images are seen.
        prompts: (p,) ids of each, without padding, placeholders included.
        images: of the prompts; None without any.
    """
    if images is None:
        absent = view.seen != "none"
        return [ViewedPrompt(prompt, absent=absent) for prompt in prompts]
    if view.seen == "none" or (view.seen == "caption" and images.captions is None):
        return [
            ViewedPrompt(
                prompt[prompt != images.token],
                absent=view.seen == "caption" and bool((prompt == images.token).any()),
            )
            for prompt in prompts
        ]
    if view.seen == "caption":
        assert images.captions is not None
        return [
            ViewedPrompt(_replace(prompt, images.token, captions))
            for prompt, captions in zip(prompts, images.captions, strict=True)
        ]
    if images.pixel_values is None:
        return [
            ViewedPrompt(prompt[prompt != images.token], absent=count > 0)
            for prompt, count in zip(prompts, images.count.tolist(), strict=True)
        ]
    if id(view.model) not in images.encoded:
        images.encoded[id(view.model)] = _encode(view.model, images.pixel_values)
    features = _pool(images.encoded[id(view.model)], view)
    ends = images.count.cumsum()
    result = []
    for prompt, count, end in zip(prompts, images.count.tolist(), ends.tolist(), strict=True):
        if count == 0:
            result.append(ViewedPrompt(prompt, absent=True))
            continue
        own = features[end - count : end]
        tokens = _resize(prompt, images.token, count, own.shape[1])
        result.append(ViewedPrompt(tokens, own.flatten(0, 1)))
    return result


def _encode(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Features (images, tokens, hidden) in the draft's own space."""
    pixels = pixel_values.to(model.device, model.dtype)
    return torch.stack(list(model.get_image_features(pixel_values=pixels).pooler_output))


def _pool(features: torch.Tensor, view: DraftView) -> torch.Tensor:
    """Features as a view wants them."""
    if view.seen != "pooled":
        return features
    side = round(features.shape[1] ** 0.5)
    if side * side != features.shape[1] or side % view.pool:
        raise HostError(
            f"expected a square of image tokens whose side {view.pool} divides, but got "
            f"{features.shape[1]} tokens; choose another pool or image='own'"
        )
    square = features.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    pooled: torch.Tensor = torch.nn.functional.avg_pool2d(square, view.pool)
    return pooled.flatten(2).transpose(1, 2)


def _replace(prompt: Longs, token: int, captions: Sequence[Longs]) -> Longs:
    """The prompt with a text in place of each of its images."""
    places = np.flatnonzero(prompt == token)
    if len(captions) == 0:
        return prompt
    size = len(places) // len(captions)
    parts, end = [], 0
    for place, caption in zip(places[::size], captions, strict=True):
        parts += [prompt[end:place], caption]
        end = place + size
    return np.concatenate([*parts, prompt[end:]])


def _resize(prompt: Longs, token: int, count: int, num_tokens: int) -> Longs:
    """The prompt with `num_tokens` placeholders for each of its images."""
    places = np.flatnonzero(prompt == token)
    if len(places) % count:
        raise HostError(
            f"expected as many placeholders for each of {count} images, but a prompt has "
            f"{len(places)}; pass the input_ids and pixel_values of one processor"
        )
    size = len(places) // count
    if size == num_tokens:
        return prompt
    starts = places[::size]
    keep = np.ones(len(prompt), np.int64)
    keep[places] = 0
    keep[starts] = num_tokens
    return np.repeat(prompt, keep)


def embed(model: PreTrainedModel, prompts: Sequence[ViewedPrompt], width: int) -> torch.Tensor:
    """Embeddings (prompts, width, hidden) of prompts, those of images in their places."""
    token = image_token(model)
    ids = np.zeros((len(prompts), width), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : min(width, len(prompt.tokens))] = prompt.tokens[:width]
    embeds: torch.Tensor = model.get_input_embeddings()(upload(ids, model.device))
    for row, prompt in enumerate(prompts):
        if len(prompt.features):
            places = upload(np.flatnonzero(ids[row] == token), model.device)
            embeds[row, places] = prompt.features.to(embeds.dtype)
    return embeds


def note_absent(views: Sequence[DraftView]) -> None:
    """Say once a call which views cannot take part."""
    names = ", ".join(view.name for view in views)
    logger.warning(
        "views without what they need are left out of this call: %s; give images, or captions in "
        "draft_inputs",
        names,
    )
