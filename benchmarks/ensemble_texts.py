"""Finished texts read by target and members, and rules that walk over them.

Along a settled text everything is known: whether each member, or any mixture, would have drafted
the next token (greedy), or with which probability it would have been accepted (sampling). Rounds
of a constant length are a pointer that moves over it, so that fixed mixtures and changes of
scenario can be judged without decoding again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.ensemble_modes import DRAFT_LEN, VIEWS
from flyball.demo.vlm_data import IMAGE_ID, VlmPrompt
from flyball.demo.vlm_loader import VlmModels, left_padded
from flyball.integrations.hf.views import DraftView, PromptImages, embed, view_prompts
from flyball.kernels import mix as kernels
from flyball.policies.ensemble.base import EnsemblePolicy

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ReadText:
    """A text that the target wrote, with what everybody said of its tokens.

    Attributes:
        tokens: (t,) generated tokens after the first.
        p: (t, vocab) the target's distributions.
        q: (t, members, vocab) the members'.
        uniforms: (t,) draws that decide on acceptance under sampling, the same for every rule.
    """

    tokens: torch.Tensor
    p: torch.Tensor
    q: torch.Tensor
    uniforms: torch.Tensor

    def acceptance(self, mixture: torch.Tensor, at: slice, sampled: bool) -> torch.Tensor:
        """Probability (n,) that tokens drafted by mixtures (n, vocab) are accepted."""
        tokens = self.tokens[at]
        if not sampled:
            return (mixture.argmax(dim=-1) == tokens).double()
        own = tokens[:, None]
        ratio = mixture.gather(1, own) / self.p[at].gather(1, own)
        return ratio.clamp(max=1.0).squeeze(1).double()


@torch.no_grad()
def read_texts(
    models: VlmModels, prompts: Sequence[VlmPrompt], num_tokens: int, sampled: bool, seed: int
) -> list[ReadText]:
    """Let the target answer the prompts, and everybody read the answers."""
    torch.manual_seed(seed)
    texts = []
    for prompt in prompts:
        inputs = left_padded([prompt])
        start = inputs["input_ids"].shape[1]
        out = models.target.generate(
            **inputs, max_new_tokens=num_tokens, do_sample=sampled, top_k=0
        )
        text = out[0, start:]
        if len(text) < 2:
            continue
        pixels = inputs.get("pixel_values")
        logits = models.target(input_ids=out, pixel_values=pixels).logits[0]
        images = None
        if pixels is not None:
            captions = [[np.array(ids) for ids in prompt.caption_ids]]
            images = PromptImages(IMAGE_ID, np.array([len(pixels)]), {}, pixels, captions)
        members = []
        for view in VIEWS:
            seen = DraftView(models.draft, image=view)
            own = view_prompts(seen, [np.array(prompt.input_ids)], images)
            before = embed(models.draft, own, len(own[0].tokens))
            after = models.draft.get_input_embeddings()(text[None])
            said = models.draft(inputs_embeds=torch.cat([before, after], dim=1)).logits[0]
            members.append(said[-len(text) : -1].float().softmax(dim=-1))
        texts.append(
            ReadText(
                text[1:],
                logits[start : start + len(text) - 1].float().softmax(dim=-1),
                torch.stack(members, dim=1),
                torch.rand(len(text) - 1, dtype=torch.float64),
            )
        )
    return texts


@dataclass
class Walk:
    """What a rule did over texts.

    Attributes:
        num_rounds: rounds.
        num_tokens: tokens that they made.
        acceptance: (positions,) of every text in turn: the probability that the token there is
            accepted with the weights in force.
        text: (positions,) number of the text.
        place: (positions,) of the token in its text.
        weights: (rounds, members) in force.
    """

    num_rounds: int
    num_tokens: int
    acceptance: Floats
    text: NDArray[np.int64]
    place: NDArray[np.int64]
    weights: Floats

    @property
    def block_efficiency(self) -> float:
        """Mean tokens of a round."""
        return self.num_tokens / self.num_rounds


@torch.no_grad()
def walk(policy: EnsemblePolicy, texts: Sequence[ReadText], sampled: bool) -> Walk:
    """Rounds of a constant length over texts, one after the other, as requests of one server."""
    slots, nobody = np.zeros(1, np.int32), np.zeros(1, np.int64)
    num_rounds = num_tokens = 0
    seen: list[Floats] = []
    weights_of: list[Floats] = []
    for text in texts:
        policy.admit(slots)
        position, whole = 0, np.zeros(len(text.tokens))
        while position < len(text.tokens):
            decided = policy.decide(slots, sampled)
            weights_of.append(decided[0])
            weights = torch.from_numpy(decided).float()
            # One position more than is drafted, for the token that follows the draft.
            at = slice(position, min(position + DRAFT_LEN + 1, len(text.tokens)))
            q = text.q[at]
            mixture = kernels.mix(q, weights.expand(len(q), -1))
            chance = text.acceptance(mixture, at, sampled)
            drafted = min(len(q), DRAFT_LEN)
            hits = (text.uniforms[at] < chance)[:drafted]
            accepted = int(hits.long().cumprod(0).sum())
            observed, made = min(accepted + 1, drafted), min(accepted + 1, len(q))
            whole[position : position + made] = chance[:made]
            values = _evidence(policy, text, at, mixture, observed, sampled)
            if values is not None:
                policy.learn(slots, np.repeat(nobody, observed), values, sampled)
            num_rounds += 1
            num_tokens += made
            position += made
        seen.append(whole)
    return Walk(
        num_rounds,
        num_tokens,
        np.concatenate(seen),
        np.repeat(np.arange(len(seen)), list(map(len, seen))),
        np.concatenate([np.arange(len(part)) for part in seen]),
        np.array(weights_of),
    )


def _evidence(
    policy: EnsemblePolicy,
    text: ReadText,
    at: slice,
    mixture: torch.Tensor,
    observed: int,
    sampled: bool,
) -> Floats | None:
    kind = policy.evidence(sampled)
    p, q, mixture = text.p[at][:observed], text.q[at][:observed], mixture[:observed]
    if kind is None:
        return None
    if kind == "ascent":
        found = kernels.ascent(p, q, mixture)
    else:
        grid = torch.from_numpy(policy.grid).float()
        found = kernels.evidence(
            kind, p, q, None, grid, greedy=not sampled, reads_kl=policy.reads_kl
        )
    values: Floats = found.double().numpy()
    return values


@torch.no_grad()
def grid_acceptance(texts: Sequence[ReadText], grid: Floats, sampled: bool) -> Floats:
    """Mean acceptance (G,) of fixed mixtures over all tokens of texts."""
    weights = torch.from_numpy(grid).float()
    total, count = np.zeros(len(grid)), 0
    for text in texts:
        if sampled:
            own = text.tokens[:, None, None].expand(-1, text.q.shape[1], 1)
            q = text.q.gather(2, own).squeeze(2) @ weights.T  # (t, G)
            found = (q / text.p.gather(1, text.tokens[:, None])).clamp(max=1.0)
        else:
            best = torch.einsum("gm,tmv->tgv", weights, text.q).argmax(dim=-1)
            found = (best == text.tokens[:, None]).float()
        total += found.double().sum(dim=0).numpy()
        count += len(text.tokens)
    return total / count
