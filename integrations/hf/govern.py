"""The governor as a `custom_generate` of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)
from transformers.generation.utils import GenerateDecoderOnlyOutput

from flyball.controller.governor import Governor, HostInfo
from flyball.controller.policy_file import PolicyFile, load_policy
from flyball.integrations.hf.cached_model import CachedModel
from flyball.integrations.hf.checks import check_call, check_model, check_pair
from flyball.integrations.hf.draft import ModelDraft
from flyball.integrations.hf.loop import Decoding, RoundStats
from flyball.integrations.hf.processors import Processors
from flyball.integrations.hf.text import Texts

HOST = HostInfo(engine_id="transformers")


def govern(
    model: PreTrainedModel,
    *,
    draft_model: PreTrainedModel,
    policy: str | Path | Mapping[str, Any] | PolicyFile | None = None,
    on_round: Callable[[RoundStats], None] | None = None,
) -> GovernedGenerate:
    """Speculative decoding for `model` with draft lengths that follow content and load.

        gov = govern(model, draft_model=draft, policy="policy.yaml")
        model.generate(**inputs, custom_generate=gov, max_new_tokens=200)

    The output is the model's own: token for token under greedy decoding, in distribution under
    sampling. What the governor learned is kept from call to call.

    Args:
        model: decoder-only target.
        draft_model: small model with the same tokenizer, on the same device.
        policy: policy file, its content as a mapping, or None for the default policy.
        on_round: called after every round with what it did.

    Raises:
        HostError: the models cannot be governed; the message says why and what to do.
        PolicyFileError: the policy cannot be used; likewise.
    """
    return GovernedGenerate(model, draft_model, load_policy(policy), HOST, on_round)


class GovernedGenerate:
    """What `govern` returns; pass it as `custom_generate` to `generate` of the same model."""

    def __init__(
        self,
        model: PreTrainedModel,
        draft_model: PreTrainedModel,
        policy: PolicyFile,
        host: HostInfo,
        on_round: Callable[[RoundStats], None] | None = None,
    ) -> None:
        check_model(model, "target")
        check_model(draft_model, "draft")
        check_pair(model, draft_model)
        self._model = model
        self._draft_model = draft_model
        self._on_round = on_round
        self.governor = Governor(policy, host)

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> torch.Tensor | GenerateDecoderOnlyOutput:
        """Decode; transformers calls this with everything prepared.

        Args:
            model: must be the governed one.
            input_ids: (rows, prompt) token ids, padded on the left.
            logits_processor: applied at every verified and drafted position.
            stopping_criteria: asked for every prefix.
            generation_config: prepared configuration.
            **model_kwargs: attention mask, cache and the like.

        Returns:
            (rows, length) token ids, or the usual output class if the configuration asks for it.
        """
        check_call(self._model, model, input_ids, generation_config, model_kwargs)
        rows = len(input_ids)
        texts = Texts(
            input_ids, model_kwargs.get("attention_mask"), stopping_criteria, generation_config
        )
        processors = Processors(logits_processor)
        target = CachedModel(model, rows, model_kwargs.get("past_key_values"))
        draft = ModelDraft(
            CachedModel(self._draft_model, rows),
            texts,
            processors,
            self.governor,
            bool(generation_config.do_sample),
        )
        decoding = Decoding(
            target, draft, self.governor, texts, processors, generation_config, self._on_round
        )
        decoding.run()
        sequences = texts.sequences()
        if not generation_config.return_dict_in_generate:
            return sequences
        length = sequences.shape[1] - texts.prompt_len
        return GenerateDecoderOnlyOutput(
            sequences=sequences,
            scores=decoding.scores.result(length) if decoding.scores else None,
            logits=decoding.logits.result(length) if decoding.logits else None,
        )
