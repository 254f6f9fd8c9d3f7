"""The governor follows whichever shadow does best on the live text."""

import numpy as np

from flyball.controller.governor import Cost, DraftInfo, Governor, HostInfo, Outcomes
from flyball.controller.policy_file import load_policy
from flyball.controller.stretch import Knowledge

STATIC = {
    "version": 1,
    "length": {"policy": "static", "draft_len": 4, "max_draft_len": 8},
    "governor": {"follow": "shadows", "shadows": ["static"]},
}


def decode(governor: Governor, acceptance: float, num_rounds: int, seed: int) -> list[int]:
    """Rounds of two requests whose drafts are accepted so often; the lengths that were run."""
    rng = np.random.default_rng(seed)
    slots, lengths = governor.admit(2), []
    unread = np.zeros(2, np.int64)
    for _ in range(num_rounds):
        plan = governor.plan(slots)
        length = plan.draft_len
        if (length.max() > 0 and unread.any()) or unread.max() >= 32:
            match = (rng.random((2, int(unread.max()))) < acceptance).astype(float)
            match[np.arange(match.shape[1]) >= unread[:, None]] = np.nan
            governor.read(slots, match)
            unread[:] = 0
        hits = rng.random((2, 8)) < acceptance
        accepted = np.minimum(hits.cumprod(axis=1).sum(axis=1), length).astype(np.int32)
        observed = np.minimum(accepted + 1, length).astype(np.int32)
        width = int(length.max())
        draft_s, verify_s = 1e-3 * width, 1e-2
        governor.observe(
            Outcomes(plan.step_id, slots, length, accepted, observed),
            Cost(plan.step_id, draft_s + verify_s, 2, width + 1, width, draft_s, verify_s),
        )
        unread += accepted + 1 - observed
        lengths.append(width)
    governor.release(slots)
    assert governor.faults == {}
    return lengths


def test_a_poor_choice_of_policy_is_left_and_comes_back_when_it_pays() -> None:
    governor = Governor(load_policy(STATIC), HostInfo("test"), clock=lambda: 0.0)
    assert governor.policy_name == "static/1"
    assert np.mean(decode(governor, 0.02, 600, 0)[-50:]) == 0
    assert governor.policy_name == "static_0/1"
    assert np.mean(decode(governor, 0.95, 600, 1)[-50:]) >= 4


def test_the_section_that_names_another_policy_is_obeyed() -> None:
    alone = {"version": 1, "length": STATIC["length"]}
    governor = Governor(load_policy(alone), HostInfo("test"), clock=lambda: 0.0)
    assert set(decode(governor, 0.02, 100, 0)) == {4}


def test_shadows_need_a_host_whose_draft_reads_the_text() -> None:
    lookup = DraftInfo("lookup", steps=False)
    for host in (
        HostInfo("test", reads=False),
        HostInfo("test", drafts=(lookup,)),
        HostInfo("test", drafts=(DraftInfo("model"), lookup)),
    ):
        assert not Governor(load_policy(None), host)._seat.follows
    assert Governor(load_policy(None), HostInfo("test"))._seat.follows


def never(slots: np.ndarray) -> Knowledge:
    raise AssertionError("nobody is there to be known")


def test_shadows_listen_no_more_than_their_share_allows() -> None:
    governor = Governor(load_policy(STATIC), HostInfo("test"), clock=lambda: 0.0)
    decode(governor, 0.6, 1, 0)
    shadows, heard = governor._seat.shadows, []
    assert shadows is not None
    for _ in range(3000):
        shadows.allow(0.002)
        shadows.note(Outcomes(1, *np.array([[0], [1], [0], [0]], np.int32)))
        heard.append(shadows.listening)
        if shadows.due:
            shadows.walk(np.zeros(0, np.int32), never)
    spent_s = shadows._turn_s * sum(heard) / 16
    assert 0.8 < spent_s / (0.02 * 3000 * 0.002) < 1.2


def test_following_is_reproducible() -> None:
    runs = [
        decode(Governor(load_policy(STATIC), HostInfo("test"), lambda: 0.0), 0.6, 200, 2)
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
