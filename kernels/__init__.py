"""Tensor work of a round: torch references."""
