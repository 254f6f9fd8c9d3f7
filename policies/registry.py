"""All policies by name."""

from __future__ import annotations

from flyball.policies.ensemble.accept_ascent import AcceptAscent
from flyball.policies.ensemble.base import EnsemblePolicy
from flyball.policies.ensemble.best_single import BestSingle
from flyball.policies.ensemble.equal import Equal
from flyball.policies.ensemble.hedge import Hedge
from flyball.policies.ensemble.metasd import MetaSD
from flyball.policies.ensemble.static import StaticWeights
from flyball.policies.ensemble.tabed import TABED
from flyball.policies.length.adaedl import AdaEDL
from flyball.policies.length.base import LengthPolicy
from flyball.policies.length.batch_table import BatchTable
from flyball.policies.length.exp3 import EXP3
from flyball.policies.length.gamma_tune import GammaTune
from flyball.policies.length.goodput import Goodput
from flyball.policies.length.heuristic import Heuristic
from flyball.policies.length.nightjar import Nightjar
from flyball.policies.length.static import Static
from flyball.policies.length.survival import Survival
from flyball.policies.length.svip import SVIP
from flyball.policies.length.tapout import TapOut
from flyball.policies.length.thompson import Thompson
from flyball.policies.length.threshold import Threshold
from flyball.policies.length.ucb import UCB
from flyball.policies.rejection.base import RejectionPolicy
from flyball.policies.rejection.conformal import Conformal
from flyball.policies.rejection.consensus import Consensus
from flyball.policies.rejection.first_finish import FirstFinish
from flyball.policies.rejection.hopeless import Hopeless
from flyball.policies.rejection.self_eval import SelfEval
from flyball.policies.rejection.speculative_rejection import SpeculativeRejection
from flyball.policies.rejection.top_fraction import TopFraction
from flyball.policies.throttle.base import ThrottlePolicy
from flyball.policies.throttle.constrained_bo import ConstrainedBO
from flyball.policies.throttle.linucb import LinUCB
from flyball.policies.throttle.lowest_feasible import LowestFeasible
from flyball.policies.throttle.sweep import Sweep

ENSEMBLE_POLICIES: dict[str, type[EnsemblePolicy]] = {
    "accept_ascent": AcceptAscent,
    "best_single": BestSingle,
    "equal": Equal,
    "hedge": Hedge,
    "metasd": MetaSD,
    "static": StaticWeights,
    "tabed": TABED,
}

LENGTH_POLICIES: dict[str, type[LengthPolicy]] = {
    "adaedl": AdaEDL,
    "batch_table": BatchTable,
    "exp3": EXP3,
    "gamma_tune": GammaTune,
    "goodput": Goodput,
    "heuristic": Heuristic,
    "nightjar": Nightjar,
    "static": Static,
    "survival": Survival,
    "svip": SVIP,
    "tapout": TapOut,
    "thompson": Thompson,
    "threshold": Threshold,
    "ucb": UCB,
}

REJECTION_POLICIES: dict[str, type[RejectionPolicy]] = {
    "conformal": Conformal,
    "consensus": Consensus,
    "first_finish": FirstFinish,
    "hopeless": Hopeless,
    "self_eval": SelfEval,
    "speculative_rejection": SpeculativeRejection,
    "top_fraction": TopFraction,
}

THROTTLE_POLICIES: dict[str, type[ThrottlePolicy]] = {
    "constrained_bo": ConstrainedBO,
    "linucb": LinUCB,
    "lowest_feasible": LowestFeasible,
    "sweep": Sweep,
}
