"""Hugging Face transformers as a host."""

from flyball.integrations.hf.govern import GovernedGenerate, govern
from flyball.integrations.hf.search import search
from flyball.integrations.hf.search_result import SearchResult
from flyball.integrations.hf.views import DraftView

__all__ = ["DraftView", "GovernedGenerate", "SearchResult", "govern", "search"]
