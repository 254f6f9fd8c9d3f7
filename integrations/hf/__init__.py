"""Hugging Face transformers as a host."""

from flyball.integrations.hf.govern import GovernedGenerate, govern
from flyball.integrations.hf.implicit_reward import ImplicitRewardModel
from flyball.integrations.hf.reward_model import RewardModel
from flyball.integrations.hf.scorers import MeanLogProb, Partial, Scorer, StepEntropy, Verifier
from flyball.integrations.hf.search import search
from flyball.integrations.hf.search_result import SearchResult
from flyball.integrations.hf.self_evaluation import SelfEvaluation
from flyball.integrations.hf.step_speculation import lossy_step_speculation
from flyball.integrations.hf.views import DraftView

__all__ = [
    "DraftView",
    "GovernedGenerate",
    "ImplicitRewardModel",
    "MeanLogProb",
    "Partial",
    "RewardModel",
    "Scorer",
    "SearchResult",
    "SelfEvaluation",
    "StepEntropy",
    "Verifier",
    "govern",
    "lossy_step_speculation",
    "search",
]
