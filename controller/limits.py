"""Limits that whoever sets the hardware puts on hosts and plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import HostInfo, Offer

Ints = NDArray[np.int32]


@dataclass
class Limits:
    """What is allowed for now; hosts and plans keep to it from then on.

    Attributes:
        batch_size: requests that decode at a time; those that already do go on. None for as many
            as the host takes.
        draft_len: tokens that may be drafted at a time; None for as many as the policy likes.
    """

    batch_size: int | None = None
    draft_len: int | None = None

    def bound_drafts(
        self, host: HostInfo, offers: Sequence[Offer], room: Ints | None, num_requests: int
    ) -> tuple[Sequence[Offer], Ints | None]:
        """Offers and room, as for `Governor.plan`, where no draft may be longer.

        Policies then weigh what can be drafted, rather than be cut short afterwards.
        """
        if self.draft_len is None:
            return offers, room
        if room is None:
            num_stepping = sum(draft.steps for draft in host.drafts)
            room = np.full((num_stepping, num_requests), host.max_draft_len, np.int32)
        bounded = [
            replace(offer, draft_len=np.minimum(offer.draft_len, self.draft_len))
            for offer in offers
        ]
        return bounded, np.minimum(room, self.draft_len)
