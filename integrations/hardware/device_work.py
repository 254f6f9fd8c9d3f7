"""What decoding asks of a device: operations and bytes of a round, and the tokens it brings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """A decoder-only language model, as far as its cost goes.

    Attributes:
        num_params: weights that a token passes through.
        bytes_per_param: 2 in bfloat16, 1 in 8 bits, 0.5 in 4.
        num_layers: blocks, each of which costs a few kernel launches.
        hidden_size: width, for attention's operations.
        kv_bytes_per_token: keys and values that a token leaves behind, all layers together.
    """

    num_params: float
    bytes_per_param: float
    num_layers: int
    hidden_size: int
    kv_bytes_per_token: float

    @property
    def weight_bytes(self) -> float:
        """Read once a forward, however many tokens it has."""
        return self.num_params * self.bytes_per_param

    def flops(self, num_tokens: Floats, context_len: float) -> Floats:
        """Operations (S,) of a forward over num_tokens (S,): 2 a weight, and attention's.

        2 x params x tokens + 4 x layers x width x context x tokens
        """
        attention = 4.0 * self.num_layers * self.hidden_size * context_len
        return (2.0 * self.num_params + attention) * num_tokens


@dataclass(frozen=True)
class Work:
    """What is decoded.

    Attributes:
        target: the model that answers.
        draft: the model that drafts for it; None where nothing does.
        prompt_len: tokens of a request's prompt, read once.
        answer_len: tokens of its answer.
    """

    target: Model
    draft: Model | None
    prompt_len: float
    answer_len: float

    @property
    def context_len(self) -> float:
        """Tokens that a request's attention reads, on average over its answer."""
        return self.prompt_len + self.answer_len / 2

    @property
    def held_bytes(self) -> float:
        """Weights that stay in the device's memory."""
        return self.target.weight_bytes + (self.draft.weight_bytes if self.draft else 0.0)

    @property
    def bytes_per_request(self) -> float:
        """Keys and values that a request holds at its end."""
        per_token = self.target.kv_bytes_per_token
        per_token += self.draft.kv_bytes_per_token if self.draft else 0.0
        return per_token * (self.prompt_len + self.answer_len)


def tokens_per_round(acceptance: float, draft_len: Floats) -> Floats:
    """Mean tokens (S,) of a round that drafts draft_len (S,) tokens: (1-a^(K+1)) / (1-a).

    Each drafted token is accepted with the same probability a as long as those before it were
    (Leviathan et al., arXiv 2211.17192, equation 1).
    """
    if acceptance >= 1.0:
        return draft_len + 1.0
    mean: Floats = (1.0 - acceptance ** (draft_len + 1.0)) / (1.0 - acceptance)
    return mean


def round_variation(acceptance: float, draft_len: Floats) -> Floats:
    """Standard deviation of a round's tokens over their mean, (S,).

    From E[N^2] = sum over j >= 1 of (2j - 1) P(N >= j), with P(N >= j) = a^(j-1) up to K + 1.
    """
    longest = int(draft_len.max(initial=0.0)) + 1
    j = np.arange(1, longest + 1, dtype=np.float64)
    terms = (2.0 * j - 1.0) * acceptance ** (j - 1.0)
    squares = np.cumsum(terms)[draft_len.astype(np.intp)]
    mean = tokens_per_round(acceptance, draft_len)
    variation: Floats = np.sqrt(np.maximum(squares - mean**2, 0.0)) / mean
    return variation
