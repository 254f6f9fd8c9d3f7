"""Tensor work of a round: public functions, torch references, and what a device does otherwise."""
