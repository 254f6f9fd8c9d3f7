"""The decoding loop: draft, verify in one target forward, settle, learn; rows come and go."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from flyball.controller.governor import Cost, Governor, Outcomes, Plan
from flyball.integrations.hf.cached_model import CachedModel
from flyball.integrations.hf.device import HostCopy, RoundClock, upload
from flyball.integrations.hf.drafts import Drafts
from flyball.integrations.hf.evidence import EvidenceInbox
from flyball.integrations.hf.processors import RowProcessors
from flyball.integrations.hf.prompts import Prompts
from flyball.integrations.hf.proposal import Proposal
from flyball.integrations.hf.scores import TokenScores
from flyball.integrations.hf.stats import GenerateStats, RoundStats
from flyball.integrations.hf.text import Texts
from flyball.kernels.verify import Verification, verify_block, verify_greedy, verify_sampled

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]


@dataclass(frozen=True)
class _Verdict:
    """What the target said.

    Attributes:
        num_accepted: (rows,) drafted tokens accepted.
        emitted: (rows, width) accepted tokens and the one that follows.
        scores: (rows, width, vocab) processed scores.
        probs: (rows, width) the target's probability of each emitted token; None under greedy.
    """

    num_accepted: Longs
    emitted: Longs
    scores: torch.Tensor
    probs: NDArray[np.float32] | None


class Decoding:
    """One call: a queue of prompts and a batch whose rows advance unevenly, leave and refill.

    Args:
        target: the model whose output it is.
        texts: of the batch, empty.
        processors: of the batch, empty.
        drafts: propose tokens.
        governor: decides how many, and by which draft.
        queue: makes the prompts to come, each group at most as large as the batch.
        config: prepared generation config.
        verification: how sampled drafts are verified.
        stats: sums to add to.
        on_round: called after every round.
        on_token: called with every token of the batch's first row.
    """

    def __init__(
        self,
        target: CachedModel,
        texts: Texts,
        processors: RowProcessors,
        drafts: Drafts,
        governor: Governor,
        queue: deque[Callable[[], Prompts]],
        config: GenerationConfig,
        verification: Verification,
        stats: GenerateStats,
        on_round: Callable[[RoundStats], None] | None = None,
        on_token: Callable[[int], None] | None = None,
    ) -> None:
        self._target = target
        self._texts = texts
        self._processors = processors
        self._drafts = drafts
        self._governor = governor
        self._queue = queue
        self._do_sample = bool(config.do_sample)
        self._verification = verification
        self._stats = stats
        self._on_round = on_round
        self._on_token = on_token
        self._slots: Ints = np.zeros(0, np.int32)
        self._num_requests = 0
        self._results: dict[int, Longs] = {}
        self._evidence = EvidenceInbox(governor, self._do_sample)
        wanted = config.return_dict_in_generate
        rows = texts.max_rows
        self.scores = TokenScores(rows) if wanted and config.output_scores else None
        self.logits = TokenScores(rows) if wanted and config.output_logits else None

    def run(self) -> list[Longs]:
        """Decode until every text has ended; returns the texts in the order they were queued."""
        start = time.perf_counter()
        clock = RoundClock(self._texts.device)
        try:
            while self._queue or self._texts.num_rows:
                if self._admit():
                    clock = RoundClock(self._texts.device)
                if not self._texts.finished.any():
                    self._round(clock)
                if self._texts.finished.any():
                    self._leave()
        finally:
            self._governor.release(self._slots)
            self._stats.total_s += time.perf_counter() - start
        return [self._results[request] for request in range(self._num_requests)]

    def _admit(self) -> bool:
        """Fill free rows from the queue and settle the first token of each new text."""
        texts, first, before = self._texts, self._texts.num_rows, len(self._slots)
        while self._queue and texts.num_rows < texts.max_rows:
            prompts = self._queue.popleft()()
            count = len(prompts.tokens)
            request = self._num_requests + np.arange(count)
            self._num_requests += count
            rows = texts.add(request, prompts.tokens, prompts.num_padding, prompts.ending)
            self._processors.add(prompts.processors, count)
            self._drafts.add(rows, prompts.images)
            self._slots = np.concatenate([self._slots, self._governor.admit(count)])
            if prompts.images is not None:
                self._prefill(rows, prompts.images.inputs)
                first = texts.num_rows
        if texts.num_rows > first:
            self._prefill(np.arange(first, texts.num_rows))
        return len(self._slots) > before

    def _prefill(self, rows: Longs, images: Mapping[str, Any] | None = None) -> None:
        """Read the prompts of rows (r,), with their images, and settle their first tokens."""
        texts = self._texts
        lengths = texts.num_own[rows]
        columns = texts.num_padding[rows, None] + np.arange(int(lengths.max()))
        tokens = texts.host[rows[:, None], np.minimum(columns, texts.host.shape[1] - 1)]
        before = self._target.forward_s
        ids = upload(tokens, texts.device)
        logits = self._target.read_prompts(ids, lengths, rows, images)[:, None]
        self._stats.prompt_s += self._target.forward_s - before
        nothing = Proposal.nothing(len(rows), texts.device)
        verdict = self._judge(rows, logits, nothing)
        count = np.zeros(texts.num_rows, np.int64)
        count[rows] = 1
        self._settle(rows, verdict, logits, count)

    def _leave(self) -> None:
        """Take finished rows out of the batch."""
        texts = self._texts
        self._evidence.empty()
        for row in np.flatnonzero(texts.finished).tolist():
            self._results[int(texts.request[row])] = texts.text(row)
        self._governor.release(self._slots[texts.finished])
        moves = texts.leave()
        self._target.move_rows(moves.sources, moves.targets)
        self._slots = self._slots[moves.order]
        self._processors.keep(moves.order)
        self._drafts.keep(moves)

    def _round(self, clock: RoundClock) -> None:
        texts, slots = self._texts, self._slots
        rows = np.arange(len(slots))
        offers = self._drafts.offers()
        plan = self._governor.plan(
            slots,
            len(slots),
            offers=offers,
            context_len=texts.num_own.astype(np.int32),
            num_waiting=len(self._queue),
            sampled=self._do_sample,
        )
        room = np.minimum(texts.remaining - 1, self._target.context - texts.num_own)
        wanted = np.minimum(plan.draft_len.astype(np.int64), np.maximum(room, 0))
        clock.mark()
        before = self._drafts.forward_s
        proposal, drafting, num_steps = self._drafts.propose(plan, slots, wanted, offers)
        has_read = self._drafts.has_read
        clock.mark()
        self._stats.draft_s += self._drafts.forward_s - before
        before = self._target.forward_s
        logits = self._verify(proposal)
        self._evidence.empty()
        self._stats.verify_s += self._target.forward_s - before
        verdict = self._judge(rows, logits, proposal)
        clock.mark()
        kept = self._settle(rows, verdict, logits, verdict.num_accepted + 1)
        self._drafts.settle(slots, offers, verdict.num_accepted, verdict.emitted, kept)
        step_s, (draft_s, verify_s) = clock.end_round()

        accepted = np.minimum(verdict.num_accepted, kept)
        # Positions after the first rejection, or after the text's end, were not observed.
        observed = np.minimum(np.minimum(accepted + 1, proposal.draft_len), kept)
        outcomes = _outcomes(plan, slots, proposal, accepted, observed)
        cost = None
        if not has_read:  # reading a prompt is no measure of a draft step
            cost = Cost(
                step_id=plan.step_id,
                step_s=step_s,
                batch_size=len(slots),
                verify_len=logits.shape[1],
                num_draft_steps=num_steps,
                draft=drafting,
                draft_s=draft_s,
                verify_s=verify_s,
            )
        self._governor.observe(outcomes, cost)
        self._evidence.put(plan.step_id, slots, proposal, observed, verdict.scores)
        self._stats.num_rounds += 1
        self._stats.num_drafted += int(proposal.draft_len.sum())
        self._stats.num_accepted += int(accepted.sum())
        if self._on_round is not None:
            self._on_round(
                RoundStats(
                    draft_len=proposal.draft_len,
                    num_accepted=accepted,
                    draft=plan.draft,
                    num_tokens=int(kept.sum()),
                    step_s=step_s,
                    draft_s=draft_s,
                    verify_s=verify_s,
                )
            )

    def _verify(self, proposal: Proposal) -> torch.Tensor:
        """Logits (rows, K + 1, vocab) after the last settled token and each drafted one."""
        texts = self._texts
        last = texts.host[np.arange(texts.num_rows), texts.num_tokens - 1]
        block = upload(last[:, None], texts.device)
        if proposal.tokens.shape[1]:
            block = torch.cat([block, proposal.tokens], dim=1)
        return self._target.forward(block, texts.num_own - 1)

    def _judge(self, rows: Longs, logits: torch.Tensor, proposal: Proposal) -> _Verdict:
        """Compare drafts (r, K) with the target's logits (r, K + 1, vocab)."""
        tokens = proposal.tokens
        present = None
        if not self._processors.plain:
            present = np.arange(logits.shape[1]) <= proposal.draft_len[:, None]
        scores = self._processors(self._texts, rows, 0, logits, present)
        if not self._do_sample:
            best, drafted = HostCopy(scores.argmax(dim=-1)), HostCopy(tokens)
            emitted, accepted = best.get(), proposal.draft_len
            if tokens.shape[1]:
                accepted = verify_greedy(emitted, drafted.get(), accepted)
            return _Verdict(accepted, emitted, scores, None)
        p = scores.softmax(dim=-1)
        verify = verify_block if self._verification == "block" else verify_sampled
        accepted_, following = verify(
            p,
            _distributions(proposal, p),
            tokens,
            upload(proposal.draft_len, tokens.device),
            torch.rand(tokens.shape, device=tokens.device),
        )
        emitted_ = torch.cat([tokens, following[:, None]], dim=1)
        emitted_.scatter_(1, accepted_[:, None], following[:, None])
        probs = p.gather(2, emitted_[..., None]).squeeze(2)
        host_probs = HostCopy(probs)
        host = HostCopy(torch.cat([accepted_[:, None], emitted_], dim=1)).get()
        return _Verdict(host[:, 0], host[:, 1:], scores, host_probs.get())

    def _settle(self, rows: Longs, verdict: _Verdict, logits: torch.Tensor, count: Longs) -> Longs:
        """Append what was emitted in rows (r,); returns how many tokens each row kept (rows,)."""
        texts = self._texts
        emitted, probs = verdict.emitted, verdict.probs
        if len(rows) < texts.num_rows:
            emitted = np.zeros((texts.num_rows, emitted.shape[1]), np.int64)
            emitted[rows] = verdict.emitted
            if probs is not None:
                probs = np.ones(emitted.shape, np.float32)
                probs[rows] = verdict.probs
        before = texts.num_tokens
        kept = texts.append(emitted, count, probs)
        first = before - texts.prompt_len
        if self.scores is not None:
            self.scores.add(verdict.scores, texts.request[rows], first[rows], kept[rows])
        if self.logits is not None:
            self.logits.add(logits.float(), texts.request[rows], first[rows], kept[rows])
        if self._on_token is not None:
            for token in emitted[0, : kept[0]].tolist():
                self._on_token(token)
        self._stats.num_tokens += int(kept.sum())
        return kept


def _distributions(proposal: Proposal, p: torch.Tensor) -> torch.Tensor:
    """Q (rows, K, vocab) that each drafted token was drawn from; p (rows, K + 1, vocab)."""
    tokens = proposal.tokens
    if proposal.probs is None or proposal.drawn is None:
        return torch.zeros_like(p[:, :-1]).scatter_(2, tokens[..., None], 1.0)
    missing = tokens.shape[1] - proposal.probs.shape[1]
    if missing == 0 and proposal.drawn.all():
        return proposal.probs
    certain = torch.zeros_like(p[:, :-1]).scatter_(2, tokens[..., None], 1.0)
    drawn = upload(proposal.drawn, tokens.device)[:, None, None]
    probs = torch.nn.functional.pad(proposal.probs, (0, 0, 0, missing))
    return torch.where(drawn, probs, certain)


def _outcomes(
    plan: Plan, slots: Ints, proposal: Proposal, accepted: Longs, observed: Longs
) -> Outcomes:
    """What the round showed."""
    return Outcomes(
        step_id=plan.step_id,
        slots=slots,
        proposed=proposal.draft_len.astype(np.int32),
        accepted=accepted.astype(np.int32),
        observed=observed.astype(np.int32),
        confidence=proposal.confidence,
        draft=plan.draft,
        entropy=proposal.entropy,
    )
