"""The loop of one call, with its buffers, caches and drafts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import GenerationConfig, PreTrainedModel

from flyball.controller.contract import PROMPT_LOOKUP
from flyball.controller.governor import Governor
from flyball.controller.throttle import Throttle
from flyball.integrations.hf.cached_model import CachedModel
from flyball.integrations.hf.draft import ModelDraft
from flyball.integrations.hf.drafts import Drafts
from flyball.integrations.hf.loop import Decoding
from flyball.integrations.hf.processors import RowProcessors
from flyball.integrations.hf.prompts import Prompts
from flyball.integrations.hf.seeds import SeededDraws
from flyball.integrations.hf.stats import GenerateStats, RoundStats
from flyball.integrations.hf.text import Texts
from flyball.integrations.hf.verdict import Judge
from flyball.integrations.hf.views import DraftView
from flyball.integrations.hf.watch import Queue, Watch
from flyball.integrations.lookup import PromptLookup
from flyball.kernels.head import AcceptanceHead
from flyball.kernels.verify import Verification

_ROOM = 256  # new tokens that a cache has room for at first


@dataclass(frozen=True)
class Call:
    """What a call asks for.

    Attributes:
        num_rows: most texts at a time.
        config: prepared generation config.
        queue: makes the prompts to come.
        first: the first of them.
        together: all rows go on until the last has ended.
        verification: how sampled drafts are verified.
        tree_width: candidates at each drafted position.
        watch: sees the rows as they grow; None without.
        max_tokens: of keys and values, for each model and lane; None without a bound.
        throttle: sets batch, draft length and hardware meanwhile; None without.
    """

    num_rows: int
    config: GenerationConfig
    queue: Queue
    first: Prompts
    together: bool
    verification: Verification
    tree_width: int
    watch: Watch | None = None
    max_tokens: int | None = None
    throttle: Throttle | None = None


def assemble(
    model: PreTrainedModel,
    drafts: Sequence[DraftView | str],
    governor: Governor,
    call: Call,
    stats: GenerateStats,
    on_round: Callable[[RoundStats], None] | None,
    on_token: Callable[[int], None] | None,
    head: AcceptanceHead | None = None,
) -> Decoding:
    """Everything that lives as long as one call.

    Args:
        model: the target.
        drafts: views of models, and "prompt_lookup".
        governor: decides.
        call: what is asked for.
        stats: sums to add to.
        on_round: called after every round.
        on_token: called with every token of the first row.
        head: predicts what is accepted of draft models; None without.
    """
    # Room for the first texts and the widest block, but not for a limit set far too high.
    width = min(call.first.ending.max_length, call.first.tokens.shape[1] + _ROOM)
    capacity = width + governor.max_draft_len + 1
    texts = Texts(call.num_rows, model.device, together=call.together)
    processors = RowProcessors()
    do_sample = bool(call.config.do_sample)
    draws = None if call.first.seeds is None else SeededDraws(texts)
    lookup = None
    if PROMPT_LOOKUP in drafts:
        number = list(drafts).index(PROMPT_LOOKUP)
        lookup = PromptLookup(number, call.num_rows, texts, governor.max_draft_len)
    models = []
    for numbers in by_model(drafts):
        views = tuple(view for n in numbers if isinstance(view := drafts[n], DraftView))
        keeps = head is not None
        cached = CachedModel(
            views[0].model, call.num_rows, capacity, keeps, len(views), call.max_tokens
        )
        models.append(
            ModelDraft(views, numbers, cached, texts, processors, governor, do_sample, head, draws)
        )
    return Decoding(
        CachedModel(model, call.num_rows, capacity, max_tokens=call.max_tokens),
        texts,
        processors,
        Drafts(models, lookup, texts, processors, governor, do_sample, call.tree_width, draws),
        governor,
        call.queue,
        call.config,
        Judge(texts, processors, do_sample, call.verification, draws),
        stats,
        on_round,
        on_token,
        call.watch,
        call.throttle,
    )


def by_model(drafts: Sequence[DraftView | str]) -> list[tuple[int, ...]]:
    """Numbers of the drafts that are views of the same model, for each model."""
    numbers: dict[int, list[int]] = {}
    for number, draft in enumerate(drafts):
        if isinstance(draft, DraftView):
            numbers.setdefault(id(draft.model), []).append(number)
    return [tuple(group) for group in numbers.values()]
