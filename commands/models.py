"""Models that commands run: from folders, or the demo's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flyball.controller.contract import PROMPT_LOOKUP
from flyball.controller.errors import HostError

DEMO = "demo"


@dataclass(frozen=True)
class Models:
    """What decodes.

    Attributes:
        target: whose output it is.
        tokenizer: of all of them.
        drafts: draft models by name.
        prompts: texts by domain that come with the models.
    """

    target: Any
    tokenizer: Any
    drafts: dict[str, Any]
    prompts: dict[str, list[str]] = field(default_factory=dict)


def load_models(model: str, drafts: Sequence[Path]) -> Models:
    """The models, on a GPU where there is one; the shipped ones stay on the CPU.

    Args:
        model: folder of the target, or "demo".
        drafts: folders of draft models; none for the demo's own, if it is the demo.

    Raises:
        HostError: a folder holds no model that can be loaded, or two drafts have one name.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    names = [folder.resolve().name for folder in drafts]
    if PROMPT_LOOKUP in names:
        raise HostError(
            f"expected a draft model, but {PROMPT_LOOKUP} is what prompt lookup is called; rename "
            "the folder"
        )
    if len(set(names)) < len(names):
        raise HostError(f"expected drafts of different names, but got {', '.join(names)}; rename")
    if model == DEMO:
        from flyball.demo.loader import load_demo

        demo = load_demo()
        target, tokenizer, prompts = demo.target, demo.tokenizer, demo.prompts
        own = {"demo draft": demo.draft}
    else:
        target, prompts, own = _load_model(Path(model)), {}, {}
        tokenizer = _from_folder("AutoTokenizer", Path(model))
    given = {name: _load_model(folder, target) for name, folder in zip(names, drafts, strict=True)}
    return Models(target, tokenizer, given or own, prompts)


def _load_model(folder: Path, target: Any = None) -> Any:
    """A model as it was stored; a draft on its target's device and in its precision."""
    import torch

    if target is not None:
        return _from_folder("AutoModelForCausalLM", folder, dtype=target.dtype).to(target.device)
    model = _from_folder("AutoModelForCausalLM", folder, dtype="auto")
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _from_folder(kind: str, folder: Path, **settings: Any) -> Any:
    import transformers
    from safetensors import SafetensorError

    if not (folder / "config.json").is_file():
        raise HostError(
            f"{folder}: expected a folder with a model, but it has no config.json; "
            "download the model and give its folder"
        )
    try:
        return getattr(transformers, kind).from_pretrained(
            folder, local_files_only=True, **settings
        )
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise HostError(f"{folder}: cannot load the model: {reason}") from error
