"""The acceptance head: its formula, its blocks and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flyball.kernels.head import AcceptanceHead, acceptance_logit

HIDDEN = 12


def random_head(num_blocks: int, hidden_size: int = HIDDEN, seed: int = 0) -> AcceptanceHead:
    torch.manual_seed(seed)
    head = AcceptanceHead(hidden_size, num_blocks)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head


def by_hand(head: AcceptanceHead, hidden: np.ndarray) -> np.ndarray:
    x = hidden
    for block in range(head.num_blocks):
        weight, bias = (t[block].detach().double().numpy() for t in (head.weight, head.bias))
        z = np.einsum("ij,...j->...i", weight, x) + bias
        x = x + z / (1.0 + np.exp(-z))
    logit = x @ head.out_weight.detach().double().numpy() + head.out_bias.item()
    return 1.0 / (1.0 + np.exp(-logit))


@pytest.mark.parametrize("num_blocks", [0, 1, 3])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5)])
def test_a_prediction_equals_the_formula(num_blocks: int, shape: tuple[int, ...]) -> None:
    head = random_head(num_blocks).double()
    hidden = np.random.default_rng(1).normal(size=(*shape, HIDDEN))
    got = head(torch.from_numpy(hidden)).detach()
    assert got.shape == shape
    np.testing.assert_allclose(got.numpy(), by_hand(head, hidden), rtol=1e-12)


def test_states_of_another_dtype_are_taken() -> None:
    head, hidden = random_head(2), torch.randn(4, HIDDEN)
    assert head(hidden.double()).dtype == torch.float32
    torch.testing.assert_close(head(hidden.bfloat16()), head(hidden), rtol=0.05, atol=0.05)


def test_blocks_are_independent() -> None:
    head, hidden = random_head(3), torch.randn(6, HIDDEN)
    assert sum(p.numel() for p in head.parameters()) == 3 * (HIDDEN + 1) * HIDDEN + HIDDEN + 1
    head.logit(hidden).sum().backward()
    gradients = head.weight.grad
    assert gradients is not None
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert not torch.allclose(head.weight[one], head.weight[other])
        assert not torch.allclose(gradients[one], gradients[other])
    # Without its weights a block is the identity, and the others stay what they were.
    with torch.no_grad():
        head.weight[1], head.bias[1] = 0.0, 0.0
    others = torch.tensor([0, 2])
    expected = acceptance_logit(
        hidden, head.weight[others], head.bias[others], head.out_weight, head.out_bias
    )
    torch.testing.assert_close(head.logit(hidden), expected)


def test_blocks_of_a_new_head_differ() -> None:
    head = AcceptanceHead(HIDDEN, 3)
    assert not torch.allclose(head.weight[0], head.weight[1])


@pytest.mark.parametrize("num_blocks", [0, 3])
def test_a_file_gives_the_same_head_again(tmp_path: Path, num_blocks: int) -> None:
    head = random_head(num_blocks)
    head.notes = {"label": "match"}
    head.save(tmp_path / "head.safetensors")
    again = AcceptanceHead.load(tmp_path / "head.safetensors")
    assert (again.hidden_size, again.num_blocks) == (HIDDEN, num_blocks)
    assert again.notes == head.notes and not again.training
    hidden = torch.randn(5, HIDDEN)
    assert torch.equal(again(hidden), head(hidden))


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    head = random_head(2)

    def refused(kind: type[Exception], match: str) -> None:
        with pytest.raises(kind, match=match) as caught:
            AcceptanceHead.load(path)
        assert "\n" not in str(caught.value)

    refused(FileNotFoundError, "no file .*head.safetensors")
    path.write_bytes(b"nothing of the kind")
    refused(ValueError, "expected a safetensors file")
    save_file({"lm_head.weight": torch.zeros(2)}, path)
    refused(ValueError, "in its metadata")
    head.save(path)
    whole = AcceptanceHead.load(path)
    whole.out_weight = torch.nn.Parameter(torch.zeros(HIDDEN + 1))
    whole.save(path)
    refused(ValueError, "expected tensors")
