"""What a round showed of an ensemble's members, on its way to the governor."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.controller.governor import Governor
from flyball.integrations.hf.device import HostCopy, upload
from flyball.integrations.hf.proposal import MemberProbs, Proposal
from flyball.kernels import mix as kernels

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]


class EvidenceInbox:
    """Compares members with the target on the device, and hands the result on.

    From a GPU a round later: the host does not wait for it.

    Args:
        governor: told of the members.
        do_sample: whether tokens are drawn.
    """

    def __init__(self, governor: Governor, do_sample: bool) -> None:
        self._governor = governor
        self._do_sample = do_sample
        self._pending: _Pending | None = None

    def put(
        self, step_id: int, slots: Ints, proposal: Proposal, observed: Longs, scores: torch.Tensor
    ) -> None:
        """Compare what a round's members said with the target.

        Args:
            step_id: of the plan.
            slots: (rows,) requests.
            proposal: of the round.
            observed: (rows,) drafted positions whose outcome was seen.
            scores: (rows, K + 1, vocab) the target's, processed.
        """
        members, drawn = proposal.members, proposal.drawn
        if members is None or drawn is None or self._governor.ensemble is None:
            return
        width = len(members.probs)
        row, column = np.nonzero((np.arange(width) < observed[:, None]) & drawn[:, None])
        if len(row) == 0:
            return
        at = (upload(row, scores.device), upload(column, scores.device))
        p = scores[at].softmax(dim=-1)
        q, present = torch.stack(members.probs, 1)[at], torch.stack(members.present, 1)[at]
        overlap = kernels.overlap(p, q, present, greedy=not self._do_sample)
        values = self._values(p, q, present, members, at)
        self._pending = _Pending(
            step_id,
            slots,
            (row, column),
            width,
            HostCopy(overlap),
            None if values is None else HostCopy(values),
        )
        if not scores.is_cuda:
            self.empty()

    def _values(
        self,
        p: torch.Tensor,
        q: torch.Tensor,
        present: torch.Tensor,
        members: MemberProbs,
        at: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor | None:
        """Evidence (N, ...) of the kind that the ensemble's policy learns from."""
        ensemble = self._governor.ensemble
        kind = None if ensemble is None else ensemble.evidence(self._do_sample)
        if ensemble is None or kind is None:
            return None
        if kind == "overlap":
            return kernels.overlap(p, q, present, greedy=not self._do_sample)
        if kind == "ascent":
            return kernels.ascent(p, q, torch.stack(members.mixture, 1)[at], present)
        if kind == "divergence":
            return kernels.divergence(p, q, present)
        grid = upload(ensemble.grid, p.device)
        hits = kernels.grid_hits(p, q, grid, present)
        kl = torch.full_like(hits, torch.nan)
        if ensemble.reads_kl:
            kl = kernels.grid_kl(p, q, grid, present)
        return torch.stack([hits, kl], dim=-1)

    def empty(self) -> None:
        """Hand on what is there."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        found = pending.overlap.get().astype(np.float64)
        overlap = np.full((len(pending.slots), pending.width, found.shape[1]), np.nan)
        overlap[pending.at] = found
        values = None if pending.values is None else pending.values.get().astype(np.float64)
        self._governor.weigh(
            pending.step_id, pending.slots, overlap, pending.at[0], values, self._do_sample
        )


class _Pending:
    """Comparisons that are on their way to the host."""

    def __init__(
        self,
        step_id: int,
        slots: Ints,
        at: tuple[Longs, Longs],
        width: int,
        overlap: HostCopy,
        values: HostCopy | None,
    ) -> None:
        self.step_id, self.slots, self.at, self.width = step_id, slots, at, width
        self.overlap, self.values = overlap, values
