"""What a round showed of an ensemble's members, on its way to the governor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.controller.contract import Plan, Wanted
from flyball.controller.governor import Governor
from flyball.integrations.hf.device import HostCopy, upload
from flyball.integrations.hf.proposal import Proposal
from flyball.integrations.hf.seeds import SeededDraws
from flyball.integrations.hf.verdict import Verdict
from flyball.kernels import mix
from flyball.kernels.accept_gradient import accept_gradient

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]


class EvidenceInbox:
    """Compares members with the target on the device, and hands the result on.

    From a GPU a round later: the host does not wait for it.

    Args:
        governor: told of the members.
        do_sample: whether tokens are drawn.
        draws: of texts with seeds; None without.
    """

    def __init__(
        self, governor: Governor, do_sample: bool, draws: SeededDraws | None = None
    ) -> None:
        self._governor = governor
        self._do_sample = do_sample
        self._draws = draws
        self._pending: _Pending | None = None

    def put(
        self, plan: Plan, slots: Ints, proposal: Proposal, observed: Longs, verdict: Verdict
    ) -> None:
        """Compare what a round's members said with the target.

        Args:
            plan: of the round.
            slots: (rows,) requests.
            proposal: of the round.
            observed: (rows,) drafted positions whose outcome was seen.
            verdict: of the round.
        """
        members, drawn = proposal.members, proposal.drawn
        if members is None or drawn is None or plan.wanted is None:
            return
        width = len(members.probs)
        row, column = np.nonzero((np.arange(width) < observed[:, None]) & drawn[:, None])
        if len(row) == 0:
            return
        device, wanted = verdict.scores.device, plan.wanted
        at = (upload(row, device), upload(column, device))
        scores = verdict.scores[at]
        q, present, shares = (
            torch.stack(values, 1)[at]
            for values in (members.probs, members.present, members.shares)
        )
        values: torch.Tensor | None
        if wanted.evidence == "ascent":
            settled = upload(verdict.emitted[row, column], device)
            gradient = accept_gradient(scores, q, shares, settled, present=present)
            overlap, values = gradient.overlap, gradient.ascent
            if not self._do_sample:
                overlap = mix.overlap(scores, q, present, greedy=True)
        else:
            p = scores.softmax(dim=-1)
            overlap = mix.overlap(p, q, present, greedy=not self._do_sample)
            values = self._values(wanted, p, q, present, overlap)
        accepted = overlap
        if self._draws is not None:
            noise = self._draws.noise(*at)
            noisy = (scores + noise, q.log() + noise[:, None])
            accepted = mix.overlap(*noisy, present, greedy=True)
        kind = wanted.evidence
        self._pending = _Pending(
            plan.step_id,
            slots,
            (row, column),
            width,
            HostCopy(accepted),
            kind,
            None if values is None else HostCopy(values),
        )
        if not scores.is_cuda:
            self.empty()

    def _values(
        self,
        wanted: Wanted,
        p: torch.Tensor,
        q: torch.Tensor,
        present: torch.Tensor,
        overlap: torch.Tensor,
    ) -> torch.Tensor | None:
        """What the policy learns from but `ascent`, of positions (N,); None where nothing is."""
        if wanted.evidence is None or wanted.evidence == "overlap":
            return None if wanted.evidence is None else overlap
        return mix.evidence(
            wanted.evidence,
            p,
            q,
            present,
            upload(wanted.grid, p.device),
            greedy=not self._do_sample,
            reads_kl=wanted.reads_kl,
        )

    def empty(self) -> None:
        """Hand on what is there."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        found = pending.accepted.get().astype(np.float64)
        accepted = np.full((len(pending.slots), pending.width, found.shape[1]), np.nan)
        accepted[pending.at] = found
        values = None if pending.values is None else pending.values.get().astype(np.float64)
        self._governor.weigh(
            pending.step_id,
            pending.slots,
            accepted,
            pending.at[0],
            pending.kind,
            values,
            self._do_sample,
        )


@dataclass(frozen=True)
class _Pending:
    """Comparisons that are on their way to the host."""

    step_id: int
    slots: Ints
    at: tuple[Longs, Longs]
    width: int
    accepted: HostCopy
    kind: str | None
    values: HostCopy | None
