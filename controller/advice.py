"""Which draft and which length pays: the analytical model, with measured costs and acceptance.

    tokens/s = (E[accepted] + 1) / (g t_draft + t_verify(g) + t_host)

for drafts of g tokens, one request at a time (Decoding Speculative Decoding, arXiv 2402.01528).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flyball.controller.corpus import Corpus
from flyball.controller.cost_table import CostTable
from flyball.controller.policy_file import static_policy
from flyball.controller.replay import replay

LENGTHS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16)


@dataclass(frozen=True)
class Prediction:
    """What a constant length brings.

    Attributes:
        draft_len: tokens drafted in every round, where there are so many on offer.
        accepted: of them, on average.
        tokens_per_s: of one request.
        tokens_per_joule: likewise, where the power is known.
    """

    draft_len: int
    accepted: float
    tokens_per_s: float
    tokens_per_joule: float | None


def predict(
    corpus: Corpus, costs: CostTable, lengths: Sequence[int] = LENGTHS
) -> list[Prediction]:
    """What constant lengths bring on these texts at these costs.

    Of offers those alone that were recorded far enough.

    Raises:
        CostTableError: the table does not reach down to one request, or as far as the lengths.
    """
    found = []
    for length in lengths:
        if not corpus.steps and length > corpus.num_ahead:
            break
        rounds = replay(corpus, static_policy(length), costs)
        accepted = float(rounds.accepted.mean())
        # Of an offer that is not there nothing is verified, and none costs a draft's step.
        drafted = np.full(len(rounds.proposed), length) if corpus.steps else rounds.proposed
        parts = costs.step_parts(1, drafted + 1.0, drafted * corpus.steps).mean(axis=0)
        tokens, joules = accepted + 1.0, costs.joules(parts)
        per_joule = None if joules is None else tokens / float(joules)
        found.append(Prediction(length, accepted, tokens / float(parts.sum()), per_joule))
    return found


def rate_of_step(best: Prediction, costs: CostTable, step_s: float) -> float:
    """Tokens per second of a draft whose steps take so long, and that is accepted as often."""
    usual_s = float(
        costs.step_seconds(1, np.array(best.draft_len + 1.0), np.array(best.draft_len))
    )
    change = best.draft_len * (step_s - costs.draft_step_seconds(1))
    return (best.accepted + 1.0) / (usual_s + change)
