"""The calculator task, and the reasoning pair that ships."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from flyball.demo.arithmetic import (
    MIXES,
    Problem,
    draw_problems,
    first_wrong_step,
    is_right,
    read_answer,
    read_steps,
    right_prefixes,
)
from flyball.demo.measure_reasoner import auc, likelihood_scores
from flyball.demo.reasoner_loader import Reasoner, load_reasoner
from flyball.demo.reasoner_models import encode
from flyball.demo.reasoner_samples import Samples, write

PROBLEM = Problem(37, (("*", 8), ("+", 25), ("-", 9), ("+", 64)))
SOLUTION = "96+25-09+64=21-09+64=12+64=76"


@pytest.fixture(scope="module")
def reasoner() -> Reasoner:
    return load_reasoner()


@pytest.fixture(scope="module")
def samples(reasoner: Reasoner) -> Samples:
    problems = draw_problems(np.random.default_rng(11), MIXES["usual"], 300)
    return write(reasoner.solver, reasoner.tokenizer, problems, 0.8, seed=11)


def test_a_problem_is_worked_from_left_to_right_modulo_100() -> None:
    assert PROBLEM.text == "37*8+25-09+64="
    assert PROBLEM.solution == SOLUTION
    assert (PROBLEM.answer, PROBLEM.num_products) == (76, 1)
    assert Problem(5, (("-", 9),)).solution == "96"


@pytest.mark.parametrize("mix", MIXES)
def test_right_solutions_of_drawn_problems_parse_as_right(mix: str) -> None:
    for problem in draw_problems(np.random.default_rng(0), MIXES[mix], 200):
        text = problem.solution
        assert len(read_steps(text)) == len(problem.operations)
        assert is_right(problem, text)
        assert all(right_prefixes(problem, text))
        assert first_wrong_step(problem, text) is None
        assert 40 < len(problem.text + text) <= 110
        signs = [sign for sign, _ in problem.operations]
        assert all(sign == "*" for sign in signs[: problem.num_products])


def test_labels_turn_at_the_first_error() -> None:
    text = SOLUTION.replace("21", "22").replace("12", "13").replace("76", "77")
    assert right_prefixes(PROBLEM, text) == [True, False, False, False]
    assert first_wrong_step(PROBLEM, text) == 1
    assert not is_right(PROBLEM, text)


def test_a_copying_error_is_an_error() -> None:
    assert right_prefixes(PROBLEM, "96+25-08") == [False]
    assert right_prefixes(PROBLEM, "96+25-09=21") == [False, False]


def test_a_text_cut_short_is_right_so_far_and_gives_no_answer() -> None:
    assert right_prefixes(PROBLEM, "96+25-09+64=21-0") == [True, True]
    assert read_answer("96+25-09+64=21-0") is None
    assert read_answer("96+25") is None
    assert read_answer("") is None
    assert not is_right(PROBLEM, "76")


def test_problems_come_from_the_seed() -> None:
    first, second = (draw_problems(np.random.default_rng(3), MIXES["usual"], 5) for _ in range(2))
    assert first == second


def test_the_loader_is_imported_without_torch() -> None:
    code = "import sys, flyball.demo.reasoner_loader; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_tokenizer_reads_characters_and_pads_on_the_left(reasoner: Reasoner) -> None:
    rows = reasoner.tokenizer(["37*8=", "1+"], padding=True)
    assert rows["input_ids"][0] == encode("37*8=")
    assert rows["attention_mask"][1] == [0, 0, 0, 1, 1]
    assert reasoner.tokenizer.decode(rows["input_ids"][0]) == "37*8="
    assert len(reasoner.tokenizer) == reasoner.solver.config.vocab_size


def test_the_solver_is_right_now_and_then_and_errs_early(samples: Samples) -> None:
    assert 0.2 <= samples.right.mean() <= 0.6
    early = [step < num_steps / 3 for step, num_steps in samples.first_errors]
    assert np.mean(early) >= 0.75


def test_problems_differ_in_difficulty(samples: Samples) -> None:
    products = np.array([problem.num_products for problem in samples.problems])
    assert samples.right[products == 0].mean() > 0.85
    assert samples.right[products == 3].mean() < 0.6


def test_the_judge_tells_right_from_wrong(reasoner: Reasoner, samples: Samples) -> None:
    scores = likelihood_scores(reasoner, samples)
    assert auc(scores, samples.right_so_far) >= 0.99
    # Some errors cancel out in the end, which no judge of steps rewards.
    assert auc(scores, samples.right) >= 0.85
    begun = samples.cut(1, num_tokens=2)
    assert auc(likelihood_scores(reasoner, begun), begun.right_so_far) >= 0.99


def test_auc_counts_ties_half() -> None:
    right = np.array([True, True, False, False])
    assert auc(np.array([3.0, 2.0, 1.0, 0.0]), right) == 1.0
    assert auc(np.zeros(4), right) == 0.5
    assert auc(np.array([1.0, 0.0, 0.0, -1.0]), right) == 0.875


def test_the_judge_is_at_most_twice_the_solver(reasoner: Reasoner) -> None:
    assert reasoner.judge.num_parameters() <= 2 * reasoner.solver.num_parameters()
    assert reasoner.solver.dtype == torch.float32
