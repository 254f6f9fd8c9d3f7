"""Match traces: finished texts as a draft saw them, in Parquet, so that replay is exact."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flyball.controller.errors import TraceError
from flyball.controller.match_text import MatchText, branches_of
from flyball.controller.segment_file import SegmentKind, read_segments, segments
from flyball.controller.trace import write_segment

VERSION = "2"
VERSION_KEY = b"flyball_match_trace_version"

_FLOATS = pa.list_(pa.field("element", pa.float32()))
_INTS = pa.list_(pa.field("element", pa.int32()))
SCHEMA = pa.schema(
    [
        ("domain", pa.string()),
        ("target", pa.string()),
        ("draft", pa.string()),
        ("prompt_len", pa.int32()),
        ("limit", pa.int32()),
        ("num_ahead", pa.int32()),
        ("sampled", pa.bool_()),
        ("tokens", _INTS),
        ("match", _FLOATS),
        ("target_log_p", _FLOATS),
        ("draft_log_p", _FLOATS),
        ("confidence", _FLOATS),
        ("entropy", _FLOATS),
        ("tail_confidence", _FLOATS),  # one tail after the other
        ("tail_entropy", _FLOATS),
        ("strength", _INTS),  # empty for drafts that step, as is the next
        ("matched", _INTS),
    ],
    {VERSION_KEY: VERSION.encode()},
)
KIND = SegmentKind(
    name="match trace",
    version_key=VERSION_KEY,
    version=VERSION,
    schema=SCHEMA,
    which_folder="give the folder that the recorder of matches wrote",
    when_written="record matches into it first",
)
_BY_POSITION = ("match", "target_log_p", "draft_log_p", "confidence", "entropy")
_TAILS = ("tail_confidence", "tail_entropy")
_OFFERS = ("strength", "matched")


def write_matches(texts: Sequence[MatchText], path: Path) -> None:
    """Write texts as one segment, one row each, so that it is there in full or not at all.

    Args:
        texts: of any targets, drafts and domains.
        path: of the segment, which ends in .parquet; its folder is the trace.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    rows = [{name: _plain(getattr(text, name)) for name in SCHEMA.names} for text in texts]
    write_segment(pa.Table.from_pylist(rows, schema=SCHEMA), path)


def _plain(value: Any) -> Any:
    return value.ravel() if isinstance(value, np.ndarray) else value


def is_exact(directory: str | Path) -> bool:
    """Whether a folder holds a match trace, by its first readable segment; else another one.

    Raises:
        TraceError: there is no segment.
    """
    for path in segments(directory, KIND):
        with suppress(OSError, pa.ArrowException):
            return VERSION_KEY in (pq.read_schema(path).metadata or {})
    return True


def read_matches(directory: str | Path) -> list[MatchText]:
    """All texts of a match trace, segment after segment by name.

    Raises:
        TraceError: one line that says what was expected, what came and what to do.
    """
    found = read_segments(directory, KIND)
    return [text for path, table in found for text in _read(path, table)]


def _read(path: Path, table: pa.Table) -> list[MatchText]:
    columns = {name: table[name] for name in SCHEMA.names}
    return [
        _text(path, row, {name: column[row] for name, column in columns.items()})
        for row in range(len(table))
    ]


def _text(path: Path, row: int, cells: dict[str, pa.Scalar]) -> MatchText:
    def refuse(problem: str) -> TraceError:
        return TraceError(f"{path}: row {row}: {problem}; record the text again")

    empty = [name for name, cell in cells.items() if not cell.is_valid]
    if empty:
        raise refuse(f"expected a value for {empty[0]}, but got none")
    values: dict[str, Any] = {
        name: _array(cell) if isinstance(cell, pa.ListScalar) else cell.as_py()
        for name, cell in cells.items()
    }
    num_tokens, width = len(values["tokens"]), values["num_ahead"] - 1
    if num_tokens == 0 or width < 0:
        raise refuse("expected tokens and num_ahead of at least 1, but got less")
    for name in _BY_POSITION:
        if len(values[name]) != num_tokens:
            raise refuse(
                f"expected {num_tokens} values of {name}, one a token, but got {len(values[name])}"
            )
    offers = any(len(values[name]) for name in _OFFERS)
    for name in _OFFERS:
        if offers and len(values[name]) != num_tokens:
            raise refuse(
                f"expected {num_tokens} values of {name}, one a token, or none, but got "
                f"{len(values[name])}"
            )
    num_tails = len(branches_of(values["match"], values["sampled"] or offers))
    for name in _TAILS:
        if len(values[name]) != num_tails * width:
            raise refuse(
                f"expected {num_tails * width} values of {name}, {width} a branch, but got "
                f"{len(values[name])}"
            )
        values[name] = values[name].reshape(num_tails, width)
    return MatchText(**values)


def _array(cell: pa.ListScalar) -> NDArray[Any]:
    """A list's numbers; NaN where one is missing."""
    return np.asarray(cell.values.to_numpy(zero_copy_only=False))
