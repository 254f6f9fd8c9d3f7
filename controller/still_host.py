"""A host in virtual time whose policy knows nothing but the draft's own signs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import HostInfo
from flyball.controller.corpus import Corpus
from flyball.controller.cost_table import CostTable
from flyball.controller.replayed import Replayed, close_up
from flyball.policies.length.base import LengthPolicy, Progress, View

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]


class StillHost:
    """A policy that is `still` is asked once for all places, and many rounds go at a time.

    Which rounds a text has does not depend on the others; what they cost does.
    """

    def __init__(
        self,
        corpus: Corpus,
        policy: LengthPolicy,
        costs: CostTable,
        host: HostInfo,
        batch_size: int,
    ) -> None:
        self._corpus, self._policy, self._costs, self._host = corpus, policy, costs, host
        self._batch_size = batch_size

    def run(self) -> Replayed:
        """Decode all texts."""
        corpus = self._corpus
        sizes = corpus.end - corpus.first
        every = np.arange(len(corpus.run))
        room = np.maximum(corpus.limit.repeat(sizes) - every - 1, 0)
        length = np.minimum(self._lengths(every), room)
        places = self._places(every + np.minimum(corpus.run, length) + 1)
        num_rounds = np.array([len(own) for own in places])
        text, at = np.arange(len(places)).repeat(num_rounds), np.concatenate(places)
        steps, step_s = self._steps(num_rounds, length[at])
        order = np.concatenate([rounds.T.ravel() for rounds in steps])
        rows = np.concatenate([np.full(rounds.shape[1], len(rounds)) for rounds in steps])
        text, at = text[order], at[order]
        accepted = np.minimum(corpus.run[at], length[at])
        kept = np.minimum(accepted + 1, corpus.end[text] - at)
        return Replayed(
            text,
            at - corpus.first[text],
            length[at],
            np.minimum(accepted, kept),
            kept,
            step=np.arange(len(rows)).repeat(rows),
            step_s=step_s,
            faults={},
        )

    def _lengths(self, at: Longs) -> Longs:
        """What the policy drafts from places (t,), where there is room."""
        policy, host = self._policy, self._host
        limit = min(policy.settings.max_draft_len, host.max_draft_len)
        view = _view(len(at), limit, host)
        length = policy.decide(view).astype(np.int64)
        if not (policy.stops and host.mid_draft_stop):
            return length
        self._corpus.check_ahead(limit)
        going = np.flatnonzero(length > 1)
        for position in range(1, limit):
            going = going[length[going] > position]
            if len(going) == 0:
                break
            confidence, entropy = self._corpus.ahead(at[going], position)
            nothing = np.full(len(going), np.nan)
            progress = Progress(view, going, position, nothing, nothing, confidence, entropy)
            length[going[policy.stop(progress)]] = position
        return length

    def _places(self, after: Longs) -> list[Longs]:
        """Where the rounds of each text begin, if those from each place (t,) end at `after`."""
        corpus, following = self._corpus, after.tolist()  # a list: faster one by one
        found = []
        for first, end in zip(corpus.first.tolist(), corpus.end.tolist(), strict=True):
            place, own = first + 1, []
            while place < end:
                own.append(place)
                place = following[place]
            found.append(np.array(own, np.int64))
        return found

    def _steps(self, num_rounds: Longs, length: Longs) -> tuple[list[Longs], Floats]:
        """What happens in which step; from one text's end to the next the batch stays the same.

        Args:
            num_rounds: (m,) of each text.
            length: (r,) of the rounds, text after text.

        Returns:
            Rounds (n, s) of each such stretch, and (s,) seconds of all steps.
        """
        first = num_rounds.cumsum() - num_rounds
        begun = np.zeros_like(first)  # step with which each text begins
        # Whether its draft reads its prompt; a text of one token has no round.
        drafts = length[np.minimum(first, len(length) - 1)] > 0
        stretches, seconds = [], []
        now, waiting, prompt_s = 0, 0, 0.0
        live = np.zeros(0, np.int64)
        overlap = self._host.rounds_overlap
        while waiting < len(first) or len(live):
            new = np.arange(waiting, min(waiting + self._batch_size - len(live), len(first)))
            waiting += len(new)
            if not overlap:
                begun[new] = now
                live = np.concatenate([live, new])
            prompt_s += self._prompt_s(new, drafts[new] & (num_rounds[new] > 0), len(live))
            left = num_rounds[live] - (now - begun[live])
            # The step that reads prompts is one of its own where rounds overlap.
            count = 1 if overlap and len(new) else int(left.min())
            if count:
                rounds = (first[live] + now - begun[live])[:, None] + np.arange(count)
                step_s = self._step_s(length[rounds])
                step_s[0] += prompt_s
                prompt_s = 0.0
                stretches.append(rounds)
                seconds.append(step_s)
                now += count
            ended = left == count
            if overlap:
                begun[new] = now
                live = np.concatenate([live, new])
                ended = np.concatenate([ended, num_rounds[new] == 0])
            live = live[close_up(ended)]
        return stretches, np.concatenate(seconds)

    def _prompt_s(self, new: Longs, drafts: Bools, batch_size: int) -> float:
        """Seconds in which texts (m,) are read by the target, and by the draft where it drafts."""
        prompt_len, costs = self._corpus.prompt_len[new], self._costs
        seconds = float(prompt_len.sum()) * costs.prompt_token_s
        if self._host.reads:
            seconds += float(prompt_len @ drafts) * costs.draft_prompt_token_seconds(batch_size)
        return seconds

    def _step_s(self, length: Longs) -> Floats:
        """Seconds (s,) of steps with these lengths (n, s)."""
        if len(length) == 0:
            still = np.zeros(length.shape[1], np.int64)
            return self._costs.step_seconds(1, still + 1.0, still)
        width = length.max(axis=0)
        verify_len = width if self._host.padded else length.mean(axis=0)
        return self._costs.step_seconds(len(length), verify_len + 1.0, width)


def _view(count: int, max_draft_len: int, host: HostInfo) -> View:
    """What a policy that looks at nothing gets to see."""
    unknown = np.full(max_draft_len, np.nan)
    return View(
        slots=np.zeros(count, np.int32),
        max_draft_len=max_draft_len,
        can_stop=host.mid_draft_stop,
        padded=host.padded,
        survival=np.broadcast_to(unknown, (count, max_draft_len)),
        round_s=np.full(max_draft_len + 1, np.nan),
        marginal_s=unknown,
        verify_marginal_s=unknown,
        price=np.nan,
        weight=np.ones(count),
        best_len=0,
        probe_len=None,
    )
