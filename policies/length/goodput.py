"""The draft length that brings most tokens per second."""

from __future__ import annotations

from typing import Literal

import numpy as np

from flyball.policies.length.base import (
    Bools,
    Ints,
    LengthPolicy,
    LengthSettings,
    Progress,
    View,
)


class GoodputSettings(LengthSettings):
    """Settings of the goodput policy."""

    policy: Literal["goodput"] = "goodput"


class Goodput(LengthPolicy):
    """Draft while the next token brings more than its seconds cost.

    Before the round: the length k with the best `E[tokens(k)] / E[seconds(k)]`, 0 included
    (goodput of TurboSpec, arXiv 2406.14066, with the measured cost of a round). Where it is 0
    nothing is drafted. Otherwise the draft goes on in mid-round as long as

        sum over requests  weight_i x P(next token of i is accepted)  >=  price x seconds it adds,

    where the probability is the survival of the draft so far, from the draft's own confidence,
    times the request's acceptance rate at the next position. Survival never rises and the costs,
    taken on their lower convex hull, never fall, so this myopic test is optimal up to the value
    of waiting for a confident token (SpecDec++, arXiv 2405.19715, theorem 1, with the threshold
    computed from measured costs). Where a host pays for each verified token, not for a rectangle,
    requests are judged one by one: before the round, by what is believed of each request, where
    the host cannot ask in mid-draft; by its draft's confidence where it can. The test at position
    k uses the draft's distributions at positions up to k and no token drawn at k or later, so the
    output stays the target's (Law 1).
    """

    Settings = GoodputSettings
    settings: GoodputSettings
    stops = True
    reads = True

    def decide(self, view: View) -> Ints:
        """A probe, or the best length; its bound instead where `stop` will end the draft."""
        if view.probe_len is not None:
            length = view.probe_len
        elif view.best_len > 0 and view.can_stop:
            length = view.max_draft_len
        elif view.padded or not view.price > 0.0:
            length = view.best_len
        else:
            return _ragged_lengths(view)
        return np.full(len(view.slots), length, np.int32)

    def stop(self, progress: Progress) -> Bools:
        """True where the token after `progress.position` does not pay."""
        view = progress.view
        num_rows = len(progress.rows)
        if view.probe_len is not None or progress.overdue:
            return np.zeros(num_rows, np.bool_)
        worth = view.weight[progress.rows] * progress.survival * progress.next_acceptance
        cost = view.price * view.marginal_s[progress.position]
        if view.padded:
            ends = np.ones if np.add.reduce(worth) < cost else np.zeros
            return ends(num_rows, np.bool_)
        return np.asarray(worth < cost / len(view.slots), np.bool_)


def _ragged_lengths(view: View) -> Ints:
    """A length for each request, where drafting is shared and each verified token is paid for.

    A request verifies the tokens that are worth their verification: survival never rises and
    marginal costs never fall, so they come first. The draft runs as many steps as the sum of
    what is gained pays for.
    """
    verify_cost = view.price * view.verify_marginal_s  # (K,) tokens, for all requests
    gain = view.weight[:, None] * view.survival - verify_cost / len(view.slots)
    pays = gain > 0.0
    step_cost = view.price * view.marginal_s - verify_cost
    worth = np.where(pays, gain, 0.0).sum(axis=0) - step_cost
    total = worth.cumsum()
    num_steps = int(total.argmax()) + 1 if total.max() > 0.0 else 0
    return np.asarray(pays[:, :num_steps].sum(axis=1), np.int32)
