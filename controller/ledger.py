"""The ledger of a tuning: what was tried, line by line, so that a killed one goes on."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from flyball.controller.errors import TuneError

_VERSION = 1


class Ledger:
    """A file of JSON lines for one process; what a crash cut off at its end is dropped.

    Args:
        path: of the file; it is begun where it does not exist.
        key: of what is tuned; a file with another one is refused.

    Attributes:
        lines: that were there, without the first, which holds the key.

    Raises:
        TuneError: the file is of another tuning, is damaged, is in use, or cannot be written.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self.lines: list[dict[str, Any]] = []
        head = {"flyball_tune": _VERSION, "key": key}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b")  # noqa: SIM115 -- kept open
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found, size = _read(path)
            if found and found[0] != head:
                raise TuneError(
                    f"{path}: expected the trials of this trace, space and settings, but they are "
                    "of others; give another folder with --out"
                )
            self._file.truncate(size)
        except BlockingIOError as error:
            raise TuneError(
                f"{path}: another tuning writes these trials; wait for it, or give another folder "
                "with --out"
            ) from error
        except OSError as error:
            raise TuneError(f"{path}: cannot write the trials: {error.strerror}") from error
        self.lines = found[1:]
        if not found:
            self.add(head)

    def add(self, line: dict[str, Any]) -> None:
        """Write a line; it is on disk when this returns."""
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """End."""
        self._file.close()


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Whole lines of a file, and the bytes they take; a cut-off last one is left out."""
    lines, size = [], 0
    for number, raw in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not raw.endswith(b"\n"):
            break
        try:
            line = json.loads(raw)
        except ValueError:
            line = None
        if not isinstance(line, dict):
            raise TuneError(
                f"{path}: expected trials as JSON, but line {number} is none; give another folder "
                "with --out, or move the file away"
            )
        lines.append(line)
        size += len(raw)
    return lines, size
