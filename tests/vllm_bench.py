"""A governed engine beside a plain one: the same texts, or the test fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm_engines import Engine, Settings

TIE = 1e-4  # two logits that lie closer may change places with the shape of a float32 batch

log = logging.getLogger(__name__)


@dataclass
class Bench:
    """A governed engine and a plain one that differ in speculation alone."""

    governed: Engine
    plain: Engine
    target: Callable[[], Any]  # in float64
    expected: dict[str, list[list[int]]] = field(default_factory=dict)

    def compare(self, prompts: Sequence[list[int]], settings: Settings) -> list[list[int]]:
        """Texts of the governed engine, which have to be the plain one's."""
        key = repr((prompts, settings))
        if key not in self.expected:
            self.expected[key] = self.plain.texts(prompts, settings)
        texts = self.governed.texts(prompts, settings)
        self.judge(prompts, texts, self.expected[key])
        return texts

    def judge(
        self,
        prompts: Sequence[list[int]],
        texts: Sequence[list[int]],
        expected: Sequence[list[int]],
    ) -> None:
        """Texts are the expected ones up to near ties.

        Ties are looked for in the logits as they are; no processor's word is taken for one.
        """
        for number, row in enumerate(zip(prompts, texts, expected, strict=True)):
            prompt, text, should = row
            if text == should:
                continue
            pairs = zip(text, should, strict=False)
            place = next((i for i, (came, due) in enumerate(pairs) if came != due), None)
            assert place is not None, f"text {number}: {len(text)} tokens, not {len(should)}"
            with torch.no_grad():
                logits = self.target()(torch.tensor([prompt + should[:place]])).logits[0, -1]
            gap = float(logits.max() - logits[[text[place], should[place]]].min())
            assert gap < TIE, f"text {number}, token {place}: {text[place]}, not {should[place]}"
            log.warning("near tie: text %d, token %d, gap %.1e", number, place, gap)
