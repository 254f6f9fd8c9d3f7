"""What transformers as a host tells the governor of its drafts."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from flyball.controller.contract import DraftInfo, HostInfo
from flyball.integrations.hf.assemble import by_model
from flyball.integrations.hf.views import DraftView


def as_views(drafts: Sequence[PreTrainedModel | DraftView | str]) -> tuple[DraftView | str, ...]:
    """Drafts as `govern` takes them, models alone as views."""
    return tuple(
        DraftView(draft) if isinstance(draft, PreTrainedModel) else draft for draft in drafts
    )


def host_info(drafts: Sequence[DraftView | str], ensemble: bool) -> HostInfo:
    """The host with these drafts, and with their ensemble behind them where it is wanted.

    Views of one model cost the same. One member alone makes no ensemble.
    """
    kinds = {number: kind for kind, group in enumerate(by_model(drafts)) for number in group}
    infos = [
        DraftInfo(f"{draft.name} {number}", kind=kinds[number])
        if isinstance(draft, DraftView)
        else DraftInfo(str(draft), steps=False)
        for number, draft in enumerate(drafts)
    ]
    together = ensemble and len(infos) > 1 and bool(kinds)
    if together:
        infos.append(DraftInfo("ensemble", together=True))
    return HostInfo(
        engine_id="transformers",
        drafts=tuple(infos),
        num_members=len(drafts) if together else 0,
    )
