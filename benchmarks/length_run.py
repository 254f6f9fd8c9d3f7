"""Policies, static lengths and oracles along the streams of `benchmarks.length`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.length_streams import MAX_DRAFT_LEN, Costs, Stream
from flyball.controller.contract import Cost, HostInfo, Outcomes
from flyball.controller.governor import Governor
from flyball.controller.match_text import runs
from flyball.controller.policy_file import load_policy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Walk:
    """What a policy made of a stream, round by round.

    Attributes:
        tokens: (r,) accepted and one.
        lengths: (r,) drafted.
        seconds: (r,) virtual.
        decision_s: real seconds in the governor.
    """

    tokens: Ints
    lengths: Ints
    seconds: Floats
    decision_s: float = 0.0

    @property
    def rate(self) -> float:
        """Tokens per virtual second."""
        return float(self.tokens.sum() / self.seconds.sum())


def rooms_of(stream: Stream, walk: Walk) -> Ints:
    """(r,) how many tokens a draft might have had: one less than the request could still get."""
    starts = walk.tokens.cumsum() - walk.tokens
    request = np.searchsorted(stream.ends, starts, side="right")
    rooms: Ints = np.array(stream.limits)[request] - starts - 1
    return rooms


def runs_of(stream: Stream) -> Ints:
    """(t,) how many proposals in a row would be accepted from each position, within a request."""
    ends = np.array(stream.ends)
    return runs(stream.match, ends.repeat(np.diff(ends, prepend=0)))


def _requests(stream: Stream) -> Iterator[tuple[int, int, int]]:
    """Start, end and limit of each request."""
    return zip((0, *stream.ends[:-1]), stream.ends, stream.limits, strict=True)


def walk(stream: Stream, costs: Costs, draft_len: Callable[[int, int], int]) -> Walk:
    """Rounds whose draft length is a function of position and room, the run being known after.

    The room is what the host lets a draft have: one token less than the request may still get.
    """
    run, tokens, lengths = runs_of(stream), [], []
    for start, end, limit in _requests(stream):
        position = start
        while position < end:
            room = limit - position - 1
            length = min(draft_len(position, room), room)
            emitted = min(min(int(run[position]), length) + 1, end - position)
            tokens.append(emitted)
            lengths.append(length)
            position += emitted
    drafted = np.array(lengths)
    return Walk(np.array(tokens), drafted, costs.round_s(drafted.astype(np.float64)))


def walk_static(stream: Stream, costs: Costs, length: int) -> Walk:
    """The same length in every round."""
    return walk(stream, costs, lambda position, room: length)


def walk_runs(stream: Stream, costs: Costs) -> Walk:
    """The oracle of run lengths: it drafts exactly what will be accepted, where that pays."""
    run = runs_of(stream)
    still, step = float(costs.round_s(0.0)), float(costs.round_s(1.0) - costs.round_s(0.0))

    def at_price(price: float) -> Walk:
        def length_at(position: int, room: int) -> int:
            return min(int(run[position]), MAX_DRAFT_LEN) if price * step <= 1.0 else 0

        return walk(stream, costs, length_at)

    return _fixed_point(at_price, 1.0 / still)


def _fixed_point(at_price: Callable[[float], Walk], start: float) -> Walk:
    """The best walk, whose price is its own rate (Dinkelbach)."""
    best = at_price(start)
    while True:
        found = at_price(best.rate)
        if found.rate <= best.rate * (1.0 + 1e-6):
            return best
        best = found


def walk_causal(stream: Stream, costs: Costs) -> Walk:
    """The causal oracle: it knows how the text is made, and sees what a policy sees.

    That is how sure the draft is, at every position up to where it stands. It goes on while the
    next token is worth its seconds at its own rate (Dinkelbach's fixed point). Only where somebody
    knows how the text is made.
    """
    assert stream.known is not None and stream.ahead is not None
    known, ahead = stream.known.tolist(), stream.ahead.tolist()
    still, step = float(costs.round_s(0.0)), float(costs.round_s(1.0) - costs.round_s(0.0))

    def at_price(price: float) -> Walk:
        def length_at(position: int, room: int) -> int:
            survival, length = 1.0, 0
            following = ahead[max(position - 1, 0)]
            while length < min(MAX_DRAFT_LEN, room) and survival * following >= price * step:
                survival *= known[position + length]
                following = ahead[position + length]
                length += 1
            return length

        return walk(stream, costs, length_at)

    return _fixed_point(at_price, 1.0 / still)


def walk_policy(
    stream: Stream,
    costs: Costs,
    policy: Mapping[str, Any],
    max_rounds: int = 2**62,
    *,
    shows: bool = True,
) -> Walk:
    """A governor with this policy file, as a host with one request at a time would run it.

    Where nothing was drafted, the draft reads the text before it goes on, and every so
    often, in one forward that takes as long as a draft step. It ends with the text, or with the
    request in which the last of so many rounds falls. The host may show no confidences.
    """
    host = HostInfo("arena", max_draft_len=MAX_DRAFT_LEN, mid_draft_stop=shows)
    governor = Governor(load_policy(policy), host, clock=lambda: 0.0)  # time here is virtual
    run = runs_of(stream)
    tokens, lengths, seconds = [], [], []
    decision_s = 0.0
    confidence, entropy = stream.confidence, stream.entropy
    row = np.zeros(1, np.intp)
    for start, end, limit in _requests(stream):
        slots = governor.admit(1)
        position = read = start
        while position < end:
            begun = time.perf_counter()
            plan = governor.plan(slots)
            room = limit - position - 1
            length = min(int(plan.draft_len[0]), room)
            if governor.wants_confidence:
                for place in range(1, length):
                    sure = confidence[position, place - 1 : place]
                    spread = entropy[position, place - 1 : place]
                    if governor.stop(plan.step_id, row, place, sure, spread)[0]:
                        length = place
                        break
            skipped = position - read
            reads = skipped >= governor.read_every() or (length > 0 and skipped > 0)
            worth_it = skipped > 1 or governor.follows_shadows
            if reads and worth_it and governor.wants_reading:
                match = stream.match[None, read:position].astype(np.float64)
                seen = (sign[None, read:position, 0] for sign in (confidence, entropy))
                governor.read(slots, match, 0, *(seen if shows else ()))
                read = position
            decision_s += time.perf_counter() - begun
            accepted = min(int(run[position]), length)
            emitted = min(accepted + 1, end - position)
            reading_s = costs.draft_s if reads and length == 0 else 0.0
            round_s = float(costs.round_s(float(length)))
            outcomes = Outcomes(
                plan.step_id,
                slots,
                np.array([length], np.int32),
                np.array([accepted], np.int32),
                np.array([min(accepted + 1, length, emitted)], np.int32),
                confidence[None, position, :length] if shows else None,
                entropy=entropy[None, position, :length] if shows else None,
            )
            draft_s = costs.draft_s * length
            verify_s = round_s - draft_s - costs.host_s
            cost = Cost(plan.step_id, round_s, 1, length + 1, length, draft_s, verify_s)
            begun = time.perf_counter()
            governor.observe(outcomes, cost)
            decision_s += time.perf_counter() - begun
            tokens.append(emitted)
            lengths.append(length)
            seconds.append(round_s + reading_s)
            if length > 0:
                # The token after a draft that was accepted in full is still to be read.
                read = position + emitted - (accepted == length and emitted > length)
            position += emitted
        governor.release(slots)
        if len(tokens) >= max_rounds:
            break
    if governor.faults:
        raise RuntimeError(f"policy {policy} had faults: {governor.faults}")
    return Walk(np.array(tokens), np.array(lengths), np.array(seconds), decision_s)
