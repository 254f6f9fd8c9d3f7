"""Folders of Parquet segments of one kind and version; anything else is refused in one line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flyball.controller.errors import TraceError

SUFFIX = ".parquet"

_log = logging.getLogger(__name__)


class UnreadableError(TraceError):
    """A segment is no whole Parquet file."""


@dataclass(frozen=True)
class SegmentKind:
    """A kind of trace.

    Attributes:
        name: in messages, after an "a".
        version_key: of the schema's metadata, under which a segment says its version.
        version: that is read and written.
        schema: with the version in its metadata.
        which_folder: remedy where the folder is none.
        when_written: why a folder may hold no segment yet.
    """

    name: str
    version_key: bytes
    version: str
    schema: pa.Schema
    which_folder: str
    when_written: str


def segments(directory: str | Path, kind: SegmentKind) -> list[Path]:
    """The complete segments of a folder by name.

    Raises:
        TraceError: the folder does not exist, is none, or holds no segment.
    """
    directory = Path(directory)
    if not directory.is_dir():
        problem = "it is no folder" if directory.exists() else "it does not exist"
        raise TraceError(
            f"{directory}: expected a folder with a {kind.name}, but {problem}; "
            f"{kind.which_folder}"
        )
    found = sorted(directory.glob(f"*{SUFFIX}"))
    if not found:
        raise TraceError(
            f"{directory}: expected {kind.name} segments (*{SUFFIX}), but found none; "
            f"{kind.when_written}"
        )
    return found


def read_segments(
    directory: str | Path, kind: SegmentKind, columns: list[str] | None = None
) -> list[tuple[Path, pa.Table]]:
    """The segments of a folder, or some of their columns, by name.

    What is no whole file, such as a copy that was cut off, is left out, and named in a warning.

    Raises:
        TraceError: the folder holds no segment, none can be read, or one is of another kind or
            version.
    """
    found: list[tuple[Path, pa.Table]] = []
    unreadable: list[UnreadableError] = []
    for path in segments(directory, kind):
        try:
            found.append((path, read_segment(path, kind, columns)))
        except UnreadableError as error:
            unreadable.append(error)
    if not found:
        raise unreadable[0]
    for problem in unreadable:
        _log.warning("%s; it is left out", problem)
    return found


def read_segment(path: Path, kind: SegmentKind, columns: list[str] | None = None) -> pa.Table:
    """A segment, or some of its columns.

    Raises:
        UnreadableError: it cannot be read.
        TraceError: it is not of this kind and version.
    """

    def attempt(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise UnreadableError(
                f"{path}: cannot read the segment: {reason}; move the file out of the trace"
            ) from error

    with attempt(lambda: pq.ParquetFile(path)) as file:
        _check(path, file.schema_arrow, kind)
        return attempt(lambda: file.read(columns))


def _check(path: Path, schema: pa.Schema, kind: SegmentKind) -> None:
    version = (schema.metadata or {}).get(kind.version_key, b"").decode(errors="replace")
    if not version:
        raise TraceError(
            f"{path}: expected a {kind.name} segment, but it is another Parquet file; "
            "move it out of the trace"
        )
    if version != kind.version:
        raise TraceError(
            f"{path}: expected {kind.name} version {kind.version}, but got {version}; "
            "read it with the Flyball version that recorded it"
        )
    if not schema.equals(kind.schema):
        odd = sorted({str(field) for field in schema} ^ {str(field) for field in kind.schema})
        raise TraceError(
            f"{path}: expected the columns of {kind.name} version {kind.version}, but these "
            f"differ: {', '.join(odd) or 'their order'}; move the file out of the trace"
        )
