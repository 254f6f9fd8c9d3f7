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
        stretches, prompt_s = self._steps(num_rounds, length[at])
        order = np.concatenate([rounds.T.ravel() for rounds in stretches])
        rows = np.concatenate([np.full(rounds.shape[1], len(rounds)) for rounds in stretches])
        text, at = text[order], at[order]
        parts = self._parts(rows, length[at])
        for step, seconds in prompt_s:
            parts[step, :2] += seconds
        accepted = np.minimum(corpus.run[at], length[at])
        kept = np.minimum(accepted + 1, corpus.end[text] - at)
        return Replayed(
            text,
            at - corpus.first[text],
            length[at],
            np.minimum(accepted, kept),
            kept,
            step=np.arange(len(rows)).repeat(rows),
            step_s=parts.sum(axis=1),
            step_j=self._costs.joules(parts),
            faults={},
        )

    @property
    def _asks(self) -> bool:
        """Whether the policy is asked in mid-draft."""
        return self._policy.stops and self._host.mid_draft_stop

    def _lengths(self, at: Longs) -> Longs:
        """What the policy drafts from places (t,), where there is room."""
        policy, host = self._policy, self._host
        limit = min(policy.settings.max_draft_len, host.max_draft_len)
        view = _view(len(at), limit, host)
        length = policy.decide(view).astype(np.int64)
        if not self._asks:
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

    def _steps(
        self, num_rounds: Longs, length: Longs
    ) -> tuple[list[Longs], list[tuple[int, Floats]]]:
        """What happens in which step; from one text's end to the next the batch stays the same.

        Args:
            num_rounds: (m,) of each text.
            length: (r,) of the rounds, text after text.

        Returns:
            Rounds (n, s) of each such stretch; and the steps before which prompts were read, with
            seconds (2,) of target and draft.
        """
        first = num_rounds.cumsum() - num_rounds
        begun = np.zeros_like(first)  # step with which each text begins
        # Whether its draft reads its prompt; a text of one token has no round.
        drafts = length[np.minimum(first, len(length) - 1)] > 0
        stretches, prompt_s = [], []
        now, waiting = 0, 0
        unread = np.zeros(0, np.int64)
        live = np.zeros(0, np.int64)
        overlap = self._host.rounds_overlap
        while waiting < len(first) or len(live):
            new = np.arange(waiting, min(waiting + self._batch_size - len(live), len(first)))
            waiting += len(new)
            if not overlap:
                begun[new] = now
                live = np.concatenate([live, new])
            unread = np.concatenate([unread, new])
            left = num_rounds[live] - (now - begun[live])
            # The step that reads prompts is one of its own where rounds overlap.
            count = 1 if overlap and len(new) else int(left.min())
            if count:
                rounds = (first[live] + now - begun[live])[:, None] + np.arange(count)
                stretches.append(rounds)
                if len(unread):
                    reads = drafts[unread] & (num_rounds[unread] > 0)
                    prompt_s.append((now, self._prompt_s(unread, reads, len(live))))
                    unread = unread[:0]
                now += count
            ended = left == count
            if overlap:
                begun[new] = now
                live = np.concatenate([live, new])
                ended = np.concatenate([ended, num_rounds[new] == 0])
            live = live[close_up(ended)]
        # Prompts of texts of one token at the end have no step of their own.
        no_draft = np.zeros(len(unread), np.bool_)
        prompt_s.append((now - 1, self._prompt_s(unread, no_draft, 1)))
        return stretches, prompt_s

    def _prompt_s(self, new: Longs, drafts: Bools, batch_size: int) -> Floats:
        """Seconds (2,) in which texts (m,) are read by the target, and by drafts that draft."""
        prompt_len, costs = self._corpus.prompt_len[new], self._costs
        drafting = 0.0
        if self._host.reads:
            drafting = float(prompt_len @ drafts) * costs.draft_prompt_token_seconds(batch_size)
        return np.array([float(prompt_len.sum()) * costs.prompt_token_s, drafting])

    def _parts(self, rows: Longs, length: Longs) -> Floats:
        """Seconds (s, 3) of steps with so many rounds (s,) of these lengths (r,)."""
        starts = (rows.cumsum() - rows)[rows > 0]
        width, verify_len = np.zeros(len(rows), np.int64), np.ones(len(rows))
        width[rows > 0] = np.maximum.reduceat(length, starts)
        verify_len[rows > 0] += (
            width[rows > 0]
            if self._host.padded
            else np.add.reduceat(length, starts) / rows[rows > 0]
        )
        parts = np.empty((len(rows), 3))
        for size in np.unique(rows).tolist():
            mine = rows == size
            parts[mine] = self._costs.step_parts(
                max(size, 1), verify_len[mine], width[mine], self._asks
            )
        return parts


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
