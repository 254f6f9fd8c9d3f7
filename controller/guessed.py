"""Texts of an ordinary trace: what its rounds showed of them, and guesses for the rest.

A round shows where the draft was right along the settled text: in every accepted token, and not
in the first rejected one. What nobody saw is what follows a draft that was accepted in full, and
what was generated without a draft. It is drawn, several times over, so that what the draws differ
in says how sure an answer is (multiple imputation, Rubin 1987).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flyball.controller.contract import PROMPT_LOOKUP
from flyball.controller.errors import TraceError
from flyball.controller.match_text import MatchText, branches_of
from flyball.controller.trace_format import codes

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]

NUM_AHEAD = 32
MOST_UNKNOWN = 0.5  # share of the tokens, beyond which a trace cannot say
_LIKENESS = (0.002, 0.5)  # bounds of the correlation within requests
_TURNS = 5  # of mean and correlation, each from the other
_OPEN = 2**20  # tokens that a text might have gone on for, where nothing says that it was cut
_OFTEN = 0.1  # of the drafts before the last ones are shorter than planned
_COLUMNS = ("position", "context_len", "planned", "proposed", "accepted", "observed")


@dataclass(frozen=True, eq=False)
class Glimpses:
    """What the rounds of an ordinary trace showed of its texts.

    Attributes:
        draft: name of the draft.
        context_len: (m,) tokens of each request's prompt.
        sizes: (m,) tokens of each text, its first included.
        limits: (m,) tokens with which it would have been ended.
        match: (t,) whether the draft was right, NaN where nobody saw; text after text.
        confidence: (t,) the draft's largest probability, NaN where it is not known.
        off_text: (c,) those behind a rejected token, of all drafts.
    """

    draft: str
    context_len: Longs
    sizes: Longs
    limits: Longs
    match: Floats
    confidence: Floats
    off_text: Floats

    @property
    def unknown(self) -> float:
        """Share of the tokens that nobody saw drafted, but for each text's first."""
        count = int(np.isnan(self.match).sum()) - len(self.sizes)
        return count / max(1, len(self.match) - len(self.sizes))


def glimpse(table: pa.Table) -> Glimpses:
    """What an ordinary trace showed.

    Args:
        table: as `read_trace` gives it.

    Raises:
        TraceError: it has no rounds, several drafts, one that makes offers, or too few drafted
            tokens to go by.
    """
    if len(table) == 0:
        raise TraceError("expected rounds, but the trace has none; record some")
    drafts = [name for name in table["draft"].unique().to_pylist() if name is not None]
    if len(drafts) != 1:
        raise TraceError(
            f"expected rounds of one draft, but the trace has {', '.join(drafts) or 'none'}; "
            "record with one draft"
        )
    if drafts[0] == PROMPT_LOOKUP:
        raise TraceError(
            "expected rounds of a draft model, but those of prompt lookup do not say what it "
            "would have offered elsewhere; record with --exact"
        )
    run, request = codes(table["run"]), table["request"].to_numpy()
    column = {name: table[name].to_numpy().astype(np.int64) for name in _COLUMNS}
    order = np.lexsort((column["position"], request, run))
    column = {name: values[order] for name, values in column.items()}
    new = np.ones(len(order), np.bool_)
    new[1:] = (np.diff(run[order]) != 0) | (np.diff(request[order]) != 0)
    text = new.cumsum() - 1
    # A draft whose end nobody saw accepted or rejected was cut by the end of its text.
    ended = (column["accepted"] < column["proposed"]) & (column["observed"] == column["accepted"])
    after = column["position"] + column["accepted"] + ~ended
    sizes = np.zeros(int(text[-1]) + 1, np.int64)
    np.maximum.at(sizes, text, after)
    start = (sizes.cumsum() - sizes)[text] + column["position"]
    found = Glimpses(
        drafts[0],
        np.maximum(column["context_len"][new] - column["position"][new], 1),
        sizes,
        _limits(column, text, sizes),
        _matches(start, column, int(sizes.sum())),
        *_confidences(table, order, start, column["accepted"], int(sizes.sum())),
    )
    if found.unknown > MOST_UNKNOWN:
        raise TraceError(
            f"expected drafts of at least half of the tokens, but {found.unknown:.0%} were never "
            "drafted, which no estimate can make up for; record with longer drafts, or --exact"
        )
    return found


def _limits(column: dict[str, Longs], text: Longs, sizes: Longs) -> Longs:
    """Where texts would have been ended, as far as their last drafts say it.

    A host cuts drafts where the text has no more room. Where drafts are often shorter than planned
    they say nothing, for they were stopped.
    """
    limits = sizes + _OPEN
    cut = column["planned"] > column["proposed"]
    last = np.append(np.diff(text) != 0, True)
    if np.count_nonzero(cut & ~last) <= _OFTEN * np.count_nonzero(~last):
        end = column["position"] + column["proposed"] + 1
        limits[text[last & cut]] = end[last & cut]
    return np.maximum(limits, sizes)


def _matches(start: Longs, column: dict[str, Longs], size: int) -> Floats:
    match = np.full(size, np.nan)
    accepted = np.minimum(column["accepted"], column["observed"])
    row = np.arange(len(start)).repeat(accepted)
    place = np.arange(len(row)) - (accepted.cumsum() - accepted)[row]
    match[start[row] + place] = 1.0
    missed = column["observed"] > column["accepted"]
    match[(start + column["accepted"])[missed]] = 0.0
    return match


def _confidences(
    table: pa.Table, order: Longs, start: Longs, accepted: Longs, size: int
) -> tuple[Floats, Floats]:
    """On the text (size,), NaN where unknown; and off it (c,)."""
    known = np.full(size, np.nan)
    lists = table["confidence"].combine_chunks().take(pa.array(order))
    lengths = lists.value_lengths().fill_null(0).to_numpy().astype(np.int64)
    values = np.asarray(lists.flatten().to_numpy(zero_copy_only=False), np.float64)
    row = np.arange(len(start)).repeat(lengths)
    place = np.arange(len(row)) - (lengths.cumsum() - lengths)[row]
    on_text = place <= accepted[row]
    target = (start[row] + place)[on_text]
    inside = target < size
    known[target[inside]] = values[on_text][inside]
    return known, values[~on_text]


def guess(glimpses: Glimpses, rng: np.random.Generator) -> list[MatchText]:
    """Texts with everything that nobody saw drawn.

    Whether the draft is right is drawn with a probability of each request's own, after a token
    where it was right and after one where it was not: Beta posteriors, with the mean of all
    requests as prior. Confidences are drawn from known ones of the same outcome.
    """
    match = _guess_matches(glimpses, rng)
    confidence = _guess_confidences(glimpses, match, rng)
    pool = glimpses.off_text if len(glimpses.off_text) else np.array([np.nan])
    texts = []
    end = glimpses.sizes.cumsum()
    for number, (last, size) in enumerate(zip(end.tolist(), glimpses.sizes.tolist(), strict=True)):
        own = match[last - size : last].astype(np.float32)
        tails = (len(branches_of(own, False)), NUM_AHEAD - 1)
        nothing = np.full(size, np.nan, np.float32)
        texts.append(
            MatchText(
                domain="",
                target="",
                draft=glimpses.draft,
                prompt_len=int(glimpses.context_len[number]),
                limit=int(glimpses.limits[number]),
                num_ahead=NUM_AHEAD,
                sampled=False,
                tokens=np.zeros(size, np.int32),
                match=own,
                target_log_p=nothing,
                draft_log_p=nothing,
                confidence=confidence[last - size : last].astype(np.float32),
                entropy=nothing,
                tail_confidence=rng.choice(pool, tails).astype(np.float32),
                tail_entropy=np.full(tails, np.nan, np.float32),
            )
        )
    return texts


def _guess_matches(glimpses: Glimpses, rng: np.random.Generator) -> Floats:
    match, sizes = glimpses.match.copy(), glimpses.sizes
    first = sizes.cumsum() - sizes
    text = np.arange(len(sizes)).repeat(sizes)
    before = np.concatenate([[0.0], match[:-1]])
    before[first] = 0.0
    before[(first + 1)[sizes > 1]] = 0.0  # the first token comes with the prompt
    chance = np.empty((len(sizes), 2))
    for state in (0, 1):
        seen = (before == state) & ~np.isnan(match)
        hits = np.bincount(text[seen], match[seen], len(sizes))
        count = np.bincount(text[seen], minlength=len(sizes))
        usual, weight = _population(hits, count)
        chance[:, state] = rng.beta(weight * usual + hits, weight * (1.0 - usual) + count - hits)
    draws = rng.random(len(match))
    after = np.concatenate([match[1:], [np.nan]])
    after[sizes.cumsum() - 1] = np.nan
    # Place after place, because a guess may hang on the guess before it; and on what came after.
    for place in range(int(sizes.max())):
        at = first[sizes > place] + place
        at = at[np.isnan(match[at])]
        own = chance[text[at]]
        hit_before = np.zeros(len(at), np.bool_) if place < 2 else match[at - 1] == 1.0
        hit = np.where(hit_before, own[:, 1], own[:, 0])
        known = ~np.isnan(after[at])
        likely = np.where(after[at, None] == 1.0, own, 1.0 - own)  # after a miss, and after a hit
        likely[~known] = 1.0
        hit = hit * likely[:, 1] / (hit * likely[:, 1] + (1.0 - hit) * likely[:, 0])
        match[at] = draws[at] < hit
    return match


def _population(hits: NDArray[Any], count: NDArray[Any]) -> tuple[float, float]:
    """Mean over requests, and the tokens that it counts for in each of them.

    From how much requests differ beyond chance: the correlation within them, by moments of the
    beta-binomial.
    """
    some = count > 0
    hits, count = hits[some], count[some]
    if len(count) == 0:
        return 0.5, 2.0
    correlation = _LIKENESS[1]
    for _ in range(_TURNS):
        weight = count / (1.0 + (count - 1.0) * correlation)
        usual = float((weight @ (hits / count) + 0.5) / (weight.sum() + 1.0))
        excess = float(((hits - count * usual) ** 2 / count).sum()) / (usual * (1.0 - usual))
        pairs = max(float((count - 1.0).sum()), 1.0)
        correlation = float(np.clip((excess - len(count)) / pairs, *_LIKENESS))
    return usual, 1.0 / correlation - 1.0


def _guess_confidences(glimpses: Glimpses, match: Floats, rng: np.random.Generator) -> Floats:
    confidence = glimpses.confidence.copy()
    for outcome in (0.0, 1.0):
        mine = match == outcome
        pool = confidence[mine & ~np.isnan(confidence)]
        missing = np.flatnonzero(mine & np.isnan(confidence))
        if len(pool) and len(missing):
            confidence[missing] = rng.choice(pool, len(missing))
    return confidence
