"""Measuring a cost table: real rounds of constant lengths, asked about or not, by batch size."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import torch
from transformers import PreTrainedModel

from flyball.controller.cost_table import CostTable
from flyball.controller.errors import HostError
from flyball.controller.policy_file import load_policy, static_policy
from flyball.integrations.hf.govern import GovernedGenerate, govern
from flyball.integrations.hf.stats import RoundStats

_MOST = 3.0  # times the median; what a round takes beyond that is an interruption
_SKIPPED = 2  # first rounds of a run, which read prompts


@dataclass(frozen=True)
class Grid:
    """What is measured.

    Attributes:
        batch_sizes: ascending.
        draft_lens: ascending, from 0; one of them above 0.
        num_tokens: of each text. What a step costs grows with them.
        num_passes: over all batch sizes and lengths, so that a change of the machine hits all.
    """

    batch_sizes: tuple[int, ...] = (1, 4, 16)
    draft_lens: tuple[int, ...] = (0, 1, 2, 4, 8, 16)
    num_tokens: int = 128
    num_passes: int = 3

    @property
    def num_runs(self) -> int:
        """Runs of the whole measurement."""
        return self.num_passes * len(self.cells)

    @property
    def cells(self) -> list[tuple[int, int, bool]]:
        """Batch size, draft length, and whether the policy is asked in mid-draft."""
        lengths = [(k, asks) for k in self.draft_lens for asks in (False, True)[: 1 + (k > 0)]]
        return [(n, *length) for n in self.batch_sizes for length in lengths]


@dataclass
class _Seconds:
    """What was measured, by batch size and draft length, or by batch size."""

    verify: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    draft: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    asked: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    host: dict[int, list[float]] = field(default_factory=dict)
    prompt_token: list[float] = field(default_factory=list)


class CostMeasurement:
    """Decodes prompts with constant lengths and takes means of what the rounds took.

    Means, because throughput is made of them. What a round takes beyond three times the median is
    an interruption of the machine: these meet rounds of all kinds alike and are shared out among
    all, or a single one would make its own kind look dear.

    Args:
        target: to be measured.
        draft: likewise.
        prompts: token ids to continue, at least one; the longer they are, the longer the context
            that the table is for.
        grid: what to measure.
        names: of target and draft.
    """

    def __init__(
        self,
        target: PreTrainedModel,
        draft: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        grid: Grid,
        names: tuple[str, str],
    ) -> None:
        self._target, self._draft, self._prompts = target, draft, prompts
        self._grid, self._names = grid, names
        self._found = _Seconds()
        self._num_begun = 0  # texts; the next ones get the next prompts

    def runs(self) -> Iterator[None]:
        """Measure; yields after every run."""
        rng = np.random.default_rng(0)
        cells = self._grid.cells
        rounds: list[RoundStats] = []
        govs = {
            (draft_len, asks): self._govern(draft_len, asks, rounds)
            for _, draft_len, asks in cells[: len(cells) // len(self._grid.batch_sizes)]
        }
        self._run(govs[self._grid.draft_lens[-1], False], 1)  # allocations and caches, uncounted
        for _ in range(self._grid.num_passes):
            for place in rng.permutation(len(cells)).tolist():
                batch_size, draft_len, asks = cells[place]
                rounds.clear()
                self._run(govs[draft_len, asks], batch_size)
                self._note(batch_size, draft_len, rounds[_SKIPPED:], asks)
                yield
        for gov in govs.values():
            gov.close()

    def _govern(self, draft_len: int, asks: bool, rounds: list[RoundStats]) -> GovernedGenerate:
        policy = static_policy(draft_len)
        if asks:  # a rule that never ends a draft
            never = {"policy": "threshold", "max_draft_len": draft_len, "min_confidence": 0.0}
            follow = {"follow": "length"}
            policy = load_policy({"version": 1, "length": never, "governor": follow})
        return govern(self._target, [self._draft], policy=policy, on_round=rounds.append)

    def _run(self, gov: GovernedGenerate, batch_size: int) -> None:
        before = gov.stats.prompt_s
        rows = (self._num_begun + np.arange(batch_size)) % len(self._prompts)
        prompts = [self._prompts[row] for row in rows.tolist()]
        self._num_begun += batch_size
        num_tokens = self._grid.num_tokens
        gov.generate_many(
            prompts, batch_size=batch_size, max_new_tokens=num_tokens, do_sample=False
        )
        seconds = gov.stats.prompt_s - before
        self._found.prompt_token.append(seconds / sum(map(len, prompts)))

    def _note(
        self, batch_size: int, draft_len: int, rounds: Sequence[RoundStats], asks: bool = False
    ) -> None:
        found = self._found
        whole = [
            stats
            for stats in rounds
            if len(stats.draft_len) == batch_size and stats.draft_len.max() == draft_len
        ]
        if asks:
            found.asked.setdefault((batch_size, draft_len), []).extend(s.draft_s for s in whole)
            return
        found.verify.setdefault((batch_size, draft_len), []).extend(s.verify_s for s in whole)
        found.host.setdefault(batch_size, []).extend(
            stats.step_s - stats.draft_s - stats.verify_s for stats in whole
        )
        found.draft.setdefault((batch_size, draft_len), []).extend(s.draft_s for s in whole)

    def table(self) -> CostTable:
        """The means of all runs so far.

        Raises:
            HostError: prompts ended so early that some length had no whole round.
        """
        grid, found = self._grid, self._found
        seconds_of = [*found.verify.items(), *found.asked.items()]
        empty = [cell for cell, seconds in seconds_of if not seconds]
        if empty:
            raise HostError(
                f"expected whole rounds of {empty[0][1]} tokens for {empty[0][0]} requests, but "
                "texts ended before; give --prompts that the target goes on with for longer"
            )
        num_threads = torch.get_num_threads()
        interrupted = self._interrupted()
        drafting = [self._drafting(batch_size) for batch_size in grid.batch_sizes]
        return CostTable(
            version=1,
            target=self._names[0],
            draft=self._names[1],
            machine=f"{platform.machine()}, {self._target.device.type}, {num_threads} threads",
            source=f"flyball advise --measure, {datetime.now(UTC):%Y-%m-%d}",
            batch_sizes=list(grid.batch_sizes),
            verify_lens=[k + 1 for k in grid.draft_lens],
            verify_s=[
                [interrupted * _mean(found.verify[n, k]) for k in grid.draft_lens]
                for n in grid.batch_sizes
            ],
            draft_step_s=[interrupted * step_s for _, step_s in drafting],
            draft_start_s=[interrupted * start_s for start_s, _ in drafting],
            ask_s=[interrupted * self._asking(n) for n in grid.batch_sizes],
            host_s=[interrupted * max(0.0, _mean(found.host[n])) for n in grid.batch_sizes],
            prompt_token_s=_mean(found.prompt_token),
        )

    def _interrupted(self) -> float:
        """Seconds of all rounds, over what they are without interruptions."""
        found = self._found
        lists = [*found.verify.values(), *found.draft.values(), *found.host.values()]
        return sum(map(sum, lists)) / sum(len(seconds) * _mean(seconds) for seconds in lists)

    def _asking(self, batch_size: int) -> float:
        """Seconds for which a draft step takes longer where the policy is asked."""
        found, lengths = self._found, [length for length in self._grid.draft_lens if length > 0]
        longer = [
            (_mean(found.asked[batch_size, k]) - _mean(found.draft[batch_size, k])) / k
            for k in lengths
        ]
        return max(0.0, float(np.mean(longer)))

    def _drafting(self, batch_size: int) -> tuple[float, float]:
        """Seconds of drafting at all, and of a further token: the line through the lengths."""
        lengths = [length for length in self._grid.draft_lens if length > 0]
        seconds = [_mean(self._found.draft[batch_size, length]) for length in lengths]
        if len(lengths) == 1:
            return 0.0, seconds[0] / lengths[0]
        # Relative errors count: short drafts are what is drafted most.
        step_s, start_s = np.polyfit(lengths, seconds, 1, w=1.0 / np.array(seconds))
        if start_s < 0.0 or step_s <= 0.0:
            return 0.0, float(np.mean([s / n for s, n in zip(seconds, lengths, strict=True)]))
        return float(start_s), float(step_s)


def _mean(seconds: Sequence[float]) -> float:
    return float(np.minimum(seconds, _MOST * np.median(seconds)).mean())
