"""The process reward model: layers on top of the judge that tell whether a text is right so far.

The judge's last state tells which token it expects, so what is to be learned is to compare that
with the token written, and to remember. Both are learned by two layers on top while the judge's
own stay as they are, the comparison first: from results of first steps, where every token may be
the error. With whole texts from the start the loss stays at what the problem alone tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from flyball.demo.arithmetic import MIXES, Problem, draw_problems, right_characters
from flyball.demo.reasoner_models import (
    IGNORED,
    PAD_ID,
    PROCESS_REWARD,
    SEED,
    encode,
    make_config,
    make_tokenizer,
    padded,
)
from flyball.demo.reasoner_samples import write
from flyball.demo.train import fit

TEMPERATURE = 0.8
BATCH_TOKENS = 4_000
LEARNING_RATE = 2e-3
RESULT_LEN = 2  # tokens of a step's result
RESULT_PROBLEMS, WHOLE_PROBLEMS = 100_000, 6_000  # of each mix
RESULT_PART = 0.65  # of the steps, in which texts are results of first steps

Pair = tuple[Problem, str]


def make_process_reward(judge: LlamaForCausalLM) -> LlamaForSequenceClassification:
    """The judge with new layers on top; only these are to be trained.

    New layers begin with the gain that keeps a state's norm, and their attention's output with
    that of the states they are added to (about 8): beginning at 0.02, they learn half as fast.
    """
    torch.manual_seed(SEED)
    config = make_config(PROCESS_REWARD, num_labels=1, attn_implementation="eager")
    model = LlamaForSequenceClassification(config)
    model.model.load_state_dict(judge.model.state_dict(), strict=False)
    num_kept = len(judge.model.layers)
    model.model.embed_tokens.requires_grad_(False)
    model.model.layers[:num_kept].requires_grad_(False)
    gain = config.hidden_size**-0.5 / config.initializer_range
    with torch.no_grad():
        ids = torch.tensor([encode("37*8+25-09+64=")])
        states = model.model(input_ids=ids, output_hidden_states=True).hidden_states[num_kept]
        for layer in model.model.layers[num_kept:]:
            for weight in (p for p in layer.parameters() if p.ndim == 2):
                weight *= gain
            layer.self_attn.o_proj.weight *= states.square().mean().sqrt()
    return model


def written_pairs(solver: Any, num_problems: int, max_new_tokens: int | None) -> list[Pair]:
    """Texts of the solver, or their first tokens, on problems of every mix."""
    rng = np.random.default_rng(SEED + 1 + (max_new_tokens or 0))
    pairs: list[Pair] = []
    for mix in MIXES.values():
        problems = draw_problems(rng, mix, num_problems)
        samples = write(solver, make_tokenizer(), problems, TEMPERATURE, SEED, max_new_tokens)
        pairs += zip(samples.problems, samples.texts, strict=True)
    return pairs


def labelled_row(problem: Problem, text: str) -> tuple[list[int], list[float]]:
    """Ids of a text with its prompt, and for each written token whether all is right so far."""
    num_right = right_characters(problem, text)
    labels = [1.0] * num_right + [0.0] * (len(text) - num_right)
    prompt = encode(problem.text)
    return prompt + encode(text), [float(IGNORED)] * len(prompt) + labels


def batches(
    results: Sequence[Pair], texts: Sequence[Pair], num_steps: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and labels: results of first steps, then beginnings of texts that grow to the whole."""
    rng = np.random.default_rng(SEED)
    for step in range(num_steps):
        later = (step / num_steps - RESULT_PART) / (1.0 - RESULT_PART)
        pairs = results if later < 0.0 else texts
        cut = RESULT_LEN if later < 0.0 else RESULT_LEN + int(180 * later)
        picks = rng.integers(len(pairs), size=BATCH_TOKENS // (20 + min(cut, 90)))
        rows = [labelled_row(pairs[i][0], pairs[i][1][:cut]) for i in picks.tolist()]
        yield padded([ids for ids, _ in rows], PAD_ID), padded([y for _, y in rows], IGNORED)


def train_process_reward(
    judge: LlamaForCausalLM, solver: Any, num_steps: int
) -> LlamaForSequenceClassification:
    """Cross-entropy of "right so far" at every token that the solver wrote.

    Args:
        judge: whose layers it begins with.
        solver: whose texts it is to judge.
        num_steps: of the optimiser.
    """
    model = make_process_reward(judge)
    print(f"process reward: {model.num_parameters():,} parameters", flush=True)
    results = written_pairs(solver, RESULT_PROBLEMS, RESULT_LEN)
    texts = written_pairs(solver, WHOLE_PROBLEMS, None)
    print(f"{len(results)} results and {len(texts)} texts of the solver", flush=True)
    rows = batches(results, texts, num_steps)

    def loss_of(model: LlamaForSequenceClassification) -> torch.Tensor:
        ids, labels = next(rows)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = model.model(input_ids=ids, use_cache=False).last_hidden_state
            logits = model.score(states)[..., 0].float()
        written = labels != IGNORED
        return F.binary_cross_entropy_with_logits(logits[written], labels[written])

    fit(model, loss_of, num_steps, LEARNING_RATE, "process reward")
    return model
