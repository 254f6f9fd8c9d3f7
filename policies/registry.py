"""All policies by name."""

from __future__ import annotations

from flyball.policies.length.base import LengthPolicy
from flyball.policies.length.goodput import Goodput
from flyball.policies.length.heuristic import Heuristic
from flyball.policies.length.static import Static

LENGTH_POLICIES: dict[str, type[LengthPolicy]] = {
    "goodput": Goodput,
    "heuristic": Heuristic,
    "static": Static,
}
