"""One member a round, drawn by how far each would have been accepted."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from flyball.estimators.rows import places
from flyball.estimators.slot_hedge import SlotHedge
from flyball.estimators.slot_normal_hedge import SlotNormalHedge
from flyball.estimators.slots import SlotArray
from flyball.policies.ensemble.base import (
    EnsemblePolicy,
    EnsembleSettings,
    Evidence,
    Floats,
    Ints,
    Rows,
    one_hot,
)

# By simulation, as for accept_ascent: a switch of the best member is followed within 48 positions,
# and 1% is lost at most where nothing switches.
_RATE, _SHARE, _MEMORY = 3.0, 0.002, 200.0
_FORGOTTEN = 0.03  # of a regret, at a position


class HedgeSettings(EnsembleSettings):
    """Settings of the hedge policy."""

    policy: Literal["hedge"] = "hedge"
    rule: Literal["fixed_share", "normal_hedge"] = Field(
        default="fixed_share", description="How losses become weights."
    )
    draft_len: int = Field(
        default=5, ge=1, le=64, description="Tokens ahead over which the length is expected."
    )


class Hedge(EnsemblePolicy):
    """Follows one member, drawn by the lengths that each member's drafts would have had.

    HedgeSpec (Not-a-Bandit, arXiv 2510.20064). All members are seen at every verified position,
    with gamma_t = 1 - TV(p_t, q_t), under greedy decoding [argmax q_t = argmax p_t]. A draft of
    K tokens of one member, begun at a position s of the text, has the expected length

        E[len] = 1 + gamma_s + gamma_s gamma_{s+1} + ... + gamma_s .. gamma_{s+K-1}
               = sum_{k=1..K+1} k (1 - gamma_{s+k-1}) prod_{j<k} gamma_{s+j-1},  gamma_{s+K} := 0

    and the loss 1 - E[len] / (K + 1). Every position of the text begins one, whose loss is known
    K positions later, when fixed-share Hedge learns it, or NormalHedge of regrets that fade.
    The text here is what was observed: bonus tokens are left out.

    Bounded: the loss summed over the text, so the expected length from a position that any member
    reaches, against the best sequence of members with few switches; about sqrt((K + 1)^3 ln m / T)
    a position for a rate tuned to T (theorem 1 there). Not bounded: what mixtures might do better
    than members. The draw is what the bound speaks of.
    """

    Settings = HedgeSettings
    settings: HedgeSettings

    def __init__(
        self, settings: HedgeSettings, num_members: int, rng: np.random.Generator
    ) -> None:
        super().__init__(settings, num_members, rng)
        self._weights: SlotHedge | SlotNormalHedge
        if settings.rule == "fixed_share":
            self._weights = SlotHedge(np.ones(num_members), _RATE, _SHARE, _MEMORY)
        else:
            self._weights = SlotNormalHedge(num_members, _FORGOTTEN)
        self._past = SlotArray(np.nan, shape=(settings.draft_len - 1, num_members))

    def evidence(self, sampled: bool) -> Evidence:
        """The overlap of each member."""
        return "overlap"

    def admit(self, slots: Ints) -> None:
        """Start new requests: from what all learned, under NormalHedge from equal weights."""
        self._weights.reset(slots)
        self._past.reset(slots)

    def decide(self, slots: Ints, sampled: bool) -> Floats:
        """1 for a member drawn by weight."""
        total = self._weights.weight(slots).cumsum(axis=1)
        draw = self.rng.random((len(slots), 1)) * total[:, -1:]
        return one_hot((total[:, :-1] <= draw).sum(axis=1), self.num_members)

    def learn(self, slots: Ints, row: Rows, values: Floats, sampled: bool) -> None:
        """Learn the losses of the drafts that these positions complete, from overlaps (N, m)."""
        some = ~np.isnan(values).all(axis=1)
        row, values = row[some], values[some]
        if len(row) == 0:
            return
        num_past = self.settings.draft_len - 1
        count = np.bincount(row, minlength=len(slots))
        order, place = places(row, count)
        row = row[order]
        text = np.full((len(slots), num_past + count.max(), self.num_members), np.nan)
        text[:, :num_past] = self._past.values[slots]
        text[row, num_past + place] = values[order]
        ahead = np.lib.stride_tricks.sliding_window_view(text, num_past + 1, axis=1)
        length = 1.0 + ahead[row, place].cumprod(axis=-1).sum(axis=-1)  # (N, m)
        self._weights.learn(slots, row, length / (num_past + 2))
        kept = count[:, None] + np.arange(num_past)
        self._past.values[slots] = text[np.arange(len(slots))[:, None], kept]
