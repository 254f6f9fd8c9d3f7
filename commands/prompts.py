"""Prompts that commands decode: from a file, or the demo's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from flyball.commands.models import Models
from flyball.controller.errors import HostError

if TYPE_CHECKING:
    from flyball.integrations.hf.record import Prompt


def read_prompts(path: Path | None, models: Models) -> list[Prompt]:
    """Prompts of a file, or those that come with the models, as tokens.

    Args:
        path: of a text file with a prompt a line, or, if it ends in .jsonl, with lines such as
            {"prompt": "...", "domain": "..."}; None for those of the models.
        models: whose tokenizer is used.

    Raises:
        HostError: in one line.
    """
    from flyball.integrations.hf.record import Prompt

    if path is None:
        texts = [(text, domain) for domain, own in models.prompts.items() for text in own]
        if not texts:
            raise HostError("expected prompts to record; pass --prompts FILE")
    else:
        texts = _read(path)
    prompts = [Prompt(models.tokenizer(text)["input_ids"], domain) for text, domain in texts]
    empty = [number for number, prompt in enumerate(prompts, 1) if len(prompt.tokens) == 0]
    if empty:
        raise HostError(
            f"{path}: expected prompts of a token at least, but number {empty[0]} is none"
        )
    return prompts


def _read(path: Path) -> list[tuple[str, str]]:
    """Prompts and domains of a file.

    Raises:
        HostError: in one line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise HostError(f"{path}: cannot read the prompts: {reason}") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise HostError(f"{path}: expected a prompt a line, but the file is empty; add some")
    if path.suffix != ".jsonl":
        return [(line, "") for _, line in numbered]
    return [_parse(path, number, line) for number, line in numbered]


def _parse(path: Path, number: int, line: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise HostError(
            f'{path}: line {number}: expected {{"prompt": "..."}}, but got {line[:60]!r}; '
            "correct it, or name the file .txt for a plain prompt a line"
        )
    return row["prompt"], str(row.get("domain", ""))
