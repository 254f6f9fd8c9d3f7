"""Engine steps from their planning until the governor was told of them."""

from __future__ import annotations

from collections import deque
from typing import Any

from flyball.controller.governor import Governor
from flyball.integrations.vllm.flights import Flight, history_of
from flyball.integrations.vllm.ledger import Ledger
from flyball.integrations.vllm.step_costs import StepCosts


class FlightLog:
    """Steps that are on their way, and those that ended and are not handed in yet.

    Args:
        governor: that is told.
        per_step: whether the drafter runs a step for each token that it is asked for.

    Attributes:
        ledger: slots of the requests.
        flying: steps on their way, oldest first.
        landed: steps that ended, oldest first.
        latest: the last that was planned; None before it, and after a fault.
        num_rounds: rounds of requests that were handed in, with a draft or without.
    """

    def __init__(self, governor: Governor, per_step: bool) -> None:
        self._governor = governor
        self._per_step = per_step
        self.num_rounds = 0
        self.clear()

    def clear(self) -> None:
        """Know of no step and no request."""
        self.ledger = Ledger(self._governor)
        self.flying: deque[Flight] = deque()
        self.landed: list[Flight] = []
        self.latest: Flight | None = None
        self._costs = StepCosts(self._per_step)

    def start(self, flight: Flight) -> None:
        """A step was planned."""
        self.latest = flight
        self.flying.append(flight)

    def land(self, output: Any) -> Flight | None:
        """A step ended, which its output tells; None where that was empty, or before a pause."""
        for position, flight in enumerate(self.flying):
            if flight.output is output:
                for _ in range(position + 1):  # the engine dropped those before it
                    self.flying.popleft()
                flight.output = None
                self.landed.append(flight)
                return flight
        return None

    def oldest_plan(self) -> int:
        """The earliest plan whose drafts are still to be told of, or the next one.

        Requests that joined under it, and are admitted only now, have a part in it.
        """
        courses = [flight.before for flight in self.flying]
        if self.latest is not None:
            courses.append(self.latest.course)
        ids = (course.plan_id for course in courses if course is not None)
        known = (plan_id for plan_id in ids if plan_id is not None)
        return next(known, self._governor.num_steps + 1)

    def hand_in(self) -> None:
        """Tell the governor what the steps showed that ended since the last time."""
        landed, self.landed = self.landed, []
        if landed:
            costs = [self._costs.cost(flight) for flight in landed]
            history = history_of(landed, costs, self.ledger)
            self.num_rounds += sum(history.num_rows)
            self._governor.observe_many(history)
        self.ledger.settle()
        for flight in landed:  # or every step would keep alive all that came before it
            flight.previous = None
