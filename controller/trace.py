"""The recorder of verification rounds; `trace_format` says what it writes and reads it back."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import re
import secrets
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flyball.controller.trace_format import (
    SCHEMA,
    SUFFIX,
    TraceRound,
    read_trace,
    segments,
    to_table,
)

__all__ = [
    "SCHEMA",
    "TraceRecorder",
    "TraceRound",
    "read_trace",
    "segments",
    "write_segment",
]

FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0
CLOSE_S = 10.0  # a disk that hangs must not keep a process from ending

_log = logging.getLogger(__name__)


class TraceRecorder:
    """Writes rounds to a folder of Parquet segments, from a thread of its own.

    Lifetime: made in the process that decodes; `add` after every step; `close` at the end, or
    by the interpreter at exit. A segment is written whole to a temporary name, synced and renamed
    into place, so that a crash costs at most the rounds that waited. The folder is made with the
    first segment. Several engines may share a folder: a segment's name starts with its time and
    holds the engine and a random run.

    At most `max_pending` rounds wait for the disk. Where it is slower, full or missing, further
    rounds are dropped and counted, the first failure is logged, and writing is tried again after
    pauses that grow from one second to a minute.

    Args:
        directory: of the trace.
        engine_id: name of the engine, any text.
        drafts: names that `TraceRound.draft` points into.
        segment_rows: rows that fill a segment.
        segment_s: seconds after which a segment is closed all the same.
        max_pending: rounds held in memory; half of them close a segment too.

    Attributes:
        written: rounds on disk.
        dropped: rounds that are lost.
    """

    def __init__(
        self,
        directory: str | Path,
        engine_id: str,
        drafts: tuple[str, ...],
        *,
        segment_rows: int = 10_000,
        segment_s: float = 30.0,
        max_pending: int = 4096,
    ) -> None:
        self.written = 0
        self.dropped = 0
        self._directory = Path(directory)
        self._engine_id, self._drafts = engine_id, drafts
        self._segment_rows, self._segment_s = segment_rows, segment_s
        self._max_pending = max_pending
        self._run = secrets.token_hex(4)
        self._engine_slug = _slug(engine_id)
        self._named_at_us = 0
        self._wake = threading.Condition()
        self._pending: list[TraceRound] = []
        self._num_pending_rows = 0
        self._num_in_hand = 0  # rounds that the thread has taken and not settled
        self._closing = False
        self._complained = False
        self._thread = threading.Thread(target=self._work, name="flyball-trace", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def add(self, round: TraceRound) -> None:
        """Hand over a round; it is dropped where too many wait, and after `close`."""
        with self._wake:
            if self._closing or len(self._pending) + self._num_in_hand >= self._max_pending:
                self.dropped += 1
                return
            self._pending.append(round)
            self._num_pending_rows += round.request.size
            if self._is_due():
                self._wake.notify()

    def close(self) -> None:
        """Write what waits and end the thread, for `CLOSE_S` seconds at most."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(CLOSE_S)
        atexit.unregister(self.close)

    def _is_due(self) -> bool:
        return (
            self._closing
            or self._num_pending_rows >= self._segment_rows
            or 2 * len(self._pending) >= self._max_pending
        )

    def _work(self) -> None:
        _remove_leftovers(self._directory, self._engine_slug)
        last = False
        while not last:
            with self._wake:
                self._wake.wait_for(self._is_due, self._segment_s)
                last = self._closing
                batch, self._pending, self._num_pending_rows = self._pending, [], 0
                self._num_in_hand = len(batch)
            stored = self._store(batch) if batch else True
            with self._wake:
                if stored:
                    self.written += self._num_in_hand
                else:
                    self.dropped += self._num_in_hand
                self._num_in_hand = 0
            if self.dropped:
                self._complain("the disk is too slow")

    def _store(self, batch: list[TraceRound]) -> bool:
        """Write a segment, however often it takes; False where it is given up."""
        try:
            table = to_table(batch, self._engine_id, self._run, self._drafts)
            batch.clear()  # the table holds it all
            return len(table) == 0 or self._write(table, self._directory / self._next_name())
        except Exception as error:  # one odd round must not end the recording
            self._complain(f"{type(error).__name__}: {error}")
            return False

    def _write(self, table: pa.Table, path: Path) -> bool:
        pause = FIRST_RETRY_S
        while True:
            last = self._closing
            try:
                write_segment(table, path)
                return True
            except OSError as error:
                self._complain(str(error))
            if last:
                return False
            with self._wake:
                self._wake.wait_for(lambda: self._closing, pause)
            pause = min(2 * pause, LAST_RETRY_S)

    def _complain(self, reason: str) -> None:
        if not self._complained:
            self._complained = True
            _log.warning(
                "trace %s: rounds are late or dropped: %s; decoding goes on",
                self._directory,
                " ".join(reason.split()),
            )

    def _next_name(self) -> str:
        """A name that sorts after the last one, even where the wall clock was set back."""
        self._named_at_us = max(self._named_at_us + 1, time.time_ns() // 1000)
        stamp = datetime.fromtimestamp(self._named_at_us // 10**6, UTC)
        return (
            f"{stamp:%Y%m%dT%H%M%S}.{self._named_at_us % 10**6:06}"
            f"_{self._engine_slug}_{self._run}{SUFFIX}"
        )


def write_segment(table: pa.Table, path: Path) -> None:
    """Write a segment so that it is there in full or not at all.

    Raises:
        OSError: the folder or the file cannot be written; nothing is left behind.
    """
    sink = pa.BufferOutputStream()  # so that all errors of the disk are Python's own
    pq.write_table(table, sink, compression="zstd")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(sink.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def _slug(engine_id: str) -> str:
    """A file name's part that no other engine has, free of the underscores between parts."""
    readable = re.sub(r"[^A-Za-z0-9.-]", "-", engine_id)[:40]
    return f"{readable}-{hashlib.blake2s(engine_id.encode(), digest_size=4).hexdigest()}"


def _remove_leftovers(directory: Path, slug: str) -> None:
    """Remove what this engine's crashed runs began to write.

    Should a live recorder of the same engine lose its file, it writes the segment again.
    """
    with suppress(OSError):
        for path in directory.glob(f".*_{slug}_*{SUFFIX}.tmp"):
            path.unlink()
