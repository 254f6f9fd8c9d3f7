"""What a trace is: rounds, the table that they become, and reading segments back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from flyball.controller import segment_file

VERSION = "2"
VERSION_KEY = b"flyball_trace_version"
SUFFIX = segment_file.SUFFIX

_NAME = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("time_s", pa.float64()),  # wall clock, seconds since the epoch
        ("engine", _NAME),
        ("run", _NAME),  # of the recorder: requests and steps are counted from its start
        ("request", pa.int64()),
        ("position", pa.int32()),  # tokens generated before the round
        ("draft", _NAME),  # null where nothing was drafted
        ("step", pa.int64()),
        ("batch_size", pa.int32()),
        ("context_len", pa.int32()),
        ("waiting", pa.int32()),
        ("planned", pa.int32()),
        ("proposed", pa.int32()),
        ("accepted", pa.int32()),
        ("observed", pa.int32()),
        ("confidence", pa.list_(pa.field("element", pa.float32()))),  # of proposed tokens
        ("verify_len", pa.int32()),
        ("num_draft_steps", pa.int32()),
        ("num_prefill", pa.int32()),
        ("step_s", pa.float64()),
        ("draft_s", pa.float64()),
        ("verify_s", pa.float64()),
        ("policy", _NAME),
        ("propensity", pa.float64()),
    ],
    {VERSION_KEY: VERSION.encode()},
)


@dataclass(slots=True)
class TraceRound:
    """One step of an engine; its arrays are handed over and never changed afterwards.

    Attributes:
        time_s: wall clock, seconds since the epoch.
        step_id: of the plan.
        policy: the policy's name and version, such as "goodput/1".
        batch_size: rows that the forwards ran over.
        num_waiting: requests that wait for a place.
        request: (n,) running number of the request in this engine.
        position: (n,) tokens generated before this round.
        context_len: (n,) tokens of prompt and output before this round.
        draft: (n,) index into the recorder's names of drafts, -1 where nothing was drafted.
        planned: (n,) tokens that the policy wanted drafted.
        proposed: (n,) tokens that the target verified.
        accepted: (n,) of them accepted.
        observed: (n,) positions whose outcome was seen.
        confidence: (n, K) the draft's largest probability by position, of which the first
            `proposed` of each row are kept; None where the host does not say.
        propensity: (n,) probability of the choice, 1 where it was certain, NaN where it is not
            known.
        verify_len: tokens verified for each request, padding included.
        num_draft_steps: forwards of the draft that proposed a token.
        step_s: seconds of the whole step.
        draft_s: seconds in the draft, if known.
        verify_s: seconds in the verification, if known.
        num_prefill: tokens of prompts that the step read.
    """

    time_s: float
    step_id: int
    policy: str
    batch_size: int
    num_waiting: int
    request: NDArray[np.int64]
    position: NDArray[np.int32]
    context_len: NDArray[np.int32]
    draft: NDArray[np.int32]
    planned: NDArray[np.int32]
    proposed: NDArray[np.int32]
    accepted: NDArray[np.int32]
    observed: NDArray[np.int32]
    confidence: NDArray[np.float64] | None
    propensity: NDArray[np.float64]
    verify_len: int
    num_draft_steps: int
    step_s: float
    draft_s: float | None = None
    verify_s: float | None = None
    num_prefill: int = 0


def to_table(
    rounds: Sequence[TraceRound], engine_id: str, run: str, drafts: Sequence[str]
) -> pa.Table:
    """One row for each request of each round, in order; no Python loop over rows.

    Args:
        rounds: at least one.
        engine_id: the engine's name.
        run: the recorder's name.
        drafts: names that `TraceRound.draft` points into.

    Raises:
        Exception: numpy's or pyarrow's, where a round's arrays do not fit together.
    """
    num_rows = np.array([entry.request.size for entry in rounds])

    def of_rows(name: str, dtype: DTypeLike) -> NDArray[Any]:
        return np.concatenate(list(map(attrgetter(name), rounds)), dtype=dtype)

    def of_rounds(name: str, dtype: DTypeLike) -> NDArray[Any]:
        return np.repeat(np.array(list(map(attrgetter(name), rounds)), dtype), num_rows)

    def optional(name: str) -> pa.Array:
        missing = np.array([getattr(entry, name) is None for entry in rounds])
        return pa.array(of_rounds(name, np.float64), mask=np.repeat(missing, num_rows))

    policies = {name: code for code, name in enumerate({entry.policy: None for entry in rounds})}
    policy = np.array([policies[entry.policy] for entry in rounds], np.int32)
    one = np.zeros(num_rows.sum(), np.int32)
    proposed = of_rows("proposed", np.int32)
    columns = {
        "time_s": of_rounds("time_s", np.float64),
        "engine": _names(one, [engine_id]),
        "run": _names(one, [run]),
        "request": of_rows("request", np.int64),
        "draft": _names(of_rows("draft", np.int32), drafts),
        "step": of_rounds("step_id", np.int64),
        "waiting": of_rounds("num_waiting", np.int32),
        "proposed": proposed,
        "confidence": _confidence(rounds, num_rows, proposed),
        "step_s": of_rounds("step_s", np.float64),
        "draft_s": optional("draft_s"),
        "verify_s": optional("verify_s"),
        "policy": _names(np.repeat(policy, num_rows), list(policies)),
        "propensity": of_rows("propensity", np.float64),
    }
    for name in ("position", "context_len", "planned", "accepted", "observed"):
        columns[name] = of_rows(name, np.int32)
    for name in ("batch_size", "verify_len", "num_draft_steps", "num_prefill"):
        columns[name] = of_rounds(name, np.int32)
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _names(codes: NDArray[np.int32], names: Sequence[str]) -> pa.DictionaryArray:
    """Names by code, null where it is negative."""
    return pa.DictionaryArray.from_arrays(
        pa.array(codes, mask=codes < 0), pa.array(names, pa.string())
    )


def _confidence(
    rounds: Sequence[TraceRound], num_rows: NDArray[np.int64], proposed: NDArray[np.int32]
) -> pa.ListArray:
    """The first `proposed` of each row, null where a round has none."""
    given = [entry.confidence for entry in rounds]
    known = [part.ravel() for part in given if part is not None] or [np.empty(0)]
    values = np.concatenate(known, dtype=np.float32)
    width = np.repeat([0 if part is None else part.shape[1] for part in given], num_rows)
    missing = np.repeat([part is None for part in given], num_rows)
    length = np.minimum(proposed, width)
    column = np.arange(len(values)) - np.repeat(width.cumsum() - width, width)
    kept = values[column < np.repeat(length, width)]
    offsets = np.concatenate([[0], length.cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(kept), mask=pa.array(missing))


_KIND = segment_file.SegmentKind(
    name="trace",
    version_key=VERSION_KEY,
    version=VERSION,
    schema=SCHEMA,
    which_folder="give the folder that trace.dir names in the policy file",
    when_written="an engine writes the first after half a minute, or when it closes",
)


def segments(directory: str | Path) -> list[Path]:
    """The complete segments of a trace in order of time.

    Raises:
        TraceError: the folder does not exist, is none, or holds no segment.
    """
    return segment_file.segments(directory, _KIND)


def read_trace(directory: str | Path, columns: list[str] | None = None) -> pa.Table:
    """All complete segments of a trace as one table, in order of time.

    Args:
        directory: the trace's folder, which several engines may share.
        columns: names from `SCHEMA`; all by default.

    Raises:
        TraceError: one line that says what was expected, what came and what to do.
    """
    found = segment_file.read_segments(directory, _KIND, columns)
    return pa.concat_tables(table for _, table in found).unify_dictionaries()


def first_of_steps(
    run: NDArray[np.int64], step: NDArray[np.int64], step_s: NDArray[np.float64]
) -> NDArray[np.intp]:
    """The first row of every engine step.

    Steps under one plan have its number; the seconds that each took tell them apart.

    Args:
        run: (n,) as a number.
        step: (n,) of the plan.
        step_s: (n,) seconds, NaN where they were not measured.
    """
    keys = (np.nan_to_num(step_s, nan=-1.0), step, run)
    order = np.lexsort(keys)
    new = np.zeros(len(order), np.bool_)
    new[:1] = True
    for key in keys:
        new[1:] |= np.diff(key[order]) != 0
    first: NDArray[np.intp] = order[new]
    return first


def codes(names: pa.ChunkedArray) -> NDArray[np.int64]:
    """A number for each row's name (n,); the names must not be null."""
    parts = [np.asarray(chunk.indices, np.int64) for chunk in names.chunks]
    return np.concatenate([np.empty(0, np.int64), *parts])
