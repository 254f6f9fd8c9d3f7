"""What a model attends to while it reads a token tree."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.integrations.hf.device import upload

Longs = NDArray[np.int64]


def tree_mask(
    lengths: Longs,
    visible: NDArray[np.bool_],
    num_columns: int,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """What to add to attention scores where every row reads a block behind its own text.

    Args:
        lengths: (rows,) tokens that each row has in the cache; its block begins there.
        visible: (T, T) columns of the block that each column attends to, as in `TreeBlock`.
        num_columns: columns that the forward attends to.
        dtype: of the mask.
        device: of the mask.

    Returns:
        (rows, 1, T, num_columns), 0 or the lowest number.
    """
    width = len(visible)
    # One column more at either side, for the row's text and for what is beyond its block.
    hidden = upload(np.pad(~visible, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1))), device)
    places = torch.arange(num_columns, device=device) - upload(lengths[:, None], device)
    hidden = hidden[:, places.clamp(-1, width) + 1].movedim(0, 1)[:, None]
    mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)
