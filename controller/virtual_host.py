"""A host in virtual time, for replays that ask a policy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import Cost, HostInfo, Offer, Outcomes, Plan
from flyball.controller.corpus import Corpus
from flyball.controller.cost_table import CostTable
from flyball.controller.governor import Governor
from flyball.controller.policy_file import PolicyFile
from flyball.controller.replayed import Replayed, close_up

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]

_LONG_READ = 2  # tokens; a round leaves no more to read


class VirtualHost:
    """A host whose draft and target are a corpus, and whose clock is a cost table.

    It does what the transformers loop does, call by call: a draft that is needed reads first what
    it has not read; one that is not needed reads now and then, where somebody wants to know. A
    draft without steps makes its offers before every round.
    """

    def __init__(
        self,
        corpus: Corpus,
        policy: PolicyFile,
        costs: CostTable,
        host: HostInfo,
        batch_size: int,
        told: CostTable | None = None,
    ) -> None:
        self._corpus, self._costs, self._host = corpus, costs, host
        self._batch_size = batch_size
        # Time is virtual, and a decision takes none of it.
        self._governor = Governor(policy, host, clock=lambda: 0.0, costs=told)
        if self._governor.wants_confidence and corpus.steps:
            corpus.check_ahead(self._governor.max_draft_len)
        nobody = np.zeros(0, np.int64)
        self._text, self._at = nobody, nobody  # (n,) of each row: its text, its next place
        self._read_to = nobody  # (n,) place that the draft reads next
        self._fresh: Bools = np.zeros(0, np.bool_)  # (n,) whether it has not even read the prompt
        self._slots: Ints = np.zeros(0, np.int32)
        self._num_begun = 0
        self._num_prompt = 0  # tokens of prompts read since the last step
        self._extra_s = 0.0  # of the draft's reading since the last step
        self._rounds: list[tuple[Longs, ...]] = []
        self._parts: list[tuple[float, float, float]] = []  # of the steps, seconds
        self._survival: list[NDArray[np.float32]] = []

    def run(self) -> Replayed:
        """Decode all texts."""
        # Where rounds overlap, the step that reads a prompt makes its first token alone.
        overlap = self._host.rounds_overlap
        while self._num_begun < len(self._corpus.texts) or len(self._text):
            new = self._arrive()
            if not overlap:
                self._join(new)
            if len(self._text) == 0:
                self._read_prompts()
            elif not self._finished.any():
                self._round()
            if overlap:
                self._join(new)
            if self._finished.any():
                self._leave()
        self._governor.close()
        rows = np.array([len(text) for text, *_ in self._rounds])
        columns = (np.concatenate(column) for column in zip(*self._rounds, strict=True))
        parts = np.array(self._parts)
        # Prompts of texts of one token at the end have no step.
        parts[-1, 0] += self._num_prompt * self._costs.prompt_token_s
        text, place, proposed, accepted, kept = columns
        return Replayed(
            text,
            place - self._corpus.first[text],
            proposed,
            accepted,
            kept,
            step=np.arange(len(rows)).repeat(rows),
            step_s=parts.sum(axis=1),
            step_j=self._costs.joules(parts),
            faults=dict(self._governor.faults),
            survival=np.concatenate(self._survival),
        )

    @property
    def _asks(self) -> bool:
        """Whether the policy is asked in mid-draft."""
        return self._governor.wants_confidence and self._host.mid_draft_stop

    @property
    def _finished(self) -> Bools:
        done: Bools = self._at >= self._corpus.end[self._text]
        return done

    def _arrive(self) -> Longs:
        """Texts (m,) that take free places; their prompts are to be read."""
        corpus = self._corpus
        free = self._batch_size - len(self._text)
        new = np.arange(self._num_begun, min(self._num_begun + free, len(corpus.texts)))
        self._num_begun += len(new)
        self._num_prompt += int(corpus.prompt_len[new].sum())
        return new

    def _join(self, new: Longs) -> None:
        """Texts (m,) have their first tokens."""
        first = self._corpus.first[new]
        self._text = np.concatenate([self._text, new])
        self._at = np.concatenate([self._at, first + 1])
        self._read_to = np.concatenate([self._read_to, first - 1])
        self._fresh = np.concatenate([self._fresh, np.ones(len(new), np.bool_)])
        if len(new):
            self._slots = np.concatenate([self._slots, self._governor.admit(len(new))])

    def _read_prompts(self) -> None:
        """A step in which nobody decodes."""
        self._end_step(self._costs.cost(0, 1, 1.0, 0))
        self._rounds.append((self._text,) * 5)

    def _end_step(self, cost: Cost) -> None:
        """Note what a step took, with all that was read since the one before."""
        host_s = self._costs.host_seconds(cost.batch_size)
        assert cost.verify_s is not None and cost.draft_s is not None
        verifying = cost.verify_s + self._num_prompt * self._costs.prompt_token_s
        self._parts.append((verifying, cost.draft_s + self._extra_s, host_s))
        self._num_prompt, self._extra_s = 0, 0.0

    def _leave(self) -> None:
        """Rows that stay close up, the last ones filling the holes."""
        finished = self._finished
        self._governor.release(self._slots[finished])
        order = close_up(finished)
        for name in ("_text", "_at", "_read_to", "_fresh", "_slots"):
            setattr(self, name, getattr(self, name)[order])

    def _round(self) -> None:
        corpus, governor, host = self._corpus, self._governor, self._host
        slots, at, count = self._slots, self._at, len(self._slots)
        done = at - corpus.first[self._text]
        offers = self._offers()
        plan = governor.plan(
            slots,
            count,
            offers=offers,
            context_len=(corpus.prompt_len[self._text] + done).astype(np.int32),
            num_waiting=len(corpus.texts) - self._num_begun,
        )
        room = corpus.limit[self._text] - at - 1
        length = np.minimum(plan.draft_len.astype(np.int64), np.maximum(room, 0))
        signs: list[Floats] = []
        has_read = False
        if corpus.steps and length.any():
            has_read = host.reads and self._read(length > 0)
            length, signs = self._draft(plan.step_id, length)
        elif corpus.steps and host.reads and governor.wants_reading:
            num_unread = at - self._read_to + self._fresh * (corpus.prompt_len[self._text] - 1)
            if num_unread.max() >= governor.read_every():
                has_read = self._read(np.ones(count, np.bool_))
                self._extra_s += self._costs.draft_step_seconds(count)
        self._settle(plan, length, signs, has_read, offers)

    def _offers(self) -> list[Offer]:
        """What a draft without steps proposes, where it finds something for some request."""
        if self._corpus.steps:
            return []
        strength = self._corpus.strength[self._at]
        if (strength < 0).all():
            return []
        size = np.where(strength < 0, 0, self._governor.max_draft_len)
        return [Offer(0, size.astype(np.int32), np.maximum(strength, 0))]

    def _settle(
        self, plan: Plan, length: Longs, signs: list[Floats], has_read: bool, offers: list[Offer]
    ) -> None:
        """Verify drafts of these lengths (n,), tell the governor, and go on."""
        corpus, governor, host = self._corpus, self._governor, self._host
        at, count, width = self._at, len(self._slots), int(length.max())
        accepted = np.minimum(corpus.run[at], length)
        kept = np.minimum(accepted + 1, corpus.end[self._text] - at)
        accepted = np.minimum(accepted, kept)
        for offer in offers:
            limit = np.minimum(kept, offer.draft_len)
            matched = np.minimum(corpus.run[at], limit)
            governor.compare(self._slots, offer, matched, np.minimum(matched + 1, limit))
        known = np.stack(signs, axis=2) if signs else [None, None]
        outcomes = Outcomes(
            plan.step_id,
            self._slots,
            length.astype(np.int32),
            accepted.astype(np.int32),
            np.minimum(np.minimum(accepted + 1, length), kept).astype(np.int32),
            confidence=known[0],
            draft=plan.draft,
            entropy=known[1] if governor.wants_entropy else None,
        )
        verify_len = width + 1 if host.padded else 1.0 + float(length.mean())
        in_step = self._num_prompt if host.rounds_overlap else 0
        num_steps = width if corpus.steps else 0
        cost = self._costs.cost(
            plan.step_id, count, verify_len, num_steps, in_step, asks=self._asks
        )
        governor.observe(outcomes, None if has_read else cost)
        self._end_step(cost)
        self._rounds.append((self._text, at, length, accepted, kept))
        view = governor.view
        unknown = np.full((count, governor.max_draft_len), np.nan)
        believed = unknown if view is None else view.survival
        if not corpus.steps:  # where no offer was taken, nothing was said of one
            believed = np.where(believed[:, :1] > 0.0, believed, np.nan)
        self._survival.append(believed.astype(np.float32))
        # The last drafted token is read once it is settled.
        read = at + np.minimum(accepted, length - 1)
        self._read_to = np.where(length > 0, read, self._read_to)
        self._at = at + kept

    def _read(self, rows: Bools) -> bool:
        """Bring the draft up to the text in some rows, and others on the way as far as they come.

        Returns:
            Whether it read more than a round leaves over.
        """
        corpus, governor = self._corpus, self._governor
        fresh = rows & self._fresh
        if fresh.any():
            num_tokens = int(corpus.prompt_len[self._text[fresh]].sum())
            self._extra_s += num_tokens * self._costs.draft_prompt_token_seconds(len(rows))
            self._fresh = self._fresh & ~fresh
        lag = np.where(self._fresh, 0, self._at - self._read_to)
        width = int(lag[rows].max())
        lag = np.minimum(lag, width)
        long = width > _LONG_READ
        if width > 1 and (long or governor.follows_shadows):
            column = np.arange(1, width)
            places = self._read_to[:, None] + column
            known = (column < lag[:, None]) & (places >= corpus.first[self._text][:, None])
            places = np.clip(places, 0, len(corpus.match) - 1)
            match, signs = corpus.read(places)
            shown = signs[: 1 + governor.wants_entropy] if governor.follows_shadows else ()
            governor.read(self._slots, np.where(known, match, np.nan), 0, *shown)
        self._read_to = self._read_to + lag
        return long or bool(fresh.any())

    def _draft(self, step_id: int, length: Longs) -> tuple[Longs, list[Floats]]:
        """Lengths (n,) after the policy was asked at each position; what it was shown."""
        governor = self._governor
        if not self._asks:
            return length, []
        signs: list[Floats] = []
        while (length > len(signs)).any():
            signs.append(self._corpus.ahead(self._at, len(signs) + 1))
            going_on = np.flatnonzero(length > len(signs))
            if len(going_on) == 0:
                break
            shown = signs[-1][: 1 + governor.wants_entropy, going_on]
            ends = governor.stop(step_id, going_on, len(signs), *shown)
            if ends.any():
                length = length.copy()
                length[going_on[ends]] = len(signs)
        return length, signs
