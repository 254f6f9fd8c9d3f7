"""Step seconds are told apart into drafting, prefill and the rest."""

import numpy as np
import pytest

from flyball.estimators.step_split import StepLoad, StepSplit

VERIFY_S, DRAFT_S, PREFILL_S, HOST_S = 4e-4, 1.5e-3, 2e-5, 5e-3


def seconds(load: StepLoad, rng: np.random.Generator) -> float:
    still = HOST_S + VERIFY_S * load.verify_len
    moving = DRAFT_S * load.draft_len + PREFILL_S * load.num_prefill_tokens
    return (still + moving) * float(np.exp(0.05 * rng.standard_normal()))


def drive(split: StepSplit, num_steps: int, rng: np.random.Generator, lengths=(0, 1, 4, 8)):
    before = 0
    for _ in range(num_steps):
        draft_len = int(rng.choice(lengths))
        prefill = int(rng.integers(200)) if rng.random() < 0.2 else 0
        load = StepLoad(8, 1.0 + before, draft_len, prefill)
        split.update(load, seconds(load, rng))
        before = draft_len


def test_parts_are_found_when_loads_vary():
    split, rng = StepSplit(), np.random.default_rng(0)
    drive(split, 400, rng)
    draft_s, prefill_s = split.token_s(8)
    assert draft_s == pytest.approx(DRAFT_S, rel=0.1)
    assert prefill_s == pytest.approx(PREFILL_S, rel=0.25)


def test_nothing_is_told_apart_before_both_drafting_and_its_absence_were_seen():
    split, rng = StepSplit(), np.random.default_rng(0)
    drive(split, 100, rng, lengths=(4,))
    assert split.token_s(8) is None
    assert split.token_s(1) is None


def test_parts_stay_known_while_loads_do_not_vary():
    split, rng = StepSplit(), np.random.default_rng(1)
    drive(split, 200, rng)
    drive(split, 3000, rng, lengths=(4,))
    draft_s, _ = split.token_s(8)
    assert draft_s == pytest.approx(DRAFT_S, rel=0.35)


def test_parts_are_never_negative_and_batch_sizes_are_apart():
    split, rng = StepSplit(), np.random.default_rng(2)
    for i in range(64):  # drafting speeds this machine up
        split.update(StepLoad(2, 1.0, i % 2 * 4, 0), 1e-2 - 1e-3 * (i % 2))
    assert split.token_s(2) == (0.0, 0.0)
    drive(split, 100, rng)
    assert split.token_s(2) == (0.0, 0.0)
    assert split.token_s(8)[0] > 0.0


def test_an_interrupted_step_does_not_move_the_parts_far():
    split, rng = StepSplit(), np.random.default_rng(3)
    drive(split, 200, rng)
    split.update(StepLoad(8, 5.0, 4, 0), 60.0)
    drive(split, 16, rng)
    draft_s, _ = split.token_s(8)
    assert draft_s == pytest.approx(DRAFT_S, rel=0.2)
