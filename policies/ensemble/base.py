"""What an ensemble policy is."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Rows = NDArray[np.intp]
Evidence = Literal["overlap", "ascent", "divergence", "grid"]

_MOST_POINTS = 330


class EnsembleSettings(BaseModel):
    """Settings that every ensemble policy has; each policy adds its own and its name."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    policy: str

    def check(self, num_members: int) -> None:
        """Refuse settings that do not suit so many members.

        Raises:
            ValueError: in one line.
        """


class EnsemblePolicy:
    """Decides with which weights the members' distributions are mixed.

    A drafted token is drawn from sum_j w_j q_j, under greedy decoding it is the argmax. Weights
    are set before a round, from past rounds only (the lossless law). At every position that the
    round then verifies, up to the first rejected one, the target's and all members' distributions
    are known; `flyball.kernels.mix` makes of them the evidence that a policy names.

    Lifetime: made once from its settings; `admit` when requests enter; then `decide` and `learn`
    once a round. Evidence may come late, partly or never. A member that is absent at a position
    shows NaN there; it neither gains nor loses by it. All arrays have one row a request or a
    position; a policy never loops over either.

    Args:
        settings: of its own class `Settings`.
        num_members: m, the drafts that are mixed.
        rng: for policies that draw.

    Attributes:
        grid: (G, m) the weight vectors that evidence of the kind "grid" is about; see
            `simplex_grid`.
    """

    Settings: ClassVar[type[EnsembleSettings]]
    runs_one: ClassVar[bool] = False  # whether only the member that has weight needs to run
    # Whether grid evidence needs the KL, which may else be NaN: on a CPU core it takes 93 ms for 4
    # positions, 3 members and 32,000 tokens, the hits 0.5 ms.
    reads_kl: ClassVar[bool] = False

    def __init__(self, settings: Any, num_members: int, rng: np.random.Generator) -> None:
        self.settings = settings
        self.num_members = num_members
        self.rng = rng
        self.grid = simplex_grid(num_members)

    def evidence(self, sampled: bool) -> Evidence | None:
        """What it learns from under sampling or greedy decoding; None: nothing."""
        return None

    def admit(self, slots: Ints) -> None:
        """New requests take these slots (n,)."""

    def decide(self, slots: Ints, sampled: bool) -> Floats:
        """Weights (n, m) for the coming round, each row at least 0 and of sum 1."""
        raise NotImplementedError

    def learn(self, slots: Ints, row: Rows, values: Floats, sampled: bool) -> None:
        """Take in what a round showed.

        Args:
            slots: (n,) requests.
            row: (N,) index into `slots` of each observed position, oldest first within a row.
            values: the evidence: (N, m) for "overlap" and "ascent", (N, m, 2) of KL and L1 for
                "divergence", (N, G, 2) of hits and KL for "grid".
            sampled: whether the target sampled, as when the weights were decided.
        """


def one_hot(member: Rows, num_members: int) -> Floats:
    """Weights (n, m) of 1 for one member (n,) of each request."""
    weights: Floats = np.eye(num_members)[member]
    return weights


def simplex_grid(num_members: int) -> Floats:
    """Weight vectors (G, m) at even steps on the simplex, in lexicographic order.

    Steps of 0.1 for up to 4 members, which makes 1, 11, 66 and 286 points, those of TABED (arXiv
    2601.20357) in its order; coarser ones above, for at most 330 points. A step of 1, the members
    alone, is the coarsest.
    """
    steps = 10
    while steps > 1 and comb(steps + num_members - 1, num_members - 1) > _MOST_POINTS:
        steps -= 1
    counts = np.array(list(_compositions(steps, num_members)), np.float64)
    grid: Floats = counts / steps
    return grid


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Ways to write a total as an ordered sum of so many numbers, in lexicographic order."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _compositions(total - first, parts - 1):
            yield (first, *rest)
