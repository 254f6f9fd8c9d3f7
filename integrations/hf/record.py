"""Recording: a target's texts for a list of prompts, and what drafts would have done on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from flyball.controller.errors import HostError
from flyball.controller.match_text import MatchText
from flyball.controller.match_trace import VERSION, write_matches
from flyball.integrations.hf.exact import FinishedText, RecordSettings, record_matches
from flyball.integrations.hf.exact_lookup import record_lookups
from flyball.integrations.hf.govern import GovernedGenerate

_CHUNK = 32  # prompts of a segment


@dataclass(frozen=True)
class Prompt:
    """A prompt to record.

    Attributes:
        tokens: ids, at least one.
        domain: label for reports.
    """

    tokens: Sequence[int]
    domain: str = ""


@dataclass(frozen=True)
class Recipe:
    """How texts are made, and what of them is recorded.

    Attributes:
        target: name of the target.
        drafts: draft models by name.
        max_new_tokens: of each text, at most.
        batch_size: texts at a time.
        num_ahead: positions ahead for which a draft that runs on is recorded.
        sampling: temperature and top_p where texts are sampled; None for greedy ones.
        seed: of the sampling.
    """

    target: str
    drafts: Mapping[str, PreTrainedModel]
    max_new_tokens: int
    batch_size: int = 8
    num_ahead: int = 16
    sampling: Mapping[str, float] | None = None
    seed: int = 0

    @property
    def said(self) -> list[Any]:
        """All of it but the models, for JSON."""
        own = (self.target, sorted(self.drafts), self.max_new_tokens, self.num_ahead, self.seed)
        return [*own, None if self.sampling is None else dict(self.sampling)]

    def settings(self) -> dict[str, Any]:
        """For `generate`."""
        common = {"max_new_tokens": self.max_new_tokens, "do_sample": self.sampling is not None}
        # transformers would cut off all but 50 tokens unasked.
        return common if self.sampling is None else {**common, "top_k": 0, **self.sampling}

    def processors(self) -> LogitsProcessorList:
        """That shape the scores of sampled texts, in the order of `generate`."""
        sampling = self.sampling or {}
        found = LogitsProcessorList()
        if sampling.get("temperature", 1.0) != 1.0:
            found.append(TemperatureLogitsWarper(sampling["temperature"]))
        if sampling.get("top_p", 1.0) < 1.0:
            found.append(TopPLogitsWarper(sampling["top_p"]))
        return found


def _fingerprint(model: PreTrainedModel) -> list[Any]:
    """The same for the same weights, nearly surely: a few of each, and their names and shapes."""
    return [
        (name, list(weight.shape), weight.flatten()[:4].tolist())
        for name, weight in model.state_dict().items()
    ]


def _file_name(number: int, prompts: Sequence[Prompt], key: list[Any]) -> str:
    """Of a segment: the same for the same prompts, models and settings alone."""
    said = [key, [(list(prompt.tokens), prompt.domain) for prompt in prompts]]
    digest = hashlib.blake2s(json.dumps(said).encode(), digest_size=6).hexdigest()
    return f"{number:06}-{digest}.parquet"


@dataclass
class Recorded:
    """Sums over a recording.

    Attributes:
        num_prompts: recorded so far.
        num_found: of them those that an earlier recording had written.
        num_tokens: generated in this one.
    """

    num_prompts: int = 0
    num_found: int = 0
    num_tokens: int = 0


def record_exactly(
    gov: GovernedGenerate, prompts: Sequence[Prompt], recipe: Recipe, folder: Path
) -> Iterator[Recorded]:
    """Write what every draft, and prompt lookup, would have done on the texts.

    Segment by segment. One that is there already, from the same prompts and recipe, is not made
    again: after a crash the same call goes on where it was.

    Args:
        gov: the governed target; it generates the texts.
        prompts: to be continued.
        recipe: how.
        folder: of the match trace.

    Yields:
        The sums, after every segment.

    Raises:
        HostError: the folder holds segments of something else.
    """
    done = Recorded()
    models = [gov.model, *recipe.drafts.values()]
    key = [VERSION, recipe.said, *map(_fingerprint, models)]
    chunks = [prompts[start : start + _CHUNK] for start in range(0, len(prompts), _CHUNK)]
    paths = [folder / _file_name(number, chunk, key) for number, chunk in enumerate(chunks)]
    others = {path.name for path in folder.glob("*.parquet")} - {path.name for path in paths}
    if others:
        raise HostError(
            f"{folder}: expected segments of these prompts, models and settings alone, but "
            f"{len(others)} are of others, such as {min(others)}; give another folder"
        )
    for number, (chunk, path) in enumerate(zip(chunks, paths, strict=True)):
        done.num_prompts += len(chunk)
        if path.exists():
            done.num_found += len(chunk)
        else:
            texts = _generate(gov, chunk, recipe, number)
            write_matches(_read(gov.model, texts, recipe), path)
            done.num_tokens += sum(len(text.generated) for text in texts)
        yield done


def record_rounds(
    gov: GovernedGenerate, prompts: Sequence[Prompt], recipe: Recipe
) -> Iterator[Recorded]:
    """Decode under a policy that records its rounds.

    Yields:
        The sums, after every so many prompts.
    """
    done = Recorded()
    for start in range(0, len(prompts), _CHUNK):
        chunk = prompts[start : start + _CHUNK]
        texts = _generate(gov, chunk, recipe, start // _CHUNK)
        done.num_prompts += len(chunk)
        done.num_tokens += sum(len(text.generated) for text in texts)
        yield done


def _generate(
    gov: GovernedGenerate, prompts: Sequence[Prompt], recipe: Recipe, number: int
) -> list[FinishedText]:
    # A seed a segment, so that texts do not depend on which segments were there before.
    torch.manual_seed(recipe.seed + number)
    texts = gov.generate_many(
        [prompt.tokens for prompt in prompts],
        batch_size=recipe.batch_size,
        **recipe.settings(),
    )
    return [
        FinishedText(text.cpu().numpy(), len(prompt.tokens), prompt.domain, recipe.max_new_tokens)
        for text, prompt in zip(texts, prompts, strict=True)
    ]


def _read(
    target: PreTrainedModel, texts: Sequence[FinishedText], recipe: Recipe
) -> list[MatchText]:
    how = RecordSettings(
        target=recipe.target,
        num_ahead=recipe.num_ahead,
        sampled=recipe.sampling is not None,
        processors=recipe.processors(),
    )
    found: list[MatchText] = []
    for name, draft in recipe.drafts.items():
        found += record_matches(target, draft, texts, replace(how, draft=name))
    return found + record_lookups(texts, how)
