"""Sequence classifiers as process reward models."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from flyball.controller.errors import HostError
from flyball.integrations.hf.candidate_cache import CandidateCache
from flyball.integrations.hf.checks import check_model
from flyball.integrations.hf.device import upload
from flyball.integrations.hf.flops import forward_flops
from flyball.integrations.hf.scorers import Partial

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]

logger = logging.getLogger(__name__)


class RewardModel:
    """The reward of a prefix: what a classifier says at its last token.

        score = output                         of a model with one label
        score = output[good] - output[other]   of a model with two

    Both are logits: sigmoid(score) is the probability that the prefix is good, where the model was
    trained for that. The scores rank partial texts as far as a partial text's reward follows the
    finished one's (Early Rejection with Partial Rewards, arXiv 2508.01969).

    Decoder-only models read each token once and keep caches; all others, such as encoders and
    models with sliding windows, read every prefix from its beginning. The model must share the
    target's token ids; for another tokenizer, put a function before it that translates `tokens`
    and `prompt_len`, which may change the end of a text that was read before.

    Args:
        model: of the kind of `AutoModelForSequenceClassification`, with one or two labels. Where
            it has a `score` head on its body, that is read at the last token, whatever its own
            forward takes for padding.
        step_marker: token ids that are read behind every prefix before its score, as models need
            that learned to judge steps by their marks; they do not stay in the text.
        good_label: of two labels, the good one.
        max_rows: candidates whose keys and values are kept at a time.

    Attributes:
        num_tokens: tokens read so far.
        flops: floating-point operations so far, by `forward_flops`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        step_marker: Sequence[int] = (),
        good_label: int = 1,
        max_rows: int = 64,
    ) -> None:
        num_labels = model.config.num_labels
        if num_labels not in (1, 2):
            raise HostError(
                f"expected a reward model with 1 or 2 labels, but {type(model).__name__} has "
                f"{num_labels}; give a function that reads its outputs as scorer"
            )
        self._model = model
        self._marker = np.array(step_marker, np.int64)
        self._good = good_label if num_labels == 2 else 0
        self._body = _Scored(model) if hasattr(model, "score") else None
        self._num_fresh = 0
        self._fresh_flops = 0.0
        self._max_rows = max_rows
        self._cache = None
        if self._body is not None and _can_cache(model):
            self._cache = CandidateCache(self._body, self._value, max_rows=max_rows)

    @property
    def num_tokens(self) -> int:
        """Tokens read so far."""
        return self._num_fresh + (self._cache.num_tokens if self._cache else 0)

    @property
    def flops(self) -> float:
        """Floating-point operations so far, by `forward_flops`."""
        return self._fresh_flops + (self._cache.flops if self._cache else 0.0)

    def __call__(self, partial: Partial) -> Floats:
        """Scores (n,), logits."""
        if len(partial.candidate) == 0:
            return np.zeros(0)
        if self._cache is None:
            return self._score_fresh(partial)
        if len(self._marker):
            outputs = self._cache.peek(partial, self._marker.tolist())
            scores: Floats = self._reward(outputs).double().cpu().numpy()
            return scores
        return np.array([values[-1] for values in self._cache.values(partial)])

    def forget(self, candidates: Longs) -> None:
        """Free what is kept of candidates (m,)."""
        if self._cache is not None:
            self._cache.forget(candidates)

    def _reward(self, outputs: torch.Tensor) -> torch.Tensor:
        """Scores (...) from outputs (..., labels)."""
        good = outputs[..., self._good]
        return good if outputs.shape[-1] == 1 else good - outputs[..., 1 - self._good]

    def _value(self, outputs: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        return self._reward(outputs)

    @torch.inference_mode()
    def _score_fresh(self, partial: Partial) -> Floats:
        """Read all texts from their beginnings, padded on the right."""
        texts = [np.concatenate([tokens, self._marker]) for tokens in partial.tokens]
        scores = np.zeros(len(texts))
        # Texts of like length together, so that little of a forward is padding.
        order = np.argsort([len(text) for text in texts], kind="stable")
        for first in range(0, len(order), self._max_rows):
            numbers = order[first : first + self._max_rows]
            lengths = np.array([len(texts[number]) for number in numbers])
            ids = np.zeros((len(numbers), lengths.max()), np.int64)
            for row, number in enumerate(numbers):
                ids[row, : lengths[row]] = texts[number]
            mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
            outputs = self._outputs(ids, mask, lengths - 1)
            scores[numbers] = self._reward(outputs).double().cpu().numpy()
            self._num_fresh += int(lengths.sum())
            self._fresh_flops += forward_flops(self._model, lengths, 0)
        return scores

    def _outputs(self, ids: Longs, mask: Longs, last: Longs) -> torch.Tensor:
        """Outputs (rows, labels) for texts ids (rows, width) that end at columns last (rows,)."""
        device = self._model.device
        inputs = {"input_ids": upload(ids, device), "attention_mask": upload(mask, device)}
        if self._body is None:
            outputs: torch.Tensor = self._model(**inputs).logits
            return outputs
        outputs = self._body(**inputs).logits
        return outputs[torch.arange(len(ids), device=device), upload(last, device)]


class _Scored(torch.nn.Module):
    """A classifier whose head reads every position, in the shape of a causal language model."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.body = model.base_model
        self.head = model.score
        self.config = model.config

    @property
    def device(self) -> torch.device:
        """Of the model."""
        device: torch.device = self.body.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model."""
        dtype: torch.dtype = self.body.dtype
        return dtype

    def forward(self, logits_to_keep: int | torch.Tensor = 0, **inputs: Any) -> SimpleNamespace:
        """Outputs `logits` (rows, width, labels) at the columns that are to be kept, or all."""
        hidden = self.body(**inputs).last_hidden_state
        kept = slice(None) if isinstance(logits_to_keep, int) else logits_to_keep
        return SimpleNamespace(logits=self.head(hidden[:, kept]))


def _can_cache(model: PreTrainedModel) -> bool:
    try:
        check_model(model, "reward model")
    except HostError as error:
        logger.info("the reward model reads every prefix from its beginning: %s", error)
        return False
    return True
