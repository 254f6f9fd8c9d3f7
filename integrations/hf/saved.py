"""What models have read of a text that leaves the batch, or from which others go on."""

from __future__ import annotations

from dataclasses import dataclass

from flyball.integrations.hf.cache import Snapshot


@dataclass(frozen=True)
class SavedRow:
    """A row that texts may begin from without reading it again.

    Attributes:
        target: all but the text's last token, which is read to say what follows.
    """

    target: Snapshot
