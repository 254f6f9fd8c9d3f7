"""What a replay brought, in a few numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.controller.corpus import Corpus
from flyball.controller.replayed import Replayed

Floats = NDArray[np.float64]


def summarise(corpus: Corpus, found: Replayed) -> dict[str, Any]:
    """Rates and counts of a replay, of all texts and by domain, ready for JSON.

    A step's seconds are shared evenly by the requests in it. First tokens, which come with the
    prompts, count as tokens.
    """
    seconds, joules = found.seconds, found.joules
    domains = np.array([text.domain for text in corpus.texts])
    every = np.ones(len(found.text), np.bool_)
    result = _sums(found, seconds, joules, every, len(corpus.texts))
    result["mean_batch_size"] = len(found.text) / len(found.step_s)
    result["faults"] = found.faults
    result["domains"] = {
        domain: _sums(
            found,
            seconds,
            joules,
            (domains == domain)[found.text],
            int((domains == domain).sum()),
        )
        for domain in np.unique(domains).tolist()
    }
    return result


def _sums(
    found: Replayed,
    seconds: Floats,
    joules: Floats | None,
    rows: NDArray[np.bool_],
    num_texts: int,
) -> dict[str, Any]:
    proposed, accepted = int(found.proposed[rows].sum()), int(found.accepted[rows].sum())
    num_rounds, num_tokens = int(rows.sum()), int(found.kept[rows].sum()) + num_texts
    total_s = float(seconds[rows].sum())
    total_j = 0.0 if joules is None else float(joules[rows].sum())
    return {
        "texts": num_texts,
        "tokens": num_tokens,
        "rounds": num_rounds,
        "seconds": total_s,
        # Requests of a batch run side by side, so these are shares of the machine.
        "tokens_per_s": num_tokens / total_s if total_s else None,
        "tokens_per_joule": num_tokens / total_j if total_j else None,
        "drafted": proposed,
        "accepted": accepted,
        "wasted": proposed - accepted,
        "mean_accepted": accepted / num_rounds if num_rounds else None,
        "mean_draft_len": proposed / num_rounds if num_rounds else None,
    }
