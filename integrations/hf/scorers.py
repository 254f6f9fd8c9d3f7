"""Scores of partial texts, by which a search stops candidates early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Partial:
    """Candidates to score, as rows.

    Attributes:
        candidate: (n,) ids, each once; the same id later means the same text, grown.
        parent: (n,) id of the candidate whose text this one began as a copy of; -1 for none.
        tokens: n arrays (length,) of prompt and generated tokens.
        prompt_len: (n,) tokens of each prompt, at least 1.
        finished: (n,) whether the text has ended.
        log_prob: n arrays of the target's log-probability of each generated token after logits
            processors; NaN where unknown, empty where none is known.
        entropy: n arrays of the target's entropy in nats at each generated token, likewise.
    """

    candidate: Longs
    parent: Longs
    tokens: Sequence[Longs]
    prompt_len: Longs
    finished: Bools
    log_prob: Sequence[Floats]
    entropy: Sequence[Floats]

    def generated(self, row: int) -> Longs:
        """Tokens (length,) of a row behind its prompt."""
        return self.tokens[row][self.prompt_len[row] :]


class Scorer(Protocol):
    """Scores candidates at checkpoints and at their ends; a plain function is one, too.

    A scorer that keeps something for each candidate may also have `forget(candidates)`, which is
    called with the ids (m,) of those that are gone. One with `wants_entropy = True` is told
    entropies, which cost the search a pass over all scores. And one that tells the scores of a
    text's beginnings from one look may have `beginnings(partial, lengths)`: of texts that have
    ended the scores of their first tokens, as many as each of `lengths` (n arrays, prompts
    included, ascending) says, one text after the other. It is asked about groups in which nobody
    was to be stopped, once they have ended, instead of at every checkpoint.
    """

    def __call__(self, partial: Partial, /) -> Floats:
        """Scores (n,), higher is better; NaN where there is none."""
        ...


def forget(scorer: Scorer, candidates: Longs) -> None:
    """Tell a scorer, if it wants to know, that candidates (m,) are gone."""
    told: Callable[[Longs], Any] | None = getattr(scorer, "forget", None)
    if told is not None:
        told(candidates)


class MeanLogProb:
    """Mean log-probability of the generated tokens; free, since verification computes it."""

    def __call__(self, partial: Partial) -> Floats:
        """Means (n,) in nats over the tokens whose log-probability is known, NaN without any."""
        known = (log_prob[~np.isnan(log_prob)] for log_prob in partial.log_prob)
        return np.array([x.mean() if len(x) else np.nan for x in known])


class StepEntropy:
    """How sure the target was when it began the current step; free, likewise.

    A step whose first token is hard to choose is one that goes wrong more often (GlimpRouter,
    arXiv 2601.05110). Behind a step's end, where the next one has not begun, it is the step that
    ended last.

    Args:
        step_token_ids: each of these tokens ends a step.
    """

    wants_entropy = True

    def __init__(self, step_token_ids: Sequence[int]) -> None:
        self._step_token_ids = list(step_token_ids)

    def __call__(self, partial: Partial) -> Floats:
        """Minus the entropy (n,) in nats of each current step's first token; NaN if unknown."""
        scores = np.full(len(partial.candidate), np.nan)
        for row, entropy in enumerate(partial.entropy):
            tokens = partial.generated(row)
            # A last token that ends a step begins none, so it is left out.
            ends = np.flatnonzero(np.isin(tokens[:-1], self._step_token_ids))
            first = ends[-1] + 1 if len(ends) else 0
            if first < len(entropy):
                scores[row] = -entropy[first]
        return scores


class Verifier:
    """A caller's own check of the text, such as tests that code must pass.

    Args:
        function: gives a number for a candidate's generated tokens (length,), or for their text.
        tokenizer: decodes the tokens, special ones left out, for a function that takes text.
        unfinished: whether texts that go on are checked as well; they have no score otherwise.
    """

    def __init__(
        self, function: Callable[[Any], float], tokenizer: Any = None, unfinished: bool = False
    ) -> None:
        self._function = function
        self._tokenizer = tokenizer
        self._unfinished = unfinished

    def __call__(self, partial: Partial) -> Floats:
        """What the function says (n,); NaN where it is not asked, or raises for this text."""
        return np.array([self._score(partial, row) for row in range(len(partial.candidate))])

    def _score(self, partial: Partial, row: int) -> float:
        if not (self._unfinished or partial.finished[row]):
            return float("nan")
        tokens = partial.generated(row)
        text = tokens
        if self._tokenizer is not None:
            text = self._tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
        return float(self._function(text))
