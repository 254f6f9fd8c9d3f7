"""Candidates of many problems, all decoded to the end, with the judge's score of every prefix.

Tokens of a candidate are a function of its seed alone, whoever else runs, so what any policy would
have stopped is known from candidates that ran to completion.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.demo.arithmetic import MIXES, Problem, draw_problems, is_right, read_answer
from flyball.demo.reasoner_loader import Reasoner
from flyball.integrations.hf import govern
from flyball.integrations.hf.flops import forward_flops

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAX_NEW_TOKENS = 160
SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_k": 0}
_BATCH_SIZE = 256
_AT_ONCE = 4096  # candidates of a call
_JUDGED = 256  # texts that the judge reads at a time


@dataclass(frozen=True)
class Pool:
    """P problems with N candidates of up to L tokens each.

    Attributes:
        length: (P, N) tokens of each candidate.
        score: (P, N, L) of each prefix, after token 1, 2, ...; NaN behind the end.
        final: (P, N) score of the whole text.
        right: (P, N) whether its answer is right.
        answer: (P, N) number of its answer among the problem's different ones; -1 for none.
        read: (P,) FLOPs of solver and judge for the prompt, which is read once.
        spent: (P, L + 1) of both for a candidate's first 0, 1, 2, ... tokens.
    """

    length: Ints
    score: Floats
    final: Floats
    right: Bools
    answer: Ints
    read: Floats
    spent: Floats

    def __len__(self) -> int:
        """Problems."""
        return len(self.read)

    def take(self, order: Ints, num_candidates: int) -> Pool:
        """Some of the problems, in this order, with their first candidates alone."""
        found = {}
        for field in fields(self):
            values = getattr(self, field.name)[order]
            own = field.name not in ("read", "spent")
            found[field.name] = values[:, :num_candidates] if own else values
        return Pool(**found)

    def followed_by(self, other: Pool) -> Pool:
        """These problems, then another pool's of as many candidates."""
        longest = max(self.score.shape[2], other.score.shape[2])
        found = {}
        for field in fields(self):
            pair = [getattr(pool, field.name) for pool in (self, other)]
            if field.name in ("score", "spent"):
                fill = np.nan if field.name == "score" else np.inf
                width = longest + (field.name == "spent")
                pair = [
                    np.pad(
                        values,
                        (*[(0, 0)] * (values.ndim - 1), (0, width - values.shape[-1])),
                        constant_values=fill,
                    )
                    for values in pair
                ]
            found[field.name] = np.concatenate(pair)
        return Pool(**found)

    def with_noise(self, rng: np.random.Generator) -> Pool:
        """The same texts, scored at random."""
        return replace(
            self, score=rng.normal(size=self.score.shape), final=rng.normal(size=self.final.shape)
        )

    @property
    def full_cost(self) -> Floats:
        """FLOPs (P,) of all candidates run to completion."""
        return self.read + np.take_along_axis(self.spent, self.length, axis=1).sum(axis=1)


def make_pool(
    models: Reasoner,
    mix: str,
    num_problems: int,
    num_candidates: int,
    seed: int,
) -> Pool:
    """Decode and judge.

    Args:
        models: solver and judge.
        mix: of problems.
        num_problems: P.
        num_candidates: N.
        seed: of problems and candidates.
    """
    problems = draw_problems(np.random.default_rng(seed), MIXES[mix], num_problems)
    prompts = [prompt_ids(models, problem) for problem in problems]
    queue = [p for prompt in prompts for p in [prompt] * num_candidates]
    seeds = candidate_seeds(seed, len(queue))
    texts: list[Ints] = []
    with govern(models.solver, policy={"version": 1}) as gov:
        for start in range(0, len(queue), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            found = gov.generate_many(
                queue[some],
                batch_size=_BATCH_SIZE,
                max_new_tokens=MAX_NEW_TOKENS,
                seeds=seeds[some],
                **SAMPLING,
            )
            texts += [text.numpy() for text in found]
    starts = np.array([len(prompt) for prompt in queue])
    length = np.array([len(text) for text in texts]) - starts
    score = judge_prefixes(models, texts, starts, int(length.max()))
    answers = [
        written_answer(models, text[start:]) for text, start in zip(texts, starts, strict=True)
    ]
    owner = np.repeat(np.arange(num_problems), num_candidates)
    right = [
        answer is not None and is_right(problems[p], answer[1])
        for p, answer in zip(owner.tolist(), answers, strict=True)
    ]
    shape = (num_problems, num_candidates)
    prompt_len = np.array([len(prompt) for prompt in prompts])
    read, spent = _costs(models, prompt_len, score.shape[1])
    return Pool(
        length=length.reshape(shape),
        score=score.reshape(*shape, -1),
        final=score[np.arange(len(texts)), length - 1].reshape(shape),
        right=np.array(right).reshape(shape),
        answer=numbered([None if a is None else a[0] for a in answers], shape),
        read=read,
        spent=spent,
    )


def _costs(models: Reasoner, prompt_len: Ints, longest: int) -> tuple[Floats, Floats]:
    """FLOPs of prompts (P,), and of 0, 1, ... further tokens (P, longest + 1), of both models."""
    both = (models.solver, models.judge)
    known, which = np.unique(prompt_len, return_inverse=True)
    read = [sum(forward_flops(m, n, 0) for m in both) for n in known.tolist()]
    spent = [
        [sum(forward_flops(m, width, n) for m in both) for width in range(longest + 1)]
        for n in known.tolist()
    ]
    return np.array(read)[which], np.array(spent)[which]


def prompt_ids(models: Reasoner, problem: Problem) -> list[int]:
    """Token ids of a problem."""
    ids: list[int] = models.tokenizer(problem.text)["input_ids"]
    return ids


def candidate_seeds(seed: int, count: int) -> list[int]:
    """Seeds of so many candidates."""
    return np.random.default_rng([seed, 1]).integers(0, 2**63, count).tolist()


def written_answer(models: Reasoner, generated: Ints) -> tuple[Hashable, str] | None:
    """Answer and text of a candidate; None where it has not ended, or with no answer."""
    if generated[-1] != models.tokenizer.eos_token_id:
        return None
    text = models.tokenizer.decode(generated.tolist(), skip_special_tokens=True)
    answer = read_answer(text)
    return None if answer is None else (answer, text)


def judge_prefixes(models: Reasoner, texts: Sequence[Ints], starts: Ints, width: int) -> Floats:
    """Scores (texts, width) after each generated token, as the searches' scorer gives them."""
    found = np.full((len(texts), width), np.nan)
    order = np.argsort([len(text) for text in texts])
    for first in range(0, len(order), _JUDGED):
        rows = order[first : first + _JUDGED]
        longest = max(len(texts[row]) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for place, row in enumerate(rows):
            ids[place, : len(texts[row])] = torch.from_numpy(texts[row])
        with torch.inference_mode():
            logits = models.judge(ids).logits[:, :-1].double().log_softmax(dim=-1)
        likely = logits.gather(2, ids[:, 1:, None])[..., 0].numpy()
        for place, row in enumerate(rows):
            own = likely[place, starts[row] - 1 : len(texts[row]) - 1]
            found[row, : len(own)] = own.cumsum()
    return found


def numbered(answers: Sequence[Hashable], shape: tuple[int, int]) -> Ints:
    """Answers (P, N) as numbers within each problem, in the order in which they came."""
    found = np.full(shape, -1)
    for problem in range(shape[0]):
        known: dict[Hashable, int] = {}
        for member in range(shape[1]):
            answer = answers[problem * shape[1] + member]
            if answer is not None:
                found[problem, member] = known.setdefault(answer, len(known))
    return found
