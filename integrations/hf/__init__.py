"""Hugging Face transformers as a host."""

from flyball.integrations.hf.govern import GovernedGenerate, govern

__all__ = ["GovernedGenerate", "govern"]
