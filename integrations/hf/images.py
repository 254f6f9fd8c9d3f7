"""The images of a call, for the target and for drafts that see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from flyball.controller.errors import HostError
from flyball.integrations.hf.views import PromptImages, image_token

Longs = NDArray[np.int64]

_DRAFT_INPUTS = ("captions", "pixel_values")


def prompt_images(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    model_kwargs: Mapping[str, Any],
    draft_inputs: Mapping[str, Any] | None,
    copies: int,
) -> PromptImages | None:
    """The images of prompts (rows, prompt); None without any.

    Args:
        model: the target.
        input_ids: with one placeholder for each token of an image.
        model_kwargs: as transformers prepared them: pixels, or, in newer versions, what the
            vision tower made of them.
        draft_inputs: "pixel_values" and "captions" for drafts, as `generate` takes them.
        copies: rows that each of the caller's prompts has become.

    Raises:
        HostError: they do not fit the prompts.
    """
    draft_inputs = {key: value for key, value in (draft_inputs or {}).items() if value is not None}
    unknown = sorted(set(draft_inputs) - set(_DRAFT_INPUTS))
    if unknown:
        raise HostError(
            f"expected draft_inputs of {' and '.join(_DRAFT_INPUTS)}, but got "
            f"{', '.join(unknown)}; leave them out"
        )
    encoded = (model_kwargs.get("mm_encoder_outputs") or {}).get("image")
    if encoded is not None:
        inputs = {"mm_encoder_outputs": model_kwargs["mm_encoder_outputs"]}
        num_images = len(encoded.pooler_output)
    elif model_kwargs.get("pixel_values") is not None:
        inputs = {"pixel_values": model_kwargs["pixel_values"]}
        num_images = len(inputs["pixel_values"])
    elif draft_inputs:
        raise HostError(
            "expected images for the target where drafts get draft_inputs, but got none; "
            "pass both or none"
        )
    else:
        return None
    token = image_token(model)
    assert token is not None  # or the call was refused
    places = (input_ids == token).sum(dim=1).cpu().numpy()
    size = int(places.sum()) // num_images
    if size == 0 or int(places.sum()) % num_images or (places % size).any():
        raise HostError(
            f"expected the same number of placeholders for each of {num_images} images, but got "
            f"{int(places.sum())} in all; pass the input_ids and pixel_values of one processor"
        )
    count = (places // size).astype(np.int64)
    return PromptImages(
        token=token,
        count=count,
        inputs=inputs,
        pixel_values=_pixels(draft_inputs.get("pixel_values"), count, copies),
        captions=_captions(draft_inputs.get("captions"), count, copies),
    )


def _pixels(pixels: torch.Tensor | None, count: Longs, copies: int) -> torch.Tensor | None:
    """Pixels for drafts, of rows with so many images each."""
    if pixels is None:
        return None
    num_images = int(count[::copies].sum())
    if len(pixels) != num_images:
        raise HostError(
            f"expected pixel_values for {num_images} images in draft_inputs, but got "
            f"{len(pixels)}; pass the same images"
        )
    groups = pixels.split(count[::copies].tolist())
    return torch.cat([group for group in groups for _ in range(copies)])


def _captions(
    captions: Sequence[Sequence[Any]] | None, count: Longs, copies: int
) -> list[list[Longs]] | None:
    """Captions of rows with so many images each."""
    if captions is None:
        return None
    given = [len(row) for row in captions]
    if given != count[::copies].tolist():
        raise HostError(
            f"expected captions for {count[::copies].tolist()} images by row in draft_inputs, but "
            f"got {given}; pass a list of token ids for each image of each row"
        )
    found = [[np.asarray(ids, np.int64).reshape(-1) for ids in row] for row in captions]
    return [row for row in found for _ in range(copies)]
