"""One call of `generate`: draft, verify in one target forward, settle, learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from flyball.controller.governor import Cost, Governor, Outcomes, Plan
from flyball.integrations.hf.cached_model import CachedModel
from flyball.integrations.hf.device import HostCopy, RoundClock
from flyball.integrations.hf.draft import READ_EVERY, ModelDraft, Proposal
from flyball.integrations.hf.processors import Processors
from flyball.integrations.hf.scores import TokenScores
from flyball.integrations.hf.text import Texts
from flyball.kernels.verify import verify_greedy, verify_sampled

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class RoundStats:
    """What one round did.

    Attributes:
        draft_len: (live rows,) tokens proposed.
        num_accepted: (live rows,) of them accepted.
        num_tokens: tokens added to all texts together.
        step_s: seconds of the round.
        draft_s: of them in the draft.
        verify_s: of them in the target.
    """

    draft_len: Longs
    num_accepted: Longs
    num_tokens: int
    step_s: float
    draft_s: float
    verify_s: float


@dataclass(frozen=True)
class _Verdict:
    """What the target said.

    Attributes:
        num_accepted: (rows,) drafted tokens accepted.
        following: (rows,) the token after the last accepted one, on the device.
        emitted: (rows, width) accepted tokens and the one that follows.
        scores: (rows, width, vocab) processed scores.
        probs: (rows, width) the target's probability of each emitted token; None under greedy.
    """

    num_accepted: Longs
    following: torch.Tensor
    emitted: Longs
    scores: torch.Tensor
    probs: torch.Tensor | None


class Decoding:
    """The decoding loop over rows that advance unevenly.

    Args:
        target: the model whose output it is.
        draft: proposes tokens.
        governor: decides how many.
        texts: of the call.
        processors: of the call.
        config: prepared generation config.
        on_round: called after every round.
    """

    def __init__(
        self,
        target: CachedModel,
        draft: ModelDraft,
        governor: Governor,
        texts: Texts,
        processors: Processors,
        config: GenerationConfig,
        on_round: Callable[[RoundStats], None] | None,
    ) -> None:
        self._target = target
        self._draft = draft
        self._governor = governor
        self._texts = texts
        self._processors = processors
        self._do_sample = bool(config.do_sample)
        self._on_round = on_round
        wanted = config.return_dict_in_generate
        self.scores = TokenScores() if wanted and config.output_scores else None
        self.logits = TokenScores() if wanted and config.output_logits else None
        self._slots = governor.admit(len(texts.num_tokens))
        self._nothing = torch.zeros(
            len(texts.num_tokens), 0, dtype=torch.long, device=texts.tokens.device
        )

    def run(self) -> None:
        """Decode until every text has ended."""
        try:
            self._prefill()
            clock = RoundClock(self._texts.tokens.device)
            while not self._texts.finished.all():
                self._round(clock)
        finally:
            self._governor.release(self._slots)

    def _prefill(self) -> None:
        """Read the prompts and settle the first token."""
        texts = self._texts
        prompt = texts.tokens[:, : texts.prompt_len]
        valid = np.arange(texts.prompt_len) >= texts.num_padding[:, None]
        rows = len(texts.num_tokens)
        logits = self._target.forward(prompt, valid, np.zeros(rows, np.int64), 1)
        nothing = Proposal(self._nothing, np.zeros(rows, np.int64), None, None)
        self._settle(self._judge(logits, nothing), logits)

    def _round(self, clock: RoundClock) -> None:
        texts = self._texts
        live = np.flatnonzero(~texts.finished)
        slots = self._slots[live]
        plan = self._governor.plan(slots, len(texts.num_tokens))
        wanted = np.zeros(len(texts.num_tokens), np.int64)
        wanted[live] = plan.draft_len
        wanted = np.minimum(wanted, np.maximum(texts.remaining - 1, 0))

        unread = self._draft.num_unread
        clock.mark()
        proposal = self._propose(plan, slots, wanted)
        clock.mark()
        logits = self._verify(proposal)
        verdict = self._judge(logits, proposal)
        clock.mark()
        kept = self._settle(verdict, logits)
        columns = np.arange(logits.shape[1])
        self._target.keep(columns <= np.where(kept > 0, verdict.num_accepted, -1)[:, None])
        self._draft.settle(verdict.num_accepted)
        step_s, (draft_s, verify_s) = clock.end_round()

        stats = RoundStats(
            draft_len=proposal.draft_len[live],
            num_accepted=np.minimum(verdict.num_accepted, kept)[live],
            num_tokens=int(kept.sum()),
            step_s=step_s,
            draft_s=draft_s,
            verify_s=verify_s,
        )
        # Reading a prompt is no measure of a draft step.
        cost = None if unread > READ_EVERY else self._cost(plan, proposal, stats)
        self._governor.observe(_outcomes(plan, slots, live, proposal, stats, kept[live]), cost)
        if self._on_round is not None:
            self._on_round(stats)
        self._governor.release(self._slots[live[texts.finished[live]]])

    def _propose(self, plan: Plan, slots: NDArray[np.int32], wanted: Longs) -> Proposal:
        if wanted.any():
            return self._draft.propose(plan, slots, wanted)
        if self._governor.wants_reading and self._draft.num_unread >= READ_EVERY:
            self._draft.read(slots)
        return Proposal(self._nothing, wanted, None, None)

    def _verify(self, proposal: Proposal) -> torch.Tensor:
        """Logits (rows, K + 1, vocab) after the last settled token and each drafted one."""
        texts = self._texts
        width = proposal.tokens.shape[1] + 1
        columns = np.arange(width)
        # A finished row reads its last columns again, into a hole.
        index = np.minimum(texts.num_tokens[:, None] - 1 + columns, texts.tokens.shape[1] - 1)
        tokens = texts.tokens.gather(1, torch.from_numpy(index).to(texts.tokens.device))
        valid = (columns <= proposal.draft_len[:, None]) & ~texts.finished[:, None]
        first_position = texts.num_tokens - 1 - texts.num_padding
        return self._target.forward(tokens, valid, first_position, width)

    def _judge(self, logits: torch.Tensor, proposal: Proposal) -> _Verdict:
        """Compare the draft with the target and put the emitted tokens together."""
        texts, tokens = self._texts, proposal.tokens
        scores = self._processors(texts.tokens, texts.num_tokens, logits)
        draft_len = torch.from_numpy(proposal.draft_len).to(tokens.device)
        if self._do_sample:
            p = scores.softmax(dim=-1)
            q = p[:, :0] if proposal.probs is None else proposal.probs
            uniforms = torch.rand(tokens.shape, device=tokens.device)
            accepted, following = verify_sampled(p, q, tokens, draft_len, uniforms)
        else:
            accepted, following = verify_greedy(scores.argmax(dim=-1), tokens, draft_len)
        emitted = torch.cat([tokens, following[:, None]], dim=1)
        emitted.scatter_(1, accepted[:, None], following[:, None])
        probs = p.gather(2, emitted[..., None]).squeeze(2) if self._do_sample else None
        host = HostCopy(torch.cat([accepted[:, None], emitted], dim=1)).get()
        return _Verdict(host[:, 0], following, host[:, 1:], scores, probs)

    def _settle(self, verdict: _Verdict, logits: torch.Tensor) -> Longs:
        """Append what was emitted; returns how many tokens each row kept (rows,)."""
        texts = self._texts
        count = np.where(texts.finished, 0, verdict.num_accepted + 1)
        before = texts.num_tokens
        kept = texts.append(verdict.following, verdict.emitted, count)
        if verdict.probs is not None:
            self._draft.note_probs(verdict.probs, before, kept)
        first = before - texts.prompt_len
        if self.scores is not None:
            self.scores.add(verdict.scores, first, kept)
        if self.logits is not None:
            self.logits.add(logits.float(), first, kept)
        return kept

    def _cost(self, plan: Plan, proposal: Proposal, stats: RoundStats) -> Cost:
        return Cost(
            step_id=plan.step_id,
            step_s=stats.step_s,
            batch_size=len(self._slots),
            verify_len=proposal.tokens.shape[1] + 1,
            num_draft_steps=proposal.tokens.shape[1],
            draft_s=stats.draft_s,
            verify_s=stats.verify_s,
        )


def _outcomes(
    plan: Plan,
    slots: NDArray[np.int32],
    live: Longs,
    proposal: Proposal,
    stats: RoundStats,
    kept: Longs,
) -> Outcomes:
    """What the round showed of the live rows."""
    proposed, accepted = stats.draft_len, stats.num_accepted
    # Positions after the first rejection, or after the text's end, were not observed.
    observed = np.minimum(np.minimum(accepted + 1, proposed), kept)
    return Outcomes(
        step_id=plan.step_id,
        slots=slots,
        proposed=proposed.astype(np.int32),
        accepted=accepted.astype(np.int32),
        observed=observed.astype(np.int32),
        confidence=None if proposal.confidence is None else proposal.confidence[live],
    )
