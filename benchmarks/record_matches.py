"""Records the match traces of the demo models that `benchmarks.length` walks.

python -m benchmarks.record_matches [--texts N] [--tokens N] [--folder DIR]

Greedy texts of held-out prompts in float32, one segment a domain. A minute on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers.utils import logging

from benchmarks import report
from flyball.controller.match_text import MatchText
from flyball.controller.match_trace import write_matches
from flyball.demo.loader import DemoModels, load_demo
from flyball.integrations.hf.exact import FinishedText, RecordSettings, record_matches

FOLDER = Path(__file__).parent / "traces"
BATCH = 8  # prompts at a time
# A third of the bytes go; a threshold on the confidence falls the other way once in thousands.
DECIMALS = 4
_ROUNDED = (
    "target_log_p", "draft_log_p", "confidence", "entropy", "tail_confidence", "tail_entropy",
)  # fmt: skip


def main() -> None:
    """Generate, read, write, and print what the texts are like."""
    arguments = _arguments()
    logging.set_verbosity_error()
    models = load_demo("float32")
    rows = []
    with report.progress() as bar:
        for domain, prompts in bar.track(models.prompts.items(), description="recording"):
            chosen = prompts[: arguments.texts]
            texts = generate(models, domain, chosen, arguments.tokens)
            settings = RecordSettings(target="demo target", draft="demo draft")
            found = record_matches(models.target, models.draft, texts, settings)
            path = arguments.folder / f"{domain}.parquet"
            write_matches([rounded(text, DECIMALS) for text in found], path)
            rows.append(_row(domain, found, path))
    report.print_table("recorded", rows, tuple(rows[0]))


def generate(
    models: DemoModels, domain: str, prompts: Sequence[str], num_tokens: int
) -> list[FinishedText]:
    """The target's greedy texts, each until its end token or `num_tokens`."""
    texts = []
    for start in range(0, len(prompts), BATCH):
        inputs = models.tokenizer(
            list(prompts[start : start + BATCH]),
            return_tensors="pt",
            padding=True,
            return_token_type_ids=False,
        )
        output = models.target.generate(**inputs, do_sample=False, max_new_tokens=num_tokens)
        prompt_len = inputs["attention_mask"].sum(dim=1).tolist()
        width = inputs["input_ids"].shape[1]
        for row, own in zip(output, prompt_len, strict=True):
            generated = _until_end(row[width:].numpy(), models.tokenizer.eos_token_id)
            tokens = np.concatenate([row[width - own : width].numpy(), generated])
            texts.append(FinishedText(tokens, own, domain, num_tokens))
    return texts


def _until_end(tokens: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    """Tokens up to the first end token; padding looks like one too."""
    ends = np.flatnonzero(tokens == end)
    return tokens[: ends[0] + 1] if len(ends) else tokens


def rounded(text: MatchText, decimals: int) -> MatchText:
    """The same with fewer digits, which compress better."""
    return replace(text, **{name: np.round(getattr(text, name), decimals) for name in _ROUNDED})


def _row(domain: str, texts: Sequence[MatchText], path: Path) -> dict[str, object]:
    match = np.concatenate([text.match for text in texts])
    return {
        "domain": domain,
        "texts": len(texts),
        "ended": sum(len(text.tokens) < text.limit for text in texts),
        "tokens": len(match),
        "matches": float(match.mean()),
        "kilobytes": path.stat().st_size / 1000,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record_matches")
    parser.add_argument("--texts", type=int, default=24, help="prompts of each domain")
    parser.add_argument("--tokens", type=int, default=300, help="generated for each, at most")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the trace")
    return parser.parse_args()


if __name__ == "__main__":
    main()
