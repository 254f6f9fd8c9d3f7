"""The kernels' words and noise are those of `flyball.kernels.philox`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from flyball.kernels.gpu.philox import token_race, token_race_bound, token_words, uniform_pair
from flyball.kernels.philox import philox, token_noise, uniforms

BLOCK = 65536
SEED, PLACE = -5, 2**31 + 77


@triton.jit
def _words_kernel(words, race, bound, place, seed, block: tl.constexpr):
    start = tl.program_id(0) * block
    at = start + tl.arange(0, block)
    own = token_words(start, tl.load(place), tl.load(seed), block)
    tl.store(words + at, own.to(tl.int64))
    tl.store(race + at, token_race(own))
    tl.store(bound + at, token_race_bound(own))


@triton.jit
def _uniform_kernel(to_test, to_draw, candidates, places, seed, count: tl.constexpr):
    at = tl.arange(0, count)
    numbers, where = tl.load(candidates + at), tl.load(places + at)
    first, second = uniform_pair(numbers, where, tl.load(seed))
    tl.store(to_test + at, first)
    tl.store(to_draw + at, second)


def test_words_and_noise_of_tokens(device: str) -> None:
    seed, place = torch.tensor([SEED], device=device), torch.tensor([PLACE], device=device)
    words = torch.empty(2 * BLOCK, dtype=torch.int64, device=device)
    race, bound = torch.empty(2, 2 * BLOCK, device=device).unbind()
    _words_kernel[(2,)](words, race, bound, place, seed, block=BLOCK)
    fours, zero = torch.arange(BLOCK // 2), torch.zeros(1, dtype=torch.int64)
    key = (torch.tensor([SEED & 0xFFFFFFFF]), torch.tensor([SEED >> 32 & 0xFFFFFFFF]))
    expected = torch.stack(philox((fours, zero + PLACE, zero, zero), key), dim=-1).flatten()
    assert torch.equal(words.cpu(), expected)
    noise = token_noise(seed.cpu(), place.cpu()[None], 2 * BLOCK)[0, 0]
    torch.testing.assert_close(race.cpu().log(), noise, rtol=0, atol=2e-6)
    over = (bound - race) / race.clamp(min=1)
    assert over.min() > -1e-5 and over.max() < 0.5


def test_uniforms_are_the_same_bits(device: str) -> None:
    candidates, places = torch.arange(64) % 3, torch.arange(64) * 2**26
    seed = torch.tensor([SEED])
    found = torch.empty(2, 64, dtype=torch.float64, device=device)
    on_device = [x.to(device) for x in (candidates, places, seed)]
    _uniform_kernel[(1,)](found[0], found[1], *on_device, count=64)
    to_test, to_draw = uniforms(seed, places, candidates)
    assert torch.equal(found[0].cpu(), to_test) and torch.equal(found[1].cpu(), to_draw)
