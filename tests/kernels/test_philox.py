"""Philox against its published vectors; noise that depends on seed, place and token alone.

The known answers are those of Random123 (`kat_vectors`, philox4x32 10).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from flyball.kernels.philox import WORD, gumbel, philox, token_noise, uniforms

FALSE_ALARM_RATE = 1e-4
LARGEST = 0xFFFFFFFF

KNOWN = {
    "zeros": ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    "ones": ([LARGEST] * 4, [LARGEST] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    "digits of pi": (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
}


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN.values(), ids=KNOWN)
def test_published_vectors(counter: list[int], key: list[int], expected: list[int]) -> None:
    words = philox([torch.tensor(c) for c in counter], [torch.tensor(k) for k in key])
    assert [int(word) for word in words] == expected


def test_noise_holds_the_words_in_order() -> None:
    counter, key = [torch.tensor(c) for c in (1, 9, 0, 0)], [torch.tensor(k) for k in (7, 3)]
    words = torch.stack(philox(counter, key))
    noise = token_noise(torch.tensor([(3 << 32) + 7]), torch.tensor([[9]]), 8)
    assert noise[0, 0, 4:].tolist() == gumbel(words).tolist()


def test_uniforms_hold_26_bits_of_two_words_each() -> None:
    generator = torch.Generator().manual_seed(2)
    seeds = torch.empty(50, 1, 1, dtype=torch.long).random_(generator=generator)
    seeds[0], seeds[1], seeds[2] = -1, -(2**63), 2**63 - 1
    places = torch.randint(0, 2**32, (50, 4, 1), generator=generator)
    candidates = torch.arange(3)[None, None]
    zero = torch.zeros_like(places)
    words = philox((candidates, places, zero, zero + 1), (seeds & WORD, (seeds >> 32) & WORD))
    found = uniforms(seeds, places, candidates)
    for (upper, lower), u in zip((words[:2], words[2:]), found, strict=True):
        assert u.shape == (50, 4, 3) and u.dtype == torch.float64
        bits = (u * 2.0**52 - 0.5).long()
        assert torch.equal(bits >> 26, upper >> 6) and torch.equal(bits & (2**26 - 1), lower >> 6)
        assert u.min() > 0 and u.max() < 1
    for row in range(0, 50, 7):  # whatever is counted beside them
        alone = uniforms(seeds[row : row + 1], places[row : row + 1, :2], candidates)
        assert torch.equal(alone[0][0], found[0][row, :2])
        assert torch.equal(alone[1][0], found[1][row, :2])
    test, draw = uniforms(torch.arange(200_000), torch.zeros(1).long(), torch.zeros(1).long())
    counts = np.histogram2d(test, draw, bins=20, range=[[0, 1], [0, 1]])[0].ravel()
    statistic = ((counts - 500) ** 2 / 500).sum()
    assert chi2.sf(statistic, 399) > FALSE_ALARM_RATE


def test_noise_is_finite_for_every_word() -> None:
    words = torch.tensor([0, 1, 2**31, LARGEST - 256, LARGEST - 1, LARGEST])
    noise = gumbel(words)
    assert noise.dtype == torch.float32
    assert noise.isfinite().all()
    assert (noise.diff() >= 0).all() and noise[0] > -3.2 and noise[-1] < 22.9


def test_noise_does_not_depend_on_what_is_asked_beside_it() -> None:
    seeds = torch.tensor([0, 5, 2**63 - 1, -(2**63), -1])
    index = torch.arange(12).reshape(1, 12).repeat(5, 1)
    noise = token_noise(seeds, index, 22)
    assert noise.shape == (5, 12, 22)
    assert len(noise.unique()) == noise.numel()
    order = torch.tensor([3, 0, 4])
    again = token_noise(seeds[order], index[order][:, 5:7].flip(1), 13)
    assert torch.equal(again, noise[order][:, [6, 5], :13])


def test_upper_half_of_the_seed_counts() -> None:
    noise = token_noise(torch.tensor([3, 3 + 2**32, 3 - 2**63]), torch.zeros(3, 1).long(), 4)
    assert len(noise.unique()) == 12


@pytest.mark.parametrize("pair", ["places", "seeds"])
def test_the_largest_noisy_score_is_a_draw_from_softmax(pair: str) -> None:
    """Pairs of draws, at neighbouring places or by neighbouring seeds, are independent."""
    scores = torch.tensor([1.0, 0.0, -1.0, 2.0, -torch.inf, 0.5, -2.0])
    seeds = torch.arange(200_000)
    index = torch.tensor([[0, 1]]).repeat(len(seeds), 1)
    drawn = (scores + token_noise(seeds, index, 7)).argmax(dim=-1).numpy()
    by_seed = drawn[::2, 0], drawn[1::2, 0]
    first, second = drawn.T if pair == "places" else by_seed
    counts = np.bincount(first * 7 + second, minlength=49)
    p = scores.double().softmax(dim=0).numpy()
    expected = np.outer(p, p).ravel() * len(first)
    assert counts[expected == 0].sum() == 0
    counts, expected = counts[expected > 0], expected[expected > 0]
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert chi2.sf(statistic, len(counts) - 1) > FALSE_ALARM_RATE
