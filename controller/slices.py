"""Slices of a trace that policies are replayed on, here or in other processes."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from flyball.controller.corpus import Corpus, of_draft
from flyball.controller.cost_table import CostTable
from flyball.controller.errors import TraceError
from flyball.controller.match_text import MatchText
from flyball.controller.match_trace import read_matches
from flyball.controller.policy_file import PolicyFile
from flyball.controller.replay import HOSTS, replay
from flyball.controller.tune import Evaluate, Result

_QUANTILE = 0.99


@dataclass(frozen=True)
class Setting:
    """What is replayed, and how.

    Attributes:
        trace: folder of a match trace.
        draft: name of the draft; None where the trace has one.
        costs: content of a cost table.
        host: how batches are decoded, one of `HOSTS`.
        concurrency: requests at a time.
        num_slices: that policies are judged by.
        num_held_out: that only the end is judged by; they come after the others.
        seed: of the split, and of draws on sampled traces.
    """

    trace: str
    draft: str | None
    costs: str
    host: str = "transformers"
    concurrency: int = 1
    num_slices: int = 8
    num_held_out: int = 4
    seed: int = 0

    @property
    def digest(self) -> str:
        """The same for the same files and the same way to replay them."""
        files = sorted((p.name, p.stat().st_size) for p in Path(self.trace).glob("*.parquet"))
        said = json.dumps([files, {**asdict(self), "trace": ""}])
        return hashlib.blake2s(said.encode(), digest_size=8).hexdigest()


class Slices:
    """The slices, loaded.

    Raises:
        TraceError: the trace cannot be read, or has too few texts.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._costs = CostTable.model_validate_json(setting.costs)
        texts = of_draft(read_matches(setting.trace), setting.draft)
        count = setting.num_slices + setting.num_held_out
        if len(texts) < count:
            raise TraceError(
                f"{setting.trace}: expected at least {count} texts, one a slice, but got "
                f"{len(texts)}; record more, or take fewer slices"
            )
        self._corpora = [
            Corpus(part, np.random.default_rng([setting.seed, number]))
            for number, part in enumerate(split(texts, count, setting.seed))
        ]

    @property
    def held_out(self) -> Corpus:
        """All texts that only the end is judged by."""
        parts = self._corpora[self._setting.num_slices :]
        texts = [text for corpus in parts for text in corpus.texts]
        return Corpus(texts, np.random.default_rng(self._setting.seed))

    def result(self, policy: str, number: int) -> Result:
        """What a policy file, given as JSON, does on a slice."""
        file = PolicyFile.model_validate_json(policy)
        setting = self._setting
        corpus = self._corpora[number]
        found = replay(corpus, file, self._costs, HOSTS[setting.host], setting.concurrency)
        tokens = int(found.kept.sum()) + len(corpus.texts)
        latency_s = found.step_s[found.step] / found.kept
        order = latency_s.argsort()
        below = found.kept[order].cumsum() / found.kept.sum()
        last = order[min(int(below.searchsorted(_QUANTILE)), len(order) - 1)]
        joules = None if found.step_j is None else float(found.step_j.sum()) / tokens
        return Result(tokens / float(found.step_s.sum()), float(latency_s[last]), joules)


def split(texts: Sequence[MatchText], count: int, seed: int) -> list[list[MatchText]]:
    """Texts dealt out to so many slices, each domain evenly."""
    order = np.random.default_rng(seed).permutation(len(texts)).tolist()
    order.sort(key=lambda number: texts[number].domain)
    return [[texts[number] for number in order[start::count]] for start in range(count)]


_slices: Slices | None = None


def load(setting: Setting) -> None:
    """Load the slices of this process."""
    global _slices
    _slices = Slices(setting)


def result(task: tuple[str, int]) -> Result:
    """What a policy file does on a slice of this process's."""
    assert _slices is not None
    return _slices.result(*task)


@contextmanager
def processes(setting: Setting, count: int) -> Iterator[Evaluate]:
    """Replays in so many processes of this machine, as long as the block lasts."""
    pool = ProcessPoolExecutor(
        count,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=load,
        initargs=(setting,),
    )
    try:
        yield lambda tasks: list(pool.map(result, tasks))
    finally:
        pool.shutdown(cancel_futures=True)
