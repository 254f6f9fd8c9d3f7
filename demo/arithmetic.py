"""Problems of a pocket calculator, and the verification of written solutions.

An expression is worked from left to right, as a pocket calculator does, on two-digit numbers
modulo 100. Its first operations are products with a one-digit factor, the rest are sums and
differences. A problem is written with an equals sign; a solution writes the whole remaining
expression after each step, the running value first:

    37*8+25-09=  96+25-09=21-09=12

Every step begins with the risk, the two digits of its result, and ends with plain copying.
Products are the hard ones and come first, so a text that goes wrong goes wrong early. There is one
right solution, so a text is right as far as it is a beginning of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MODULUS = 100
FACTORS = tuple(range(2, 10))
STEP_END = "="
SYMBOLS = "0123456789+-*" + STEP_END


@dataclass(frozen=True)
class Problem:
    """An expression to work from left to right, modulo 100.

    Attributes:
        start: the first value, 0 to 99.
        operations: sign and operand in order; products first, by one-digit factors.
    """

    start: int
    operations: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        """The problem as a prompt, up to its equals sign."""
        return _expression(self.start, self.operations) + STEP_END

    @property
    def values(self) -> list[int]:
        """Running value after each operation."""
        value, values = self.start, []
        for sign, operand in self.operations:
            value = _apply(value, sign, operand)
            values.append(value)
        return values

    @property
    def answer(self) -> int:
        """The last value."""
        return self.values[-1]

    @property
    def num_products(self) -> int:
        """How many of the operations are products."""
        return sum(sign == "*" for sign, _ in self.operations)

    @property
    def solution(self) -> str:
        """The right text after the prompt."""
        rests = [self.operations[i + 1 :] for i in range(len(self.operations))]
        steps = [_expression(v, rest) for v, rest in zip(self.values, rests, strict=True)]
        return STEP_END.join(steps)


@dataclass(frozen=True)
class Mix:
    """How hard drawn problems are.

    Attributes:
        num_terms: numbers in an expression, drawn evenly.
        product_shares: share of problems with 0, 1, 2, ... products.
        first: factors of the first product, drawn evenly.
        later: factors of the others.
    """

    num_terms: tuple[int, ...]
    product_shares: tuple[float, ...]
    first: tuple[int, ...] = FACTORS
    later: tuple[int, ...] = FACTORS


MIXES = {
    "usual": Mix((6, 7, 8), (0.05, 0.35, 0.4, 0.2), first=(3, 6, 7, 8), later=(2, 4, 5)),
    "harder": Mix((7, 8), (0.0, 0.15, 0.4, 0.45)),
}


def draw_problem(
    rng: np.random.Generator,
    num_terms: int,
    num_products: int,
    first: tuple[int, ...] = FACTORS,
    later: tuple[int, ...] = FACTORS,
) -> Problem:
    """A random problem of one shape."""
    factors = [int(rng.choice(first if place == 0 else later)) for place in range(num_products)]
    others = rng.integers(0, MODULUS, num_terms - num_products).tolist()
    signs = rng.choice(["+", "-"], num_terms - 1 - num_products).tolist()
    operations = [("*", factor) for factor in factors]
    operations += zip(signs, others[1:], strict=True)
    return Problem(others[0], tuple(operations))


def draw_problems(rng: np.random.Generator, mix: Mix, count: int) -> list[Problem]:
    """Random problems of a mix."""
    terms = rng.choice(mix.num_terms, count)
    products = rng.choice(len(mix.product_shares), count, p=mix.product_shares)
    shapes = zip(terms.tolist(), products.tolist(), strict=True)
    return [draw_problem(rng, *shape, mix.first, mix.later) for shape in shapes]


def read_steps(text: str) -> list[str]:
    """The steps of a solution text; the last one may be cut short."""
    return text.split(STEP_END)


def read_answer(text: str) -> int | None:
    """The number that a solution text ends with; None if it ends with something else."""
    last = read_steps(text)[-1]
    return int(last) if len(last) == 2 and last.isdecimal() else None


def is_right(problem: Problem, text: str) -> bool:
    """Whether a text gives the right answer after as many steps as the problem has."""
    complete = len(read_steps(text)) == len(problem.operations)
    return complete and read_answer(text) == problem.answer


def right_prefixes(problem: Problem, text: str) -> list[bool]:
    """For each written step, whether everything up to its end is right.

    A last step that was cut short is right if it is the beginning of the right one.
    """
    steps = read_steps(text)
    ends = [STEP_END] * (len(steps) - 1) + [""]
    written = [STEP_END.join(steps[: i + 1]) + end for i, end in enumerate(ends)]
    return [problem.solution.startswith(text) for text in written]


def first_wrong_step(problem: Problem, text: str) -> int | None:
    """Number of the first step with an error, from 0; None if there is none."""
    labels = right_prefixes(problem, text)
    return None if all(labels) else labels.index(False)


def _expression(value: int, operations: Sequence[tuple[str, int]]) -> str:
    rest = "".join(f"{s}{n}" if s == "*" else f"{s}{n:02d}" for s, n in operations)
    return f"{value:02d}{rest}"


def _apply(value: int, sign: str, operand: int) -> int:
    if sign == "*":
        return value * operand % MODULUS
    return (value + operand if sign == "+" else value - operand) % MODULUS
