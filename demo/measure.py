"""Measure the demo models: acceptance per domain and milliseconds per step.

python -m flyball.demo.measure
"""

from __future__ import annotations

import time

import torch

from flyball.demo.loader import DemoModels, load_demo

NEW_TOKENS = 200


@torch.no_grad()
def greedy_matches(models: DemoModels, domain: str, num_prompts: int) -> torch.Tensor:
    """Whether the draft's argmax equals the target's, along the target's own greedy text.

    Returns:
        (num_prompts, NEW_TOKENS) booleans; the mean is the acceptance per token.
    """
    inputs = models.tokenizer(
        models.prompts[domain][:num_prompts],
        return_tensors="pt",
        padding=True,
        return_token_type_ids=False,
    )
    text = models.target.generate(
        **inputs, do_sample=False, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS
    )
    mask = torch.ones_like(text)
    mask[:, : inputs["attention_mask"].shape[1]] = inputs["attention_mask"]
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = models.draft(input_ids=text, attention_mask=mask, position_ids=positions).logits
    proposals = logits[:, :-1].argmax(dim=-1)[:, -NEW_TOKENS:]
    matches: torch.Tensor = proposals == text[:, -NEW_TOKENS:]
    return matches


def mean_run(matches: torch.Tensor) -> float:
    """Mean number of matches before a miss."""
    return float(matches.sum() / (~matches).sum().clamp(min=1))


@torch.no_grad()
def step_ms(model: torch.nn.Module, width: int, context: int = 200, repeats: int = 40) -> float:
    """Median milliseconds of one forward over `width` new tokens at batch size 1."""
    ids = torch.randint(0, 512, (1, context + width))
    cache = model(input_ids=ids[:, :context], use_cache=True).past_key_values
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        model(input_ids=ids[:, context:], past_key_values=cache, use_cache=True)
        times.append(time.perf_counter() - start)
        cache.crop(-width)
    return sorted(times)[repeats // 2] * 1e3


def main() -> None:
    """Print both tables."""
    models = load_demo()
    print("domain   accepted per token   mean run")
    for domain in models.prompts:
        matches = greedy_matches(models, domain, len(models.prompts[domain]))
        print(f"{domain:8} {matches.float().mean():18.3f} {mean_run(matches):10.1f}")
    print("\nms a step    1 token   5 tokens   9 tokens  17 tokens")
    for name, model in (("target", models.target), ("draft", models.draft)):
        print(f"{name:9}" + "".join(f"{step_ms(model, w):11.2f}" for w in (1, 5, 9, 17)))


if __name__ == "__main__":
    main()
