"""Texts that the solver writes, and how far they are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flyball.demo.arithmetic import STEP_END, Problem, first_wrong_step, is_right

ROWS = 500  # texts that are written at a time
SPARE_TOKENS = 8  # beyond the longest right solution


@dataclass(frozen=True)
class Samples:
    """Texts of the solver.

    Attributes:
        problems: one for each text.
        texts: written solutions, without end token.
    """

    problems: list[Problem]
    texts: list[str]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each text's answer is right."""  # (texts,)
        pairs = zip(self.problems, self.texts, strict=True)
        return np.array([is_right(problem, text) for problem, text in pairs])

    @property
    def first_errors(self) -> list[tuple[int, int]]:
        """First wrong step of each text that has one, from 0, and the problem's steps."""
        pairs = zip(self.problems, self.texts, strict=True)
        errors = [(first_wrong_step(p, text), len(p.operations)) for p, text in pairs]
        return [(step, steps) for step, steps in errors if step is not None]

    def cut(self, num_steps: int, num_tokens: int = 0) -> Samples:
        """Beginnings of a number of steps and a number of tokens of the next one."""
        problems, texts = [], []
        for problem, text in zip(self.problems, self.texts, strict=True):
            steps = text.split(STEP_END)
            if len(steps) <= num_steps:
                continue
            written = "".join(step + STEP_END for step in steps[:num_steps])
            problems.append(problem)
            texts.append(written + steps[num_steps][:num_tokens])
        return Samples(problems, texts)

    @property
    def right_so_far(self) -> NDArray[np.bool_]:
        """Whether each text is a beginning of the right one."""  # (texts,)
        pairs = zip(self.problems, self.texts, strict=True)
        return np.array([problem.solution.startswith(text) for problem, text in pairs])


@torch.no_grad()
def write(
    solver: Any,
    tokenizer: Any,
    problems: Sequence[Problem],
    temperature: float,
    seed: int,
    max_new_tokens: int | None = None,
) -> Samples:
    """One text for each problem, by plain `generate`.

    Args:
        solver: the model.
        tokenizer: padding on the left.
        problems: to write a text for; a problem may come several times.
        temperature: of the sampling, with no other warping.
        seed: of the sampling.
        max_new_tokens: of a text; None lets every text come to its end.
    """
    torch.manual_seed(seed)
    texts: list[str] = []
    for start in range(0, len(problems), ROWS):
        rows = problems[start : start + ROWS]
        prompts = [problem.text for problem in rows]
        longest = max(len(problem.solution) for problem in rows)
        inputs = tokenizer(prompts, return_tensors="pt", padding=True)
        ids = solver.generate(
            **inputs,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            max_new_tokens=max_new_tokens or longest + SPARE_TOKENS,
        )
        new = ids[:, inputs["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(new, skip_special_tokens=True)
    return Samples(list(problems), texts)
