import numpy as np

from flyball.estimators.drafts import Journal, SteppingDraft


def test_a_confidence_that_is_left_out_is_not_that_of_an_earlier_round() -> None:
    journal = Journal(4)
    ones = np.ones(1, np.int32)
    journal.add(ones, ones, 2 * ones, confidence=np.full((1, 4), 0.9))
    journal.take()
    journal.add(ones, ones, 2 * ones, confidence=np.full((1, 1), 0.5))
    _, confidence, _ = journal.take()
    assert confidence.tolist() == [[0.5, -1.0, -1.0, -1.0]]


def test_no_confidence_is_not_counted_as_one_that_makes_no_sense() -> None:
    draft = SteppingDraft(4)
    slots = np.zeros(1, np.int32)
    draft.admit(slots)
    for width in (4, 1, 0):
        two = np.full(1, 2, np.int32)
        draft.note(slots, two, two, two, np.full((1, width), 0.9))
        assert draft.learn() == 0
