"""What a drafted token comes from: one draft's distribution, or the mixture of an ensemble."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.integrations.hf.device import upload
from flyball.integrations.hf.draft import ModelDraft
from flyball.integrations.hf.processors import RowProcessors
from flyball.integrations.hf.proposal import MemberProbs
from flyball.integrations.hf.text import Texts
from flyball.kernels.confidence import Confidence, confidence, confidence_of
from flyball.kernels.mix import mix, share

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Solo:
    """One lane of one draft model.

    Args:
        model: that drafts.
        lane: of it.
        texts: of the batch.
        processors: of the batch.
        read_every: unread tokens from which on the model's other lanes are brought up with it.
    """

    members: MemberProbs | None = None

    def __init__(
        self,
        model: ModelDraft,
        lane: int,
        texts: Texts,
        processors: RowProcessors,
        read_every: float,
    ) -> None:
        self._model = model
        self._lanes = slice(lane, lane + 1)
        self._read_every = read_every
        self._texts, self._processors = texts, processors
        self._logits = torch.empty(0)

    @property
    def room(self) -> Longs:
        """Tokens (rows,) that it can draft."""
        return self._model.room(self._lanes)

    def start(self, slots: Ints, rows: Bools) -> None:
        """Begin to draft for some rows (rows,)."""
        self._logits = self._model.start(slots, rows, self._lanes, self._read_every)

    def feed(self, tokens: torch.Tensor, going_on: Bools) -> None:
        """Go on in some rows (rows,) after drafted tokens (rows, 1)."""
        self._logits = self._model.feed(tokens, going_on, self._lanes)

    def scores(self, position: int) -> torch.Tensor:
        """Processed scores (rows, vocab) of the token at `position`, counted from 0."""
        rows = np.arange(len(self._logits))
        return self._processors(self._texts, rows, position, self._logits)[:, 0]

    def sure(self, position: int) -> Confidence:
        """What is sure of the token at `position`."""
        return confidence(
            self.scores(position),
            entropy=self._model.wants_entropy,
            margin=False,
            log_sum_exp=False,
        )

    def sure_probs(self, position: int) -> tuple[Confidence, torch.Tensor]:
        """The same, and the distribution (rows, vocab)."""
        probs = self.probs(position)
        return confidence_of(probs, entropy=self._model.wants_entropy, margin=False), probs

    def best(self, position: int) -> torch.Tensor:
        """The most likely token (rows,) at `position`."""
        return self.scores(position).argmax(dim=-1)

    def probs(self, position: int) -> torch.Tensor:
        """Its distribution (rows, vocab)."""
        return self.scores(position).softmax(dim=-1)

    def signs(self, sure: Confidence) -> torch.Tensor:
        """What the governor is told (signs, rows) of a distribution."""
        return self._model.signs(sure)


@dataclass(frozen=True)
class LookedUp:
    """Prompt lookup as a member: a point mass, as long as the draft repeats its proposal.

    Attributes:
        member: its place among the members.
        tokens: (rows, L) proposal.
        draft_len: (rows,) its length.
    """

    member: int
    tokens: torch.Tensor
    draft_len: torch.Tensor


class Mixed:
    """All members of an ensemble together: q = sum_j w_j q_j over those that have a say.

    Args:
        models: whose lanes are members; those that run.
        lookup: a member without a model; None without.
        weights: (rows, members) from past rounds.
        idle: (members,) that are left out of this round.
        texts: of the batch.
        processors: of the batch.
        wants_entropy: whether the governor wants to know it.
    """

    def __init__(
        self,
        models: list[ModelDraft],
        lookup: LookedUp | None,
        weights: Floats,
        idle: Bools,
        texts: Texts,
        processors: RowProcessors,
        wants_entropy: bool,
    ) -> None:
        self._models, self._lookup = models, lookup
        self._texts, self._processors = texts, processors
        self._wants_entropy = wants_entropy
        present = np.zeros(weights.shape, np.bool_)
        for model in models:
            present[:, list(model.numbers)] = model.present
        heard = present & ~idle
        # Lookup may fall silent, and an absent view is: a row's other members then speak.
        heard = np.where(heard.any(axis=1, keepdims=True), heard, present)
        self._present = upload(heard, texts.device)
        self._weights = upload(weights.astype(np.float32), texts.device)
        self._shares = share(self._weights, self._present)
        self._agrees = torch.ones(len(weights), dtype=torch.bool, device=texts.device)
        self._logits: list[torch.Tensor] = []
        # Whether one model's lanes are all the members.
        self._in_order = models[0].numbers == tuple(range(weights.shape[1]))
        self.members = MemberProbs([], [], [])

    @property
    def room(self) -> Longs:
        """Tokens (rows,) that all of it can draft."""
        rooms = [model.room(slice(None)) for model in self._models]
        result: Longs = np.min(rooms, axis=0)
        return result

    def start(self, slots: Ints, rows: Bools) -> None:
        """Begin to draft for some rows (rows,)."""
        self._logits = [model.start(slots, rows, slice(None)) for model in self._models]

    def feed(self, tokens: torch.Tensor, going_on: Bools) -> None:
        """Go on in some rows (rows,) after drafted tokens (rows, 1)."""
        if self._lookup is not None:
            place = len(self.members.probs) - 1
            if place < self._lookup.tokens.shape[1]:
                self._agrees &= self._lookup.tokens[:, place] == tokens[:, 0]
        self._logits = [model.feed(tokens, going_on, slice(None)) for model in self._models]

    def probs(self, position: int) -> torch.Tensor:
        """The mixture (rows, vocab) for the token at `position`, counted from 0."""
        parts = [self._lane_scores(logits, position).softmax(dim=-1) for logits in self._logits]
        present, shares, lookup = self._present, self._shares, self._lookup
        if self._in_order and lookup is None:
            probs = parts[0]
        else:
            shape = (*self._weights.shape, parts[0].shape[-1])
            probs = torch.zeros(shape, device=self._weights.device)
            for model, part in zip(self._models, parts, strict=True):
                probs[:, list(model.numbers)] = part
        if lookup is not None and position < lookup.tokens.shape[1]:
            probs[:, lookup.member].scatter_(1, lookup.tokens[:, position, None], 1.0)
            present = present.clone()
            present[:, lookup.member] = self._agrees & (position < lookup.draft_len)
            shares = share(self._weights, present)
        mixture = mix(probs, shares)
        self.members.probs.append(probs)
        self.members.shares.append(shares)
        self.members.present.append(present)
        return mixture

    def _lane_scores(self, logits: torch.Tensor, position: int) -> torch.Tensor:
        """Processed scores (rows, lanes, vocab) of one model."""
        rows = np.arange(len(logits))
        if self._processors.prefix_free:
            return self._processors(self._texts, rows, position, logits)
        lanes = [
            self._processors(self._texts, rows, position, logits[:, lane : lane + 1])
            for lane in range(logits.shape[1])
        ]
        return torch.cat(lanes, dim=1)

    def sure(self, position: int) -> Confidence:
        """What is sure of the token at `position`."""
        return self.sure_probs(position)[0]

    def sure_probs(self, position: int) -> tuple[Confidence, torch.Tensor]:
        """The same, and the mixture (rows, vocab)."""
        probs = self.probs(position)
        return confidence_of(probs, entropy=self._wants_entropy, margin=False), probs

    def best(self, position: int) -> torch.Tensor:
        """The mixture's most likely token (rows,) at `position`."""
        return self.probs(position).argmax(dim=-1)

    def signs(self, sure: Confidence) -> torch.Tensor:
        """What the governor is told (signs, rows) of a distribution."""
        likely = sure.largest
        return likely[None] if sure.entropy is None else torch.stack([likely, sure.entropy])
