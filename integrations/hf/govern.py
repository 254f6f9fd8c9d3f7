"""The governor for transformers' `generate`."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerateDecoderOnlyOutput

from flyball.controller.cost_table import CostTable, load_costs
from flyball.controller.errors import HostError
from flyball.controller.governor import Governor
from flyball.controller.policy_file import PolicyFile, load_policy
from flyball.integrations.hf.arguments import with_stop_strings
from flyball.integrations.hf.call_checks import (
    check_call,
    check_drawn,
    check_many,
    check_seeds,
)
from flyball.integrations.hf.checks import (
    check_drafts,
    check_list,
    check_model,
    check_verification,
)
from flyball.integrations.hf.heads import prepare_head
from flyball.integrations.hf.hosts import as_views, host_info
from flyball.integrations.hf.images import prompt_images
from flyball.integrations.hf.prompts import Prompts
from flyball.integrations.hf.session import Session
from flyball.integrations.hf.stats import GenerateStats, RoundStats
from flyball.integrations.hf.views import DraftView
from flyball.kernels.head import AcceptanceHead
from flyball.kernels.verify import Verification

if TYPE_CHECKING:
    Draft: TypeAlias = PreTrainedModel | DraftView | str


def govern(
    model: PreTrainedModel,
    drafts: Sequence[Draft] = (),
    *,
    policy: str | Path | Mapping[str, Any] | PolicyFile | None = None,
    acceptance_head: str | Path | AcceptanceHead | None = None,
    verification: Verification = "standard",
    tree_width: int = 1,
    costs: str | Path | CostTable | None = None,
    on_round: Callable[[RoundStats], None] | None = None,
) -> GovernedGenerate:
    """Speculative decoding for `model` with draft lengths that follow content and load.

        with govern(model, [draft_model, "prompt_lookup"], policy="policy.yaml") as gov:
            gov.generate(**inputs, max_new_tokens=200)

    The output is the model's own: token for token under greedy decoding, in distribution under
    sampling. What the governor learned is kept from call to call.

    Args:
        model: decoder-only target.
        drafts: small models with the same tokenizer on the same device, or views of them (see
            `DraftView`), and "prompt_lookup" for proposals from the text itself. With several the
            governor picks one for each text and round, or, where the policy file has a section
            `ensemble`, lets them draft together, weighted; with none it decodes plainly.
        policy: policy file, its content as a mapping, or None for the default policy.
        acceptance_head: predicts from the draft model's hidden states what the target accepts, in
            place of the draft's largest probability; an `AcceptanceHead` or its file.
        verification: of sampled drafts: "standard", token by token, or "block", which keeps at
            least as many of them on average (see `kernels.verify`). Greedy drafts know one way.
        tree_width: candidates at each drafted position, all verified in one forward: 1 for a
            chain, 2 or 3 for a tree, whose further candidates take over where the first is
            rejected. Where logits processors look at the text, or texts have seeds, drafts are
            chains all the same.
        costs: cost table, or its file, to decide by instead of by measured seconds: the same
            prompts then meet the same decisions, on any machine.
        on_round: called after every round with what it did.

    Raises:
        HostError: the models cannot be governed; the message says why and what to do.
        PolicyFileError: the policy cannot be used; likewise.
        CostTableError: the cost table cannot be used; likewise.
    """
    check_list(drafts)
    file = load_policy(policy)
    host = host_info(as_views(drafts), ensemble=file.ensemble is not None)
    frozen = None if costs is None else load_costs(costs)
    governor = Governor(file, host, costs=frozen)
    return GovernedGenerate(
        model, drafts, governor, on_round, acceptance_head, verification, tree_width
    )


class GovernedGenerate:
    """What `govern` returns: `generate` of one model, governed.

    It also serves as `custom_generate` of the model's own `generate`. One call at a time uses a
    model; a second one from another thread is refused.

    Attributes:
        governor: what decides.
        session: the model, and what its calls have in common.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        drafts: Sequence[Draft],
        governor: Governor,
        on_round: Callable[[RoundStats], None] | None = None,
        acceptance_head: str | Path | AcceptanceHead | None = None,
        verification: Verification = "standard",
        tree_width: int = 1,
    ) -> None:
        check_model(model, "target")
        check_drafts(model, drafts)
        check_verification(verification, tree_width)
        views = as_views(drafts)
        head = prepare_head(acceptance_head, views)
        self.governor = governor
        self.session = Session(model, views, governor, head, verification, tree_width, on_round)

    @property
    def model(self) -> PreTrainedModel:
        """The governed target."""
        return self.session.model

    @property
    def max_draft_len(self) -> int:
        """Most tokens that are drafted at a time."""
        return self.governor.max_draft_len if self.session.drafts else 0

    @property
    def stats(self) -> GenerateStats:
        """Sums over all calls so far."""
        return self.session.stats

    def __enter__(self) -> GovernedGenerate:
        """Closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Write out what is kept and put hardware back; further calls are refused."""
        self.session.close()

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        draft_inputs: Mapping[str, Any] | None = None,
        **model_kwargs: Any,
    ) -> torch.Tensor | GenerateDecoderOnlyOutput:
        """Decode as `custom_generate`; transformers calls this with everything prepared.

        Args:
            model: must be the governed one.
            input_ids: (rows, prompt) token ids, padded on the left.
            logits_processor: applied at every verified and drafted position.
            stopping_criteria: asked for every prefix.
            generation_config: prepared configuration.
            draft_inputs: as for `generate`.
            **model_kwargs: attention mask, cache and the like.

        Returns:
            (rows, length) token ids, or the usual output class if the configuration asks for it.
        """
        prepared = (input_ids, logits_processor, stopping_criteria, generation_config)
        with self.session.exclusive():
            return self._decode(model, *prepared, draft_inputs=draft_inputs, **model_kwargs)

    def generate(
        self,
        inputs: torch.Tensor | None = None,
        *,
        streamer: BaseStreamer | None = None,
        stop_strings: str | Sequence[str] | None = None,
        tokenizer: Any = None,
        draft_inputs: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> torch.Tensor | GenerateDecoderOnlyOutput:
        """The model's `generate`, with the same arguments and the same output.

        Args:
            inputs: (rows, prompt) token ids, or as keyword `input_ids`.
            draft_inputs: for drafts that see images: "pixel_values", the target's by default, and
                "captions", for each row a list of token ids for each of its images, which stand in
                their places.
            streamer: gets the prompt, every accepted token, and its end, also after an error.
            stop_strings: texts end where one of these stands.
            tokenizer: needed for stop_strings.
            **settings: as for the model's `generate`.
        """
        try:
            settings = with_stop_strings(settings, stop_strings, tokenizer)
            pixels = settings.get("pixel_values")  # for drafts too, unless they get their own
            draft_inputs = {"pixel_values": pixels, **(draft_inputs or {})}
            decode = functools.partial(
                self._decode, token_streamer=streamer, draft_inputs=draft_inputs
            )
            with self.session.exclusive():
                result: torch.Tensor | GenerateDecoderOnlyOutput = self.session.model.generate(
                    inputs, custom_generate=decode, **settings
                )
            return result
        finally:
            if streamer is not None:
                streamer.end()

    def generate_many(
        self,
        prompts: Sequence[Sequence[int] | torch.Tensor],
        *,
        seeds: Sequence[int] | None = None,
        batch_size: int = 8,
        max_new_tokens: int | Sequence[int] | None = None,
        stop_strings: str | Sequence[str] | None = None,
        tokenizer: Any = None,
        **settings: Any,
    ) -> list[torch.Tensor]:
        """Generate for a queue of prompts: as soon as a text ends, the next one takes its place.

        Each text is what `generate` gives for its prompt alone. With seeds a sampled text is a
        function of model, prompt, seed and settings: neither drafts nor their lengths, nor what
        else is in the batch, nor which texts leave early, change a token, near ties in the
        logits' own rounding aside. Drafts are chains then, whatever the `tree_width`, and
        `verification` plays no part.

        Args:
            prompts: token ids of each; one may come several times.
            seeds: one for each prompt, from 0 to 2**64 - 1, with do_sample=True; without them
                tokens are drawn from torch's generator.
            batch_size: texts at a time.
            max_new_tokens: for all, or one for each prompt.
            stop_strings: texts end where one of these stands.
            tokenizer: needed for stop_strings.
            **settings: as for the model's `generate`.

        Returns:
            (length,) prompt and generated tokens of each text, in the order of the prompts.
        """
        settings = with_stop_strings(settings, stop_strings, tokenizer)
        limits = check_many(prompts, batch_size, max_new_tokens, settings)
        own_seeds = check_seeds(seeds, len(prompts))
        if len(prompts) == 0:
            return []

        def prepare(number: int) -> tuple[Prompts, GenerationConfig]:
            prepared, config = self.session.prepare(prompts[number], limits[number], settings)
            if own_seeds is not None:
                check_drawn(config)
                prepared = replace(prepared, seeds=np.array([own_seeds[number]], np.uint64))
            return prepared, config

        with self.session.exclusive():
            first, config = prepare(0)
            queue: deque[Callable[[], Prompts]] = deque([lambda: first])
            queue.extend(
                functools.partial(lambda n: prepare(n)[0], n) for n in range(1, len(prompts))
            )
            with torch.inference_mode():
                texts = self.session.assemble(
                    min(batch_size, len(prompts)), config, queue, first
                ).run()
        return [torch.from_numpy(text).to(self.session.model.device) for text in texts]

    def _decode(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        token_streamer: BaseStreamer | None = None,
        draft_inputs: Mapping[str, Any] | None = None,
        **model_kwargs: Any,
    ) -> torch.Tensor | GenerateDecoderOnlyOutput:
        check_call(self.session.model, model, input_ids, generation_config, model_kwargs)
        rows = len(input_ids)
        if token_streamer is not None:
            if rows > 1:
                raise HostError(f"expected one text with a streamer, but got {rows}; leave it out")
            token_streamer.put(input_ids.cpu())
        mask = model_kwargs.get("attention_mask")
        images = prompt_images(
            model,
            input_ids,
            model_kwargs,
            draft_inputs,
            generation_config.num_return_sequences or 1,
        )
        prompts = Prompts.prepared(
            input_ids, mask, logits_processor, stopping_criteria, generation_config, images
        )
        on_token = None if token_streamer is None else functools.partial(_put, token_streamer)
        with torch.inference_mode():
            queue: deque[Callable[[], Prompts]] = deque([lambda: prompts])
            decoding = self.session.assemble(
                rows,
                generation_config,
                queue,
                prompts,
                on_token,
                together=rows > 1 and not len(prompts.ending.eos),
            )
            texts = decoding.run()
        # Outside of inference mode, so that callers get ordinary tensors.
        length = max(len(text) for text in texts)
        pad = generation_config._pad_token_tensor
        sequences = np.full((rows, length), 0 if pad is None else int(pad))
        for row, text in enumerate(texts):
            sequences[row, : len(text)] = text
        ids = torch.from_numpy(sequences).to(input_ids.device)
        if not generation_config.return_dict_in_generate:
            return ids
        new = length - input_ids.shape[1]
        return GenerateDecoderOnlyOutput(
            sequences=ids,
            scores=decoding.scores.result(new) if decoding.scores else None,
            logits=decoding.logits.result(new) if decoding.logits else None,
        )


def _put(streamer: BaseStreamer, token: int) -> None:
    with torch.inference_mode(False):
        streamer.put(torch.tensor([token]))
