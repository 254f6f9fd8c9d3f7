"""Acceptance heads as `govern` takes them: a module or its file, checked against the draft."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from flyball.controller.errors import HostError
from flyball.integrations.hf.views import DraftView
from flyball.kernels.head import AcceptanceHead


def prepare_head(
    head: str | Path | AcceptanceHead | None, drafts: Sequence[DraftView | str]
) -> AcceptanceHead | None:
    """The head on its draft's device; None without one.

    Args:
        head: the module, which stays as it is, or its file.
        drafts: of the governor; a head knows one draft model in one view.

    Raises:
        HostError: the file cannot be used, or the head is not one of this draft.
    """
    if head is None:
        return None
    if isinstance(head, str | Path):
        try:
            head = AcceptanceHead.load(Path(head))
        except (OSError, ValueError) as error:
            raise HostError(f"acceptance_head: {error}") from None
    elif isinstance(head, AcceptanceHead):
        head = copy.deepcopy(head)
    else:
        raise HostError(
            f"expected an AcceptanceHead or its file as acceptance_head, "
            f"but got {type(head).__name__}"
        )
    models = [draft.model for draft in drafts if isinstance(draft, DraftView)]
    if len(models) != 1:
        raise HostError(
            f"expected one draft model with an acceptance_head, but got {len(models)}; "
            "leave acceptance_head or a draft out"
        )
    hidden_size = models[0].config.get_text_config().hidden_size
    if head.hidden_size != hidden_size:
        raise HostError(
            f"expected an acceptance_head for the draft's hidden size of {hidden_size}, "
            f"but got one for {head.hidden_size}; train one for this draft"
        )
    return head.to(models[0].device).eval()
