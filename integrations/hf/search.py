"""Searches: many candidates for each prompt, of which the unpromising are stopped early."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from flyball.integrations.hf.arguments import with_stop_strings
from flyball.integrations.hf.call_checks import check_many, check_seeds
from flyball.integrations.hf.govern import GovernedGenerate
from flyball.integrations.hf.heat import Answer, Heat
from flyball.integrations.hf.heats import Heats
from flyball.integrations.hf.prompts import Prompts
from flyball.integrations.hf.question import Question
from flyball.integrations.hf.scorers import Scorer
from flyball.integrations.hf.scoring import GuardedScorer
from flyball.integrations.hf.search_beam import Beams, beam_search
from flyball.integrations.hf.search_best import best_of_n
from flyball.integrations.hf.search_checks import check_sampled, check_search
from flyball.integrations.hf.search_result import SearchResult

Method: TypeAlias = Literal["best_of_n", "self_consistency", "beam"]


def search(
    gov: GovernedGenerate,
    prompts: Sequence[Sequence[int] | torch.Tensor],
    *,
    method: Method = "best_of_n",
    num_candidates: int = 16,
    scorer: Scorer | None = None,
    answer: Answer | None = None,
    width: int = 4,
    step_token_id: int | None = None,
    max_step_tokens: int | None = None,
    max_steps: int = 20,
    seeds: Sequence[int] | None = None,
    batch_size: int = 16,
    memory_tokens: int | None = None,
    max_new_tokens: int | Sequence[int] | None = None,
    stop_strings: str | Sequence[str] | None = None,
    tokenizer: Any = None,
    **settings: Any,
) -> list[SearchResult]:
    """Search for the best answer to each prompt, under the policy's early rejection.

        with govern(model, drafts, policy="policy.yaml") as gov:
            results = search(gov, prompts, scorer=scorer, do_sample=True, max_new_tokens=300)

    Candidates are rows of one batch, drafted for as in `generate_many`, prompts are read once, and
    whoever the policy stops leaves at once. A candidate's tokens are a function of model, prompt,
    its seed and settings: rejection, batch size and drafts change which candidates finish, never
    the tokens of those that do, near ties in the logits' own rounding aside.

    - "best_of_n": the highest final score wins.
    - "self_consistency": the most frequent answer wins.
    - "beam": `num_candidates` expansions in every step, of which the best num_candidates / width
      survive and are expanded again, each `width` times. The policy's checkpoints count tokens
      within a step.

    Args:
        gov: what `govern` returned for the model, with a section `rejection` in its policy file to
            stop candidates; without it all run to completion.
        prompts: token ids of each.
        method: of the search.
        num_candidates: for each prompt.
        scorer: of partial and of finished candidates. What it cannot score is not judged.
        answer: what a candidate's generated tokens (length,) answer; None where nothing.
        width: expansions of each beam.
        step_token_id: a step ends with this token, for beams.
        max_step_tokens: a step ends after as many tokens at the latest; 256 by default where
            `step_token_id` is given.
        max_steps: of a beam.
        seeds: one for each prompt, from 0 to 2**64 - 1; drawn from torch's generator by default.
        batch_size: candidates at a time.
        memory_tokens: tokens of keys and values for candidates, see `Heats`; by default
            `batch_size` is the only bound.
        max_new_tokens: for all, or one for each prompt.
        stop_strings: candidates end where one of these stands.
        tokenizer: needed for stop_strings.
        **settings: as for the model's `generate`, with do_sample=True.

    Returns:
        One result for each prompt, in their order.

    Raises:
        HostError: the search cannot be done as asked; the message says why and what to do.
    """
    settings = with_stop_strings(settings, stop_strings, tokenizer)
    limits = check_many(prompts, batch_size, max_new_tokens, settings)
    own_seeds = check_seeds(seeds, len(prompts))
    step_tokens = 256 if max_step_tokens is None else max_step_tokens
    beams = Beams(num_candidates, width, step_token_id, step_tokens, max_steps)
    check_search(method, scorer, answer, beams, max_step_tokens, memory_tokens)
    if len(prompts) == 0:
        return []
    if own_seeds is None:
        own_seeds = torch.randint(2**63 - 1, (len(prompts),)).tolist()
    first, config = gov.session.prepare(prompts[0], limits[0], settings)
    check_sampled(config)
    next_number = itertools.count().__next__

    def question(number: int) -> Generator[Heat, None, SearchResult]:
        def make() -> Prompts:
            return gov.session.prepare(prompts[number], limits[number], settings)[0]

        asked = Question(make, own_seeds[number], next_number)
        if method == "beam":
            return beam_search(asked, beams)
        return best_of_n(asked, num_candidates, answer)

    heats = Heats(
        gov.governor.contests,
        None if scorer is None else GuardedScorer(scorer),
        map(question, range(len(prompts))),
        batch_size,
        memory_tokens,
        gov.max_draft_len,
    )
    # The loop is made for texts with seeds.
    seeded = replace(first, seeds=np.zeros(1, np.uint64))
    with gov.session.exclusive():
        try:
            with torch.inference_mode():
                gov.session.assemble(
                    batch_size, config, heats, seeded, watch=heats, max_tokens=memory_tokens
                ).run()
        finally:
            heats.close()
    return [heats.results[number] for number in range(len(prompts))]
