"""Answers from ordinary traces: rounds that some other policy made, with parts nobody saw."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import stdtrit

from flyball.controller.contract import HostInfo
from flyball.controller.corpus import Corpus
from flyball.controller.cost_table import CostTable
from flyball.controller.errors import TraceError
from flyball.controller.governor import Governor
from flyball.controller.guessed import Glimpses, glimpse, guess
from flyball.controller.off_policy import LEAST_DRAWS, Logged, doubly_robust, ips, snips
from flyball.controller.policy_file import PolicyFile
from flyball.controller.replay import replay
from flyball.controller.replay_summary import summarise
from flyball.controller.trace_format import codes
from flyball.policies.length.static import StaticSettings

Floats = NDArray[np.float64]

NUM_GUESSES = 8
_COVERAGE = 0.95
_SHOWN = ("tokens_per_s", "mean_accepted", "drafted", "wasted")


class Estimator:
    """What policies would have brought on an ordinary trace.

    Two answers that check each other. One replays the texts with guesses for what nobody saw
    (`guessed`), and can say it of any policy. The other weighs the rounds in which the policy
    that ran happened to do the same (`off_policy`), and can say it of constant lengths alone,
    where the policy that ran drew its lengths at random and recorded with which probability.

    Args:
        table: as `read_trace` gives it.
        rng: draws the guesses.

    Raises:
        TraceError: the trace cannot say; in one line.
    """

    def __init__(self, table: pa.Table, rng: np.random.Generator) -> None:
        self.glimpses: Glimpses = glimpse(table)
        self._table = table
        self._seeds = rng.integers(2**32, size=NUM_GUESSES).tolist()

    def estimate(
        self, policy: PolicyFile, costs: CostTable, host: HostInfo, batch_size: int
    ) -> dict[str, Any]:
        """Rates and counts with 95% intervals, ready for JSON.

        Raises:
            TraceError: the policy looks at what the trace does not hold.
        """
        governor = Governor(policy.offline(), host)
        asks = host.mid_draft_stop and governor.wants_confidence
        if governor.wants_entropy or (asks and not np.isfinite(self._known_confidence)):
            what = "entropies" if governor.wants_entropy else "confidences"
            raise TraceError(
                f"expected {what} of drafts, which policy {policy.length.policy} looks at, but "
                "the trace has none; record with --exact, or choose governor.follow: length"
            )
        rows = []
        for seed in self._seeds:  # one at a time, for traces may be large
            guessed = guess(self.glimpses, np.random.default_rng(seed))
            corpus = Corpus(guessed, np.random.default_rng(0))
            rows.append(summarise(corpus, replay(corpus, policy, costs, host, batch_size)))
        return {
            **{name: _interval([row[name] for row in rows]) for name in _SHOWN},
            "unknown": self.glimpses.unknown,
            "tokens_per_round": self._off_policy(policy),
        }

    @property
    def _known_confidence(self) -> float:
        known = self.glimpses.confidence
        return float(np.nanmean(known)) if np.isfinite(known).any() else np.nan

    def _off_policy(self, policy: PolicyFile) -> dict[str, Any] | str:
        """Tokens a round of a constant length by weighting; else why there is no answer."""
        if not isinstance(policy.length, StaticSettings) or policy.make_shadows():
            return "only constant lengths can be judged by weighting"
        table = self._table
        propensity = table["propensity"].to_numpy()
        # Elsewhere no other length had a chance.
        known = (propensity > 0.0) & (propensity < 1.0)
        if not known.any():
            return "the policy that ran drew nothing at random; record with exp3"
        planned = table["planned"].to_numpy()[known].astype(np.int64)
        accepted = table["accepted"].to_numpy()[known].astype(np.float64)
        request, step = (self._numbered(name)[known] for name in ("request", "step"))
        length = policy.length.draft_len
        model = _Model(request, accepted, table["observed"].to_numpy()[known])
        logged = Logged(
            request,
            step,
            accepted + 1.0,
            propensity[known],
            (planned == length).astype(np.float64),
            model.tokens(planned),
            model.tokens(np.full(len(planned), length)),
        )
        draws = logged.effective_draws
        if draws < LEAST_DRAWS:
            return (
                f"only {draws:.0f} effective draws of this length, but {LEAST_DRAWS:.0f} are "
                "needed; record more"
            )
        answers = {"ips": ips, "snips": snips, "doubly_robust": doubly_robust}
        return {
            **{name: asdict(answer(logged)) for name, answer in answers.items()},
            "effective_draws": draws,
            "share_of_rounds": float(known.mean()),
        }

    def _numbered(self, name: str) -> NDArray[np.int64]:
        """Requests or steps (n,), which every run numbers from its start, each with its own."""
        pair = np.stack([codes(self._table["run"]), self._table[name].to_numpy()])
        found: NDArray[np.int64] = np.unique(pair, axis=1, return_inverse=True)[1].ravel()
        return found


class _Model:
    """Tokens that a length brings, from each request's own share of accepted tokens."""

    def __init__(
        self, request: NDArray[np.int64], accepted: Floats, observed: NDArray[np.int32]
    ) -> None:
        hits = np.bincount(request, np.minimum(accepted, observed))
        seen = np.bincount(request, observed)
        usual = (hits.sum() + 1.0) / (seen.sum() + 2.0)
        self._chance = ((hits + 4.0 * usual) / (seen + 4.0))[request]

    def tokens(self, length: NDArray[np.int64]) -> Floats:
        """Expected tokens (n,) of rounds that draft so many."""
        chance = np.minimum(self._chance, 1.0 - 1e-9)
        result: Floats = (1.0 - chance ** (length + 1)) / (1.0 - chance)
        return result


def _interval(values: list[float]) -> dict[str, float]:
    """Mean over guesses, with its 95% interval (Rubin 1987)."""
    count, mean = len(values), float(np.mean(values))
    spread = float(np.std(values, ddof=1)) * (1.0 + 1.0 / count) ** 0.5
    reach = float(stdtrit(count - 1, 0.5 + _COVERAGE / 2.0)) * spread
    return {"value": mean, "low": mean - reach, "high": mean + reach}
