"""The demo models with heads that vLLM's CPU attention takes: 80 wide instead of 40.

python -m flyball.demo.widen FOLDER

A head may be padded with zeros without changing what the model computes. For a factor
f = head_dim / old:

- rotary position embedding turns the pair (i, i + old/2) by position * base**(-2i / old); in the
  wide head the pair j = f * i, of partner j + head_dim/2, has that very frequency, so query and
  key dimensions move there and the other pairs are zero;
- scores are divided by sqrt(head_dim), so queries grow by sqrt(f);
- values keep their places, and the output projection reads nothing from the rest.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from flyball.controller.errors import DemoError
from flyball.demo.loader import load_demo

VLLM_HEAD_DIM = 80


def widen_heads(model: Any, head_dim: int) -> Any:
    """A Llama that computes the same function with wider heads.

    The rotary embedding must be the plain one: scaled kinds derive their frequencies from the
    head's width.

    Args:
        model: `LlamaForCausalLM`; stays as it is.
        head_dim: a multiple of the model's own.

    Raises:
        DemoError: the width is no multiple, or the rotary embedding is scaled.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    old = model.config.head_dim
    if head_dim < old or head_dim % old:
        raise DemoError(
            f"expected a head_dim that is a multiple of the model's {old}, but got {head_dim}"
        )
    rope = model.config.rope_parameters["rope_type"]
    if rope != "default":
        raise DemoError(f"expected a model with plain rotary embedding, but got {rope!r}")
    config = LlamaConfig.from_dict({**model.config.to_dict(), "head_dim": head_dim})
    wide = LlamaForCausalLM(config).to(model.dtype).eval()
    wide.load_state_dict({k: _widen(k, v, old, head_dim) for k, v in model.state_dict().items()})
    wide.generation_config = model.generation_config
    return wide


def _widen(name: str, value: torch.Tensor, old: int, new: int) -> torch.Tensor:
    pairs = torch.arange(old // 2) * (new // old)
    rotary = torch.cat([pairs, new // 2 + pairs])
    projection = name.split(".")[-2]
    if projection == "q_proj":
        return _spread(value, old, new, rotary) * math.sqrt(new / old)
    if projection == "k_proj":
        return _spread(value, old, new, rotary)
    if projection == "v_proj":
        return _spread(value, old, new, torch.arange(old))
    if name.endswith("o_proj.weight"):
        return _spread(value.T, old, new, torch.arange(old)).T
    return value


def _spread(value: torch.Tensor, old: int, new: int, places: torch.Tensor) -> torch.Tensor:
    """Rows of each head, (heads * old, ...), put at `places` of (heads * new, ...)."""
    rest = value.shape[1:]
    num_heads = len(value) // old
    wide = value.new_zeros(num_heads, new, *rest)
    wide[:, places] = value.reshape(num_heads, old, *rest)
    return wide.reshape(num_heads * new, *rest)


def save_for_vllm(folder: Path) -> tuple[Path, Path]:
    """Write target and draft in float32, with tokenizers, for a vLLM that runs on the CPU.

    Args:
        folder: gets `target` (wide heads) and `draft` (as it is); models that an earlier call
            wrote there are used again.

    Returns:
        Folders of the target and the draft.

    Raises:
        DemoError: `target` or `draft` holds something else.
    """
    paths = folder / "target", folder / "draft"
    missing = [path for path in paths if not path.exists()]
    models = load_demo("float32") if missing else None
    for path in paths:
        if models is not None and path in missing:
            wide = path.name == "target"
            model = widen_heads(models.target, VLLM_HEAD_DIM) if wide else models.draft
            _save(model, models.tokenizer, path)
        _check(path)
    return paths


def _save(model: Any, tokenizer: Any, path: Path) -> None:
    # Renamed into place once it is whole, so that a folder that exists can be trusted.
    part = path.with_name(f"{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(path)


def _check(path: Path) -> None:
    needed = ("config.json", "model.safetensors", "tokenizer.json")
    lost = [name for name in needed if not (path / name).is_file()]
    config = {} if lost else json.loads((path / "config.json").read_text(encoding="utf-8"))
    foreign = config.get("dtype") != "float32" or (
        path.name == "target" and config.get("head_dim") != VLLM_HEAD_DIM
    )
    if lost or foreign:
        raise DemoError(
            f"expected {path} to be absent or a demo model for vLLM, but it is something else; "
            f"remove it or choose another folder"
        )


def main() -> None:
    """Write both models and print their folders."""
    from transformers.utils import logging

    parser = argparse.ArgumentParser(prog="python -m flyball.demo.widen")
    parser.description = "Write the demo models so that vLLM can serve them on a CPU."
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    logging.disable_progress_bar()
    try:
        for path in save_for_vllm(parser.parse_args().folder):
            print(path)
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
