"""How long a plan is kept."""

from __future__ import annotations

_FIRST = 4  # times as long is a plan kept in the end as the first one for new requests
_NEW_SHARE = 4  # more than one new request in four asks for a new plan


def hold_steps(batch_size: int) -> int:
    """Steps for which a plan is kept, at most.

    Large batches change slowly, and have much to hand in.
    """
    return 16 if batch_size <= 16 else 64


class Hold:
    """Says when a plan has had its time: by its age, and by who joined since it was made.

    Attributes:
        steps_left: for which the plan may still be kept.
    """

    def __init__(self) -> None:
        self.steps_left = 0
        self._num_joined = 0  # since the plan was made
        self._patience = 0  # steps for which to keep the next plan, at least

    def goes_on(self, num_joined: int, num_requests: int) -> bool:
        """Whether the plan is good for this step of so many requests, some of them new to it."""
        self.steps_left -= 1
        self._num_joined += num_joined
        if _NEW_SHARE * num_joined > num_requests:
            self._patience = 0
        return self.steps_left > 0 and _NEW_SHARE * self._num_joined <= num_requests

    def pass_on(self) -> None:
        """There was nothing to plan; the next step asks again."""
        self.steps_left, self._num_joined = 1, 0

    def begin(self, num_requests: int, most: int) -> None:
        """A plan was made for so many requests; it must not be kept for longer than `most`."""
        longest = hold_steps(num_requests)
        steps = min(max(self._patience, longest // _FIRST), longest)
        self._patience, self._num_joined = 2 * steps, 0
        self.steps_left = min(steps, most)
