"""Ways of decoding the vision-language demo that `benchmarks.ensemble` compares."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from flyball.controller.governor import Governor, Plan
from flyball.controller.policy_file import load_policy
from flyball.demo.vlm_data import VlmPrompt
from flyball.demo.vlm_loader import VlmModels, left_padded
from flyball.integrations.hf import DraftView, GovernedGenerate, govern
from flyball.integrations.hf.hosts import host_info
from flyball.integrations.hf.views import Image
from flyball.policies.registry import ENSEMBLE_POLICIES

VIEWS: tuple[Image, ...] = ("own", "none", "pooled", "caption")
DEFAULT = "accept_ascent"
DRAFT_LEN = 5  # as TABED's
SERVED = "{}, served"  # name of a mode that learns on from text to text
RULES = tuple(name for name in ENSEMBLE_POLICIES if name != "static")


@dataclass(frozen=True)
class Made:
    """What a mode made of one prompt.

    Attributes:
        tokens: new ones.
        seconds: of the whole call.
        decode_s: of them in the decoding loop, prompts aside; NaN where it is not known.
        num_rounds: target forwards after the prompt.
    """

    tokens: list[int]
    seconds: float
    decode_s: float
    num_rounds: int


Mode = Callable[[VlmPrompt, int, bool], Made]


def governed(models: VlmModels, views: tuple[Image, ...], **settings: Any) -> GovernedGenerate:
    """The governed target with these views of the draft."""
    drafts = [DraftView(models.draft, image=view) for view in views]
    return govern(models.target, drafts, **settings)


def static(draft_len: int = DRAFT_LEN, **sections: Any) -> dict[str, Any]:
    """A policy of one length."""
    length = {"policy": "static", "draft_len": draft_len, "max_draft_len": max(draft_len, 1)}
    return {"version": 1, "length": length, **sections}


class Together(Governor):
    """All members draft in every round, whatever it costs."""

    def plan(self, *args: Any, **rest: Any) -> Plan:
        """The plan with the ensemble's draft and the largest length."""
        found = super().plan(*args, **rest)
        ensemble = len(self._host.drafts) - 1
        return replace(
            found,
            draft=np.full_like(found.draft, ensemble),
            draft_len=np.full_like(found.draft_len, DRAFT_LEN),
        )


def together(models: VlmModels, ensemble: dict[str, Any], **settings: Any) -> GovernedGenerate:
    """The governed target with all views, which always draft together, weighted by a policy."""
    views = [DraftView(models.draft, image=view) for view in VIEWS]
    governor = Together(load_policy(static(ensemble=ensemble)), host_info(views, ensemble=True))
    return GovernedGenerate(models.target, views, governor, **settings)


def run(gov: GovernedGenerate) -> Mode:
    """A mode that decodes with a governor."""

    def decode(prompt: VlmPrompt, num_tokens: int, sample: bool) -> Made:
        before, start = gov.stats, time.perf_counter()
        inputs = left_padded([prompt])
        out = gov.generate(
            **inputs,
            draft_inputs={"captions": [prompt.caption_ids]} if len(prompt.pixel_values) else None,
            max_new_tokens=num_tokens,
            do_sample=sample,
            top_k=0,
        )
        seconds, after = time.perf_counter() - start, gov.stats
        decode_s = after.total_s - before.total_s - (after.prompt_s - before.prompt_s)
        tokens = out[0, inputs["input_ids"].shape[1] :].tolist()
        return Made(tokens, seconds, decode_s, after.num_rounds - before.num_rounds)

    return decode


def stock(models: VlmModels) -> Mode:
    """Transformers' assisted generation, whose assistant does not get the image."""

    def decode(prompt: VlmPrompt, num_tokens: int, sample: bool) -> Made:
        inputs, calls = left_padded([prompt]), 0

        def count(*_: Any) -> None:
            nonlocal calls
            calls += 1

        hook = models.target.register_forward_hook(count)
        start = time.perf_counter()
        with torch.no_grad():
            out = models.target.generate(
                **inputs,
                assistant_model=models.draft,
                max_new_tokens=num_tokens,
                do_sample=sample,
                top_k=0,
            )
        seconds = time.perf_counter() - start
        hook.remove()
        tokens = out[0, inputs["input_ids"].shape[1] :].tolist()
        return Made(tokens, seconds, float("nan"), calls - 1)

    return decode


def off(models: VlmModels) -> Mode:
    """No drafts."""
    return run(govern(models.target, [], policy=static(0)))


def modes(models: VlmModels, mixture: Any) -> dict[str, Mode]:
    """Modes of a constant length, with fresh governors.

    Args:
        models: the pair.
        mixture: (members,) best fixed weights in hindsight.
    """
    found: dict[str, Mode] = {"off": off(models), "stock": stock(models)}
    for view in VIEWS:
        found[view] = run(governed(models, (view,), policy=static()))
    for name in RULES:
        found[name] = run(together(models, {"policy": name}))
    best = {"policy": "static", "weights": np.asarray(mixture).tolist()}
    found["best mixture"] = run(together(models, best))
    section = {"policy": DEFAULT}
    for width in (2, 3):
        found[f"{DEFAULT}, width {width}"] = run(together(models, section, tree_width=width))
        for view in VIEWS:
            gov = governed(models, (view,), policy=static(), tree_width=width)
            found[f"{view}, width {width}"] = run(gov)
    found[f"{DEFAULT}, block"] = run(together(models, section, verification="block"))
    return found


def served(models: VlmModels) -> dict[str, Mode]:
    """Modes as a server runs them, which learn on from text to text.

    Single views, the default and TABED with the constant length; then single views and the
    governor with lengths of their own.
    """
    found = {
        SERVED.format(view): run(governed(models, (view,), policy=static())) for view in VIEWS
    }
    for rule in (DEFAULT, "tabed"):
        found[SERVED.format(rule)] = run(together(models, {"policy": rule}))
    default: dict[str, Any] = {"version": 1}
    for view in VIEWS:
        found[f"{view}, own lengths"] = run(governed(models, (view,), policy=default))
    section = {**default, "ensemble": {"policy": DEFAULT}}
    return {**found, "governor": run(governed(models, VIEWS, policy=section))}
