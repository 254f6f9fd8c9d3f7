"""Noise that is a function of a seed, a place in a text, and a token.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): ten rounds over
a counter of four 32-bit words under a key of two,

    (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0))

with the key raised by two constants from round to round. Nothing is kept between calls, so the
same words come in any order, on any device, whatever else is computed beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
NUM_ROUNDS = 10


def philox(counter: Sequence[torch.Tensor], key: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Four random words for each counter.

    Args:
        counter: four tensors of 32-bit words in int64, of shapes that go together.
        key: two of them.

    Returns:
        Four tensors of words in int64.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(NUM_ROUNDS):
        # int64 wraps around: the 64 bits are those of the unsigned product.
        first, second = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        # Only factors need their upper halves cleared; c1 and c3 are left as they are.
        c0, c2 = ((second >> 32) ^ c1 ^ k0) & WORD, ((first >> 32) ^ c3 ^ k1) & WORD
        c1, c3 = second, first
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return [c0, c1 & WORD, c2, c3 & WORD]


def gumbel(words: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise -log(-log u) in float32 from 32-bit words in int64.

    u is the middle of one of 2^32 cells of (0, 1). In float64 it is exact, and neither 0 nor 1;
    in float32 the last cells would round to 1, and to infinite noise.
    """
    noise = words.double().add_(0.5).mul_(2.0**-32).log_().neg_().log_().neg_()
    return noise.float()


def uniforms(
    seeds: torch.Tensor, places: torch.Tensor, candidates: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two uniforms for each candidate token at a place: to test it, and to draw what follows.

    The counter holds the candidate's number, 0 in a chain, the place, 0 and 1: the last word keeps
    it apart from the counters of `token_noise`. Each uniform takes 26 bits of two words,

        u = (2^26 (w >> 6) + (w' >> 6) + 1/2) 2^-52,

    exact in float64, and neither 0 nor 1: a token of probability 2^-32 is drawn as often as it
    should be, and a draft that is the target is never rejected.

    Args:
        seeds: 64 bits each, in int64.
        places: in the text, in [0, 2^32).
        candidates: numbers of candidates. Shapes of all three go together.

    Returns:
        To test and to draw, in float64, in (0, 1).
    """
    # A compiler sees through tensors only.
    if not (seeds.is_cuda or torch.compiler.is_compiling()):
        from flyball.kernels.cpu import philox as on_cpu

        found = on_cpu.uniforms(seeds.numpy(), places.numpy(), candidates.numpy())
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])
    zero = torch.zeros_like(places)
    key = (seeds & WORD, (seeds >> 32) & WORD)
    words = philox((candidates, places, zero, zero + 1), key)
    w = [(word >> 6).double() for word in words]
    return (w[0] * 2**26 + w[1] + 0.5) * 2.0**-52, (w[2] * 2**26 + w[3] + 0.5) * 2.0**-52


def token_noise(seeds: torch.Tensor, index: torch.Tensor, vocab: int) -> torch.Tensor:
    """Gumbel noise g[s, t, v] for every token v at places t of texts with seeds s.

    argmax_v(scores_v + g[s, t, v]) is a draw from softmax(scores) (the Gumbel-max trick), up to
    the 2^-33 by which u keeps away from 0 and 1. The key is the seed; the counter holds v // 4 and
    t, and v % 4 picks the word. Words are the same bits everywhere; logarithms of other machines
    may differ in the last bit of float64, which rarely reaches float32.

    A row and place of 152,000 tokens take 2 to 4 ms on one core of an AMD EPYC.

    Args:
        seeds: (rows,) 64 bits each, in int64.
        index: (rows, width) places t, in [0, 2^32).
        vocab: number of tokens.

    Returns:
        (rows, width, vocab) float32, between -3.2 and 22.9.
    """
    blocks = torch.arange((vocab + 3) // 4, device=seeds.device)
    zero = torch.zeros_like(index)[..., None]
    own = seeds[:, None, None]
    words = philox((blocks, index[..., None], zero, zero), (own & WORD, (own >> 32) & WORD))
    return gumbel(torch.stack(words, dim=-1).flatten(start_dim=2)[..., :vocab])
