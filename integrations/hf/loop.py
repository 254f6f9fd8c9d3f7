"""The decoding loop: draft, verify in one target forward, settle, learn; rows come and go."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from flyball.controller.governor import Cost, Governor, Outcomes, Plan
from flyball.controller.throttle import Throttle
from flyball.integrations.hf.cached_model import CachedModel
from flyball.integrations.hf.device import HostCopy, RoundClock, upload
from flyball.integrations.hf.drafts import Drafts
from flyball.integrations.hf.evidence import EvidenceInbox
from flyball.integrations.hf.processors import RowProcessors
from flyball.integrations.hf.proposal import Proposal
from flyball.integrations.hf.reads import Reads
from flyball.integrations.hf.saved import SavedRow
from flyball.integrations.hf.scores import TokenScores
from flyball.integrations.hf.stats import GenerateStats, RoundStats
from flyball.integrations.hf.text import Texts
from flyball.integrations.hf.verdict import Judge, Verdict
from flyball.integrations.hf.watch import Queue, Watch
from flyball.kernels.confidence import confidence

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]


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
        judge: compares drafts with the target.
        stats: sums to add to.
        on_round: called after every round.
        on_token: called with every token of the batch's first row.
        watch: sees the rows as they grow and may end them; None without.
        throttle: sets batch, draft length and hardware meanwhile; None without.
    """

    def __init__(
        self,
        target: CachedModel,
        texts: Texts,
        processors: RowProcessors,
        drafts: Drafts,
        governor: Governor,
        queue: Queue,
        config: GenerationConfig,
        judge: Judge,
        stats: GenerateStats,
        on_round: Callable[[RoundStats], None] | None = None,
        on_token: Callable[[int], None] | None = None,
        watch: Watch | None = None,
        throttle: Throttle | None = None,
    ) -> None:
        self._target = target
        self._texts = texts
        self._processors = processors
        self._drafts = drafts
        self._governor = governor
        self._queue = queue
        self._do_sample = bool(config.do_sample)
        self._judge = judge
        self._stats = stats
        self._on_round = on_round
        self._on_token = on_token
        self._watch = watch
        self._throttle = throttle
        self._slots: Ints = np.zeros(0, np.int32)
        self._num_requests = 0
        self._results: dict[int, Longs] = {}
        self._prompt_reads, self._verified = Reads(), Reads()
        self._evidence = EvidenceInbox(governor, self._do_sample, judge.draws)
        wanted = config.return_dict_in_generate
        rows = texts.max_rows
        self.scores = TokenScores(rows) if wanted and config.output_scores else None
        self.logits = TokenScores(rows) if wanted and config.output_logits else None

    def run(self) -> list[Longs]:
        """Decode until every text has ended; returns the texts in the order they were queued."""
        start = time.perf_counter()
        clock = RoundClock(self._texts.device)
        try:
            while self._texts.num_rows or self._queue:
                if self._admit():
                    clock = RoundClock(self._texts.device)
                else:
                    self._round(clock)
                if self._watch is not None:
                    self._texts.finished |= self._watch.look(self._texts, self._save)
                if self._texts.finished.any():
                    self._leave()
        finally:
            self._governor.release(self._slots)
            self._stats.total_s += time.perf_counter() - start
            self._count_reads()
        return [self._results[request] for request in range(self._num_requests)]

    @property
    def _most_rows(self) -> int:
        """That may decode at a time now."""
        limit = self._governor.limits.batch_size
        return self._texts.max_rows if limit is None else min(self._texts.max_rows, max(limit, 1))

    def _count_reads(self) -> None:
        stats, model = self._stats, self._target.model
        stats.num_prompt_tokens += self._prompt_reads.num_tokens
        stats.num_verified += self._verified.num_tokens
        stats.num_draft_reads += self._drafts.num_reads
        stats.target_flops += self._prompt_reads.flops(model) + self._verified.flops(model)
        stats.draft_flops += self._drafts.flops

    def _admit(self) -> bool:
        """Fill free rows from the queue and settle the first token of each text read anew."""
        texts, before = self._texts, len(self._slots)
        most, unread = self._most_rows, list[Longs]()
        while texts.num_rows < most and self._queue:
            prompts = self._queue.popleft()()
            count = len(prompts.tokens)
            request = self._num_requests + np.arange(count)
            self._num_requests += count
            rows = texts.add(
                request,
                prompts.tokens,
                prompts.num_padding,
                prompts.ending,
                prompts.seeds,
                prompts.num_before,
            )
            self._target.use_rows(texts.num_rows)
            self._processors.add(prompts.processors, count)
            self._drafts.add(rows, prompts.images)
            self._slots = np.concatenate([self._slots, self._governor.admit(count)])
            if prompts.images is not None:
                self._prefill(rows, prompts.images.inputs)
            elif prompts.saved is not None:
                self._target.begin_from(rows, prompts.saved.target)
                self._drafts.begin_from(rows, prompts.saved.drafts)
            else:
                unread.append(rows)
        if unread:
            self._prefill(np.concatenate(unread))
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
        self._prompt_reads.add(lengths, np.zeros_like(lengths))
        self._stats.prompt_s += self._target.forward_s - before
        nothing = Proposal.nothing(len(rows), texts.device)
        verdict = self._judge(rows, logits, nothing)
        count = np.zeros(texts.num_rows, np.int64)
        count[rows] = 1
        self._settle(rows, verdict, logits, count)

    def _save(self, row: int) -> SavedRow:
        """What was read of a row, but for its last token."""
        length = int(self._texts.num_own[row]) - 1
        return SavedRow(self._target.snapshot(row, length), self._drafts.save(row))

    def _leave(self) -> None:
        """Take finished rows out of the batch."""
        texts = self._texts
        self._evidence.empty()
        for row in np.flatnonzero(texts.finished).tolist():
            self._results[int(texts.request[row])] = texts.text(row)
        self._governor.release(self._slots[texts.finished])
        moves = texts.leave()
        self._target.move_rows(moves.sources, moves.targets)
        self._target.use_rows(texts.num_rows)
        self._target.keep_columns(int(texts.num_own.max(initial=0)))
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
            room=self._drafts.room(),
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
        self._verified.add(proposal.num_columns, texts.num_own - 1)
        self._stats.verify_s += self._target.forward_s - before
        verdict = self._judge(rows, logits, proposal)
        if verdict.path is not None:
            self._target.keep_path(texts.num_own - 1, verdict.num_accepted, verdict.path)
        clock.mark()
        kept = self._settle(rows, verdict, logits, verdict.num_accepted + 1)
        self._drafts.settle(slots, offers, verdict.num_chain, verdict.emitted, kept)
        step_s, (draft_s, verify_s) = clock.end_round()

        accepted = np.minimum(verdict.num_accepted, kept)
        chain = np.minimum(verdict.num_chain, kept)
        # Positions after the first rejection, or after the text's end, were not observed.
        observed = np.minimum(np.minimum(chain + 1, proposal.draft_len), kept)
        outcomes = _outcomes(plan, slots, proposal, chain, observed, accepted - chain)
        cost = None
        if not has_read:  # reading a prompt is no measure of a draft step
            cost = Cost(
                step_id=plan.step_id,
                step_s=step_s,
                batch_size=len(slots),
                verify_len=proposal.tokens.shape[1] + 1,
                num_draft_steps=num_steps,
                draft=drafting,
                draft_s=draft_s,
                verify_s=verify_s,
            )
        self._governor.observe(outcomes, cost)
        self._evidence.put(plan, slots, proposal, observed, verdict)
        if self._throttle is not None:
            self._throttle.observe(
                int(kept.sum()),
                step_s,
                len(slots),
                (slots, kept),
                num_seen=int(observed.sum()),
                num_accepted=int(chain.sum()),
                num_arrived=np.inf,  # prompts are there all along, and none waits for a user
                settled=len(slots) <= self._most_rows,
            )
        self._stats.num_rounds += 1
        self._stats.num_drafted += int(proposal.draft_len.sum())
        self._stats.num_accepted += int(accepted.sum())
        if self._on_round is not None:
            self._on_round(
                RoundStats(
                    slots=slots,
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
        """Logits (rows, columns, vocab) after the last settled token and each drafted one."""
        texts = self._texts
        last = texts.host[np.arange(texts.num_rows), texts.num_tokens - 1]
        if proposal.siblings is not None:
            tree = proposal.block
            tokens = tree.tokens(upload(last, texts.device), proposal.candidates)
            return self._target.forward_tree(tokens, texts.num_own - 1, tree.depth, tree.visible)
        block = upload(last[:, None], texts.device)
        if proposal.tokens.shape[1]:
            block = torch.cat([block, proposal.tokens], dim=1)
        return self._target.forward(block, texts.num_own - 1)

    def _settle(self, rows: Longs, verdict: Verdict, logits: torch.Tensor, count: Longs) -> Longs:
        """Append what was emitted in rows (r,); returns how many tokens each row kept (rows,)."""
        texts = self._texts
        emitted, probs, entropy = verdict.emitted, verdict.probs, None
        if self._watch is not None and self._watch.wants_entropy:
            sure = confidence(verdict.along_path(verdict.scores), margin=False, log_sum_exp=False)
            assert sure.entropy is not None
            entropy = HostCopy(sure.entropy).get()
        if len(rows) < texts.num_rows:
            emitted = np.zeros((texts.num_rows, emitted.shape[1]), np.int64)
            emitted[rows] = verdict.emitted
            if probs is not None:
                probs = np.ones(emitted.shape, np.float32)
                probs[rows] = verdict.probs
            if entropy is not None:
                own, entropy = entropy, np.full(emitted.shape, np.nan, np.float32)
                entropy[rows] = own
        before = texts.num_tokens
        kept = texts.append(emitted, count, probs, entropy)
        first = before - texts.prompt_len
        if self.scores is not None:
            scores = verdict.along_path(verdict.scores)
            self.scores.add(scores, texts.request[rows], first[rows], kept[rows])
        if self.logits is not None:
            raw = verdict.along_path(logits).float()
            self.logits.add(raw, texts.request[rows], first[rows], kept[rows])
        if self._on_token is not None:
            for token in emitted[0, : kept[0]].tolist():
                self._on_token(token)
        self._stats.num_tokens += int(kept.sum())
        return kept


def _outcomes(
    plan: Plan,
    slots: Ints,
    proposal: Proposal,
    accepted: Longs,
    observed: Longs,
    num_beside: Longs,
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
        num_beside=num_beside.astype(np.int32),
    )
