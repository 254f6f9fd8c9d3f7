import numpy as np
import torch

from flyball.kernels.confidence import confidence
from flyball.kernels.verify import verify_greedy, verify_sampled


def test_greedy_accepts_up_to_the_first_difference_or_the_rows_length() -> None:
    target = np.array([[5, 6, 7, 8], [5, 6, 7, 8], [5, 6, 7, 8], [5, 6, 7, 8]])
    draft = np.array([[5, 6, 7], [5, 0, 7], [5, 6, 7], [0, 6, 7]])
    assert verify_greedy(target, draft, np.array([3, 3, 1, 0])).tolist() == [3, 1, 1, 0]


def test_sampled_accepts_all_where_draft_and_target_agree() -> None:
    p = torch.softmax(torch.randn(3, 4, 9, generator=torch.Generator().manual_seed(0)), -1)
    tokens = torch.randint(0, 9, (3, 3))
    accepted, _ = verify_sampled(
        p, p[:, :3], tokens, torch.tensor([3, 2, 0]), torch.full((3, 3), 0.999999)
    )
    assert accepted.tolist() == [3, 2, 0]


def test_residual_never_returns_a_token_that_the_draft_favours() -> None:
    p = torch.tensor([0.1, 0.6, 0.3]).expand(1000, 2, 3)
    q = torch.tensor([0.9, 0.05, 0.05]).expand(1000, 1, 3)
    tokens = torch.zeros(1000, 1, dtype=torch.long)
    accepted, following = verify_sampled(
        p, q, tokens, torch.ones(1000, dtype=torch.long), torch.full((1000, 1), 0.5)
    )
    assert accepted.sum() == 0
    assert following.min() == 1


def test_empty_draft_draws_from_the_target() -> None:
    p = torch.tensor([[[0.0, 1.0, 0.0]]])
    nothing = torch.zeros(1, 0, dtype=torch.long)
    accepted, following = verify_sampled(
        p, p[:, :0], nothing, torch.zeros(1, dtype=torch.long), torch.zeros(1, 0)
    )
    assert accepted.tolist() == [0]
    assert following.tolist() == [1]


def test_confidence_is_the_largest_probability_even_with_masked_tokens() -> None:
    scores = torch.randn(4, 7, dtype=torch.float64)
    scores[1, :6] = -torch.inf
    found = confidence(scores)
    torch.testing.assert_close(found.largest, scores.softmax(-1).amax(-1))
    assert found.token.tolist() == scores.argmax(-1).tolist()


def test_entropy_is_that_of_the_distribution_even_with_masked_tokens() -> None:
    scores = torch.randn(4, 7, dtype=torch.float64)
    scores[1, :6] = -torch.inf
    expected = torch.distributions.Categorical(logits=scores).entropy()
    expected[1] = 0.0
    torch.testing.assert_close(confidence(scores).entropy(), expected)
