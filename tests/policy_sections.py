"""Policy file sections for every policy."""

from typing import Any


def length_section(name: str, max_draft_len: int = 8) -> dict[str, Any]:
    """A section that names all that the policy needs."""
    own: dict[str, Any] = {}
    if name == "static":
        own["draft_len"] = min(3, max_draft_len)
    if name == "batch_table":
        own["table"] = [[1, 2, 1], [3, 9, 0], [10, 9999, min(2, max_draft_len)]]
    return {"policy": name, "max_draft_len": max_draft_len, **own}


def ensemble_section(name: str, num_members: int) -> dict[str, Any]:
    """Likewise for an ensemble of so many members."""
    own: dict[str, Any] = {}
    if name == "static":
        own["weights"] = [1.0 / num_members] * num_members
    return {"policy": name, **own}


def rejection_section(name: str) -> dict[str, Any]:
    """Likewise for searches."""
    own: dict[str, Any] = {}
    if name == "hopeless":
        own["worth"] = 0.5
    return {"policy": name, **own}
