"""The images of a call, for the target and for drafts that see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from flyball.controller.errors import HostError
from flyball.integrations.hf.views import PromptImages, image_token

_DRAFT_INPUTS = ("captions", "pixel_values")


def prompt_images(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    pixel_values: torch.Tensor | None,
    draft_inputs: Mapping[str, Any] | None,
) -> PromptImages | None:
    """The images of prompts (rows, prompt); None without any.

    Args:
        model: the target.
        input_ids: with one placeholder for each token of an image.
        pixel_values: (images, channels, height, width), all of the first row, then the second's.
        draft_inputs: "pixel_values" and "captions" for drafts, as `generate` takes them.

    Raises:
        HostError: they do not fit the prompts.
    """
    draft_inputs = draft_inputs or {}
    unknown = sorted(set(draft_inputs) - set(_DRAFT_INPUTS))
    if unknown:
        raise HostError(
            f"expected draft_inputs of {' and '.join(_DRAFT_INPUTS)}, but got "
            f"{', '.join(unknown)}; leave them out"
        )
    if pixel_values is None:
        if draft_inputs:
            raise HostError(
                "expected pixel_values for the target where drafts get draft_inputs, but got "
                "none; pass both or none"
            )
        return None
    token = image_token(model)
    assert token is not None  # or the call was refused
    places = (input_ids == token).sum(dim=1).cpu().numpy()
    num_images, total = len(pixel_values), int(places.sum())
    size = total // num_images
    if size == 0 or total % num_images or (places % size).any():
        raise HostError(
            f"expected the same number of placeholders for each of {num_images} images, but got "
            f"{total} in all; pass the input_ids and pixel_values of one processor"
        )
    captions = draft_inputs.get("captions")
    if captions is not None:
        if len(captions) != len(input_ids):
            raise HostError(
                f"expected captions for each of {len(input_ids)} rows in draft_inputs, but got "
                f"{len(captions)}; pass one list of token ids a row"
            )
        captions = [np.asarray(caption, np.int64).reshape(-1) for caption in captions]
    pixels = draft_inputs.get("pixel_values")
    if pixels is not None and len(pixels) != num_images:
        raise HostError(
            f"expected pixel_values for {num_images} images in draft_inputs, but got "
            f"{len(pixels)}; pass the same images"
        )
    return PromptImages(
        token=token,
        count=(places // size).astype(np.int64),
        pixel_values=pixel_values,
        draft_pixels=pixel_values if pixels is None else pixels,
        captions=captions,
    )
