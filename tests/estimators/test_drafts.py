import numpy as np

from flyball.estimators.drafts import SteppingDraft
from flyball.estimators.journal import Journal
from flyball.estimators.survival import sigmoid


def test_a_confidence_that_is_left_out_is_not_that_of_an_earlier_round() -> None:
    journal = Journal(4)
    ones = np.ones(1, np.int32)
    journal.add(ones, ones, 2 * ones, confidence=np.full((1, 4), 0.9))
    journal.take()
    journal.add(ones, ones, 2 * ones, confidence=np.full((1, 1), 0.5))
    _, (confidence, _), _ = journal.take()
    assert confidence.tolist() == [[0.5, -1.0, -1.0, -1.0]]


def test_no_confidence_is_not_counted_as_one_that_makes_no_sense() -> None:
    draft = SteppingDraft(4)
    slots = np.zeros(1, np.int32)
    draft.admit(slots)
    for width in (4, 1, 0):
        two = np.full(1, 2, np.int32)
        draft.note(slots, two, two, two, np.full((1, width), 0.9))
        assert draft.learn() == 0


def test_a_change_is_believed_by_confidence_too() -> None:
    draft, rng = SteppingDraft(4), np.random.default_rng(0)
    slots = np.arange(4, dtype=np.int32)
    for truth in [0.95] * 1600 + [0.2] * 160:
        accepted = (rng.random((4, 4)) < truth).cumprod(axis=1).sum(axis=1).astype(np.int32)
        four, observed = np.full(4, 4, np.int32), np.minimum(accepted + 1, 4).astype(np.int32)
        draft.admit(slots)
        draft.note(slots, four, accepted, observed, np.full((4, 4), 0.9))
        if draft.due:
            draft.learn()
    assert sigmoid(draft.chances.logits(np.full(1, 0.9), None, 1))[0, 0] < 0.35
