"""Chain verification on a CPU."""

from __future__ import annotations

from flyball.kernels.reference.verify import verify

__all__ = ["verify"]
