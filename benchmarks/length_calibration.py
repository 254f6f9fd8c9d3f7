"""How good predicted acceptance is, on recorded texts that were not learned from yet.

The estimator that stops drafts learns while it decodes half of the texts, then goes on with the
others, where every token is predicted before it is learned from. Rival: a batch logistic
regression of scikit-learn on the same features, the request's own effect at that time among them,
fitted to the first half at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.length_streams import MAX_DRAFT_LEN
from benchmarks.length_texts import Measured
from benchmarks.length_traces import recorded
from flyball.controller.match_text import MatchText
from flyball.demo.head_scores import calibration_error, losses
from flyball.estimators.survival import (
    EFFECTS,
    THIS_TOKEN,
    SurvivalEstimator,
    features,
    sigmoid,
)

LEARN_EVERY = 16  # rounds; sooner in a new text
Floats = NDArray[np.float64]
SLOT = np.zeros(1, np.int32)


def run(seeds: range, quick: bool) -> Measured:
    """Split the texts by each seed, predict, print and give the means."""
    rows = report.in_parallel(_compare, list(seeds))
    rows.sort(key=lambda row: row["seed"])
    names = [name for name in rows[0] if name != "seed"]
    means = {name: float(np.mean([row[name] for row in rows])) for name in names}
    means["log_loss_vs_batch"] = means["log_loss"] / means["batch_log_loss"]
    report.print_table("acceptance predicted in mid-draft", [means], tuple(means))
    return rows, means


def _compare(seed: int) -> list[dict[str, Any]]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    texts = recorded()
    order = np.random.default_rng([seed, 300]).permutation(len(texts)).tolist()
    estimator = SurvivalEstimator(THIS_TOKEN)
    half = len(order) // 2
    x, accepted, _ = _walk(estimator, [texts[number] for number in order[:half]])
    batch = make_pipeline(StandardScaler(), LogisticRegression(C=1e4, max_iter=1000))
    batch.fit(x, accepted)
    x, accepted, online = _walk(estimator, [texts[number] for number in order[half:]])
    rival = batch.predict_proba(x)[:, 1]
    return [
        {
            "seed": seed,
            "log_loss": float(losses(online, accepted).mean()),
            "batch_log_loss": float(losses(rival, accepted).mean()),
            "calibration_error": calibration_error(online, accepted),
            "batch_calibration_error": calibration_error(rival, accepted),
        }
    ]


def _walk(
    estimator: SurvivalEstimator, texts: Sequence[MatchText]
) -> tuple[Floats, Floats, Floats]:
    """Decode texts with drafts of full length.

    Returns:
        Features (t, NUM_FEATURES + 1) of the observed tokens, the request's effect last; whether
        each was accepted (t,); and the probability that was predicted (t,).
    """
    columns, accepted, predicted = [], [], []
    for text in texts:
        estimator.admit(SLOT)
        pending: list[tuple[Floats, Floats]] = []
        patience = 2
        for x, hit in _rounds(text):
            chances = sigmoid((estimator.theta @ x)[:, None] + EFFECTS)
            predicted.append(chances @ estimator.effects(SLOT)[0])
            effect = np.full((1, len(hit)), float(estimator.effect(SLOT)[0]))
            columns.append(np.concatenate([x, effect]))
            accepted.append(hit)
            pending.append((x, hit))
            if len(pending) >= patience:
                _learn(estimator, pending)
                pending, patience = [], min(2 * patience, LEARN_EVERY)
        if pending:
            _learn(estimator, pending)
    return np.concatenate(columns, axis=1).T, np.concatenate(accepted), np.concatenate(predicted)


def _rounds(text: MatchText) -> list[tuple[Floats, Floats]]:
    """Features (NUM_FEATURES, t) and acceptance (t,) of the observed tokens of each round."""
    size = len(text.tokens)
    sure, spread = (sign.astype(np.float64) for sign in text.ahead(np.arange(1, size)))
    found, start = [], 1
    while start < size:
        hits = text.match[start : start + MAX_DRAFT_LEN] == 1.0
        num_accepted = int(hits.cumprod().sum())
        seen = min(num_accepted + 1, len(hits))
        position = np.arange(1.0, seen + 1.0)
        x = features(sure[start - 1, :seen], spread[start - 1, :seen], position)
        found.append((x, hits[:seen].astype(np.float64)))
        start += num_accepted + 1
    return found


def _learn(estimator: SurvivalEstimator, rounds: Sequence[tuple[Floats, Floats]]) -> None:
    x = np.concatenate([x for x, _ in rounds], axis=1)
    accepted = np.concatenate([hit for _, hit in rounds])
    owner, seen = np.zeros(x.shape[1], np.int32), np.zeros(len(rounds), np.int32)
    estimator.update(owner, x, accepted, seen, len(rounds))
