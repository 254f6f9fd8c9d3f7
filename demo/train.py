"""Train the demo models: a 12-layer target, and a one-layer draft distilled from it.

    python -m flyball.demo.train all       # about an hour and a half on two CPU cores
    python -m flyball.demo.train target    # or by stage: tokenizer, target, draft, prompts

The target is a Llama of 3.5 million parameters over a byte-level BPE of 512 tokens. The draft is
distilled by KL(target || draft) on the training text of code and tables, then on the target's own
and on its own generations (DistillSpec, ICLR 2024, section 3). Prose is left out of the
distillation on purpose: a served draft meets text that its makers did not think of, and mixed
traffic is where an adaptive draft length pays.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from flyball.demo import corpus

SEED = 20261121
VOCAB_SIZE = 512
SEQ_LEN = 384
BATCH_SIZE = 13  # rows a step of the target's training
EOS = "<|end|>"
MIXTURE = {"code": 0.55, "prose": 0.25, "tables": 0.20}
DISTILLED = ("code", "tables")
PROMPTS_PER_DOMAIN = 24
PROMPT_LENS = (48, 64, 96)  # cycled, so that batches of prompts are ragged

TARGET = {
    "hidden_size": 160,
    "intermediate_size": 400,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
}
DRAFT = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}


def make_model(shape: dict[str, int], eos_token_id: int) -> LlamaForCausalLM:
    """A Llama with tied embeddings, initialised from the fixed seed."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=eos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=eos_token_id,
        **shape,
    )
    return LlamaForCausalLM(config)


def train_tokenizer(out: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE over equal shares of the three domains."""
    share = [text[:20_000] for domain in corpus.DOMAINS for text in corpus.split(domain)[0][:80]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(share, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        bos_token=EOS,
        pad_token=EOS,
        padding_side="left",
    )
    fast.save_pretrained(out)
    return fast


def token_streams(tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    """One long tensor of training tokens per domain, documents separated by the end token."""
    streams = {}
    for domain in corpus.DOMAINS:
        documents = corpus.split(domain)[0]
        order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(SEED))
        encoded = tokenizer([documents[i] for i in order.tolist()])["input_ids"]
        flat = [token for ids in encoded for token in [*ids, tokenizer.eos_token_id]]
        streams[domain] = torch.tensor(flat)
    return streams


def sample_batch(
    streams: dict[str, torch.Tensor],
    mixture: dict[str, float],
    batch_size: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Random windows of SEQ_LEN + 1 tokens, domains drawn from the mixture."""  # (batch, seq + 1)
    domains = list(mixture)
    weights = torch.tensor([mixture[domain] for domain in domains])
    picks = torch.multinomial(weights, batch_size, replacement=True, generator=generator)
    rows = []
    for pick in picks.tolist():
        stream = streams[domains[pick]]
        start = int(torch.randint(len(stream) - SEQ_LEN - 1, (1,), generator=generator))
        rows.append(stream[start : start + SEQ_LEN + 1])
    return torch.stack(rows)


def lr_scale(step: int, num_steps: int, warmup: int = 60) -> float:
    """Linear warm-up, then linear decay to zero."""
    return min(1.0, (step + 1) / warmup) * (1.0 - step / num_steps)


def make_optimizer(model: torch.nn.Module, lr: float) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices alone."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": 0.05},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))


def fit(
    model: LlamaForCausalLM,
    loss_of: Callable[[LlamaForCausalLM], torch.Tensor],
    num_steps: int,
    lr: float,
    label: str,
    stop_after: int | None = None,
) -> None:
    """Run the optimiser on a schedule of num_steps, or its beginning, and print the loss."""
    optimizer = make_optimizer(model, lr)
    start, running = time.monotonic(), None
    for step in range(num_steps if stop_after is None else stop_after):
        for group in optimizer.param_groups:
            group["lr"] = lr * lr_scale(step, num_steps)
        loss = loss_of(model)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if step % 25 == 0:
            elapsed_min = (time.monotonic() - start) / 60
            print(
                f"{label} step {step}/{num_steps} loss {running:.3f} {elapsed_min:.1f} min",
                flush=True,
            )


def train_target(out: Path, num_steps: int) -> None:
    """Next-token training of the target on all three domains."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "target")
    streams = token_streams(tokenizer)
    print({domain: len(stream) for domain, stream in streams.items()})
    model = make_model(TARGET, tokenizer.eos_token_id)
    print(f"target: {sum(p.numel() for p in model.parameters()):,} parameters")
    generator = torch.Generator().manual_seed(SEED)

    def loss_of(model: LlamaForCausalLM) -> torch.Tensor:
        ids = sample_batch(streams, MIXTURE, BATCH_SIZE, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    fit(model, loss_of, num_steps, 3e-3, "target")
    save(model, out / "target")


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Weights in bfloat16, in files of at most 4 MB."""
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="4MB")


def load(folder: Path) -> LlamaForCausalLM:
    """The shipped weights, as every user loads them."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def generations(
    model: LlamaForCausalLM,
    streams: dict[str, torch.Tensor],
    num_rows: int,
    generator: torch.Generator,
    do_sample: bool,
) -> torch.Tensor:
    """Continuations of training prompts of the distilled domains."""  # (rows, SEQ_LEN + 1)
    mixture = {domain: 1.0 for domain in DISTILLED}
    prompts = sample_batch(streams, mixture, num_rows, generator)[:, :96]
    rows: torch.Tensor = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=do_sample,
        max_new_tokens=SEQ_LEN + 1 - 96,
        min_new_tokens=SEQ_LEN + 1 - 96,
        **({"top_k": 0} if do_sample else {}),
    )
    return rows


def distil_draft(out: Path, num_steps: int) -> None:
    """KL(target || draft) on text, on the target's generations and on the draft's own."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "target")
    streams = {d: s for d, s in token_streams(tokenizer).items() if d in DISTILLED}
    target = load(out / "target")
    draft = make_model(DRAFT, tokenizer.eos_token_id)
    print(f"draft: {sum(p.numel() for p in draft.parameters()):,} parameters")
    generator = torch.Generator().manual_seed(SEED + 1)
    torch.manual_seed(SEED + 1)
    greedy = generations(target, streams, 160, generator, do_sample=False)
    sampled = generations(target, streams, 160, generator, do_sample=True)
    print("target generations ready", flush=True)
    text_mixture = {domain: MIXTURE[domain] for domain in DISTILLED}
    own, step = sampled, 0

    def rows_of(source: torch.Tensor, count: int) -> torch.Tensor:
        return source[torch.randint(len(source), (count,), generator=generator)]

    def loss_of(model: LlamaForCausalLM) -> torch.Tensor:
        nonlocal own, step
        step += 1
        if step % (num_steps // 4) == 0:
            own = generations(model.eval(), streams, 96, generator, do_sample=True)
            model.train()
        ids = torch.cat(
            [
                sample_batch(streams, text_mixture, 4, generator),
                rows_of(greedy, 4),
                rows_of(sampled, 2),
                rows_of(own, 2),
            ]
        )[:, :-1]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                teacher = target(input_ids=ids, use_cache=False).logits
            student = model(input_ids=ids, use_cache=False).logits
        log_p, log_q = (F.log_softmax(x.float(), -1).flatten(0, 1) for x in (teacher, student))
        return F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")

    fit(draft, loss_of, num_steps, 4e-3, "draft")
    save(draft, out / "draft")
    tokenizer.save_pretrained(out / "draft")


def write_prompts(out: Path) -> None:
    """Held-out prompts per domain, as text; lengths differ so that batches are ragged."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "target")
    generator = torch.Generator().manual_seed(SEED + 2)
    prompts = {}
    for domain in corpus.DOMAINS:
        documents = [tokenizer(text)["input_ids"] for text in corpus.split(domain)[1]]
        documents = [ids for ids in documents if len(ids) > 2 * max(PROMPT_LENS)]
        rows = []
        for i in range(PROMPTS_PER_DOMAIN):
            ids, prompt_len = documents[i % len(documents)], PROMPT_LENS[i % len(PROMPT_LENS)]
            start = int(torch.randint(len(ids) - prompt_len, (1,), generator=generator))
            rows.append(tokenizer.decode(ids[start : start + prompt_len]))
        prompts[domain] = rows
    (out / "prompts.json").write_text(json.dumps(prompts, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Run one stage or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["all", "tokenizer", "target", "draft", "prompts"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "models")
    parser.add_argument("--target-steps", type=int, default=2400)
    parser.add_argument("--draft-steps", type=int, default=1400)
    args = parser.parse_args()
    stages: dict[str, Callable[[], object]] = {
        "tokenizer": lambda: train_tokenizer(args.out / "target"),
        "target": lambda: train_target(args.out, args.target_steps),
        "draft": lambda: distil_draft(args.out, args.draft_steps),
        "prompts": lambda: write_prompts(args.out),
    }
    for name in stages if args.stage == "all" else [args.stage]:
        stages[name]()


if __name__ == "__main__":
    main()
