import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flyball.controller import trace
from flyball.controller.trace import TraceRecorder, TraceRound, read_trace, segments

DRAFTS = ("draft model", "prompt_lookup")


def make_round(n: int = 1, step_id: int = 0, **changes: Any) -> TraceRound:
    proposed = np.full(n, 3, np.int32)
    fields: dict[str, Any] = {
        "time_s": 1.7e9 + step_id,
        "step_id": step_id,
        "policy": "goodput/1",
        "batch_size": n,
        "num_waiting": 0,
        "request": np.arange(n),
        "position": np.full(n, 4 * step_id, np.int32),
        "context_len": np.full(n, 100, np.int32),
        "draft": np.zeros(n, np.int32),
        "planned": np.full(n, 4, np.int32),
        "proposed": proposed,
        "accepted": proposed - 1,
        "observed": proposed,
        "confidence": np.full((n, 4), 0.5),
        "propensity": np.ones(n),
        "verify_len": 5,
        "num_draft_steps": 4,
        "num_prefill": 9,
        "step_s": 0.01,
    }
    return TraceRound(**{**fields, **changes})


def record(directory: Path, rounds: list[TraceRound], **options: Any) -> TraceRecorder:
    recorder = TraceRecorder(directory, "engine", DRAFTS, **options)
    for entry in rounds:
        recorder.add(entry)
    recorder.close()
    return recorder


def test_segments_close_by_rows_and_sort_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = watch_segments(monkeypatch)
    folder = tmp_path / "new" / "folder"
    recorder = TraceRecorder(folder, "engine", DRAFTS, segment_rows=4)
    for step in range(11):
        recorder.add(make_round(2, step))
        if step % 2:
            assert stored.acquire(timeout=60)
    assert len(segments(folder)) == 5
    recorder.close()
    recorder.close()
    table = read_trace(folder)
    assert table["step"].to_pylist() == [step for step in range(11) for _ in range(2)]


def test_names_keep_their_order_when_the_clock_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([10**18, 10**18 - 10**12, 10**18 - 10**12])
    monkeypatch.setattr(trace.time, "time_ns", lambda: next(times))
    recorder = TraceRecorder(tmp_path, "engine", DRAFTS)
    names = [recorder._next_name() for _ in range(3)]
    recorder.close()
    assert names == sorted(set(names))


def test_a_quiet_engine_s_rounds_become_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = watch_segments(monkeypatch)
    recorder = TraceRecorder(tmp_path, "engine", DRAFTS, segment_s=0.01)
    recorder.add(make_round())
    assert stored.acquire(timeout=30)
    assert len(read_trace(tmp_path)) == 1
    recorder.close()


def watch_segments(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Counts the segments that came to lie in place."""
    stored = threading.Semaphore(0)
    write = trace.write_segment

    def watched(table: pa.Table, path: Path) -> None:
        write(table, path)
        stored.release()

    monkeypatch.setattr(trace, "write_segment", watched)
    return stored


def test_engines_share_a_folder_whatever_their_names(tmp_path: Path) -> None:
    names = ["a/b", "a-b", "../up", "", "x" * 500, "ä b_c"]
    recorders = [TraceRecorder(tmp_path, name, DRAFTS) for name in names]
    for recorder in recorders:
        recorder.add(make_round(2))
        recorder.close()
    assert len(segments(tmp_path)) == len(names) == len(list(tmp_path.iterdir()))
    assert set(read_trace(tmp_path)["engine"].to_pylist()) == set(names)


def test_leftovers_are_ignored_and_removed_by_their_own_engine(tmp_path: Path) -> None:
    own, other = (trace._slug(name) for name in ("engine", "other"))
    mine, foreign = (tmp_path / f".20260101_{slug}_ab.parquet.tmp" for slug in (own, other))
    mine.write_bytes(b"PAR1 cut off")
    foreign.write_bytes(b"PAR1 cut off")
    record(tmp_path, [make_round()])
    assert not mine.exists()
    assert foreign.exists()
    assert len(read_trace(tmp_path)) == 1


def test_a_slow_disk_costs_rounds_and_never_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    began, go_on = threading.Event(), threading.Event()
    write = trace.write_segment

    def slow(table: pa.Table, path: Path) -> None:
        began.set()
        go_on.wait(60)
        write(table, path)

    monkeypatch.setattr(trace, "write_segment", slow)
    recorder = TraceRecorder(tmp_path, "engine", DRAFTS, segment_rows=3, max_pending=8)
    for step in range(3):
        recorder.add(make_round(1, step))
    assert began.wait(60)
    for step in range(3, 100):  # none of these waits for the disk
        recorder.add(make_round(1, step))
    assert recorder.dropped == 100 - 8
    go_on.set()
    recorder.close()
    assert (recorder.written, recorder.dropped) == (8, 92)
    assert read_trace(tmp_path)["step"].to_pylist() == list(range(8))
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


def test_a_folder_that_cannot_be_made_costs_the_trace_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        caplog.clear()
        recorder = record(directory, [make_round(1, step) for step in range(50)], segment_rows=5)
        assert (recorder.written, recorder.dropped) == (0, 50)
        (message,) = (r.getMessage() for r in caplog.records)
        assert str(directory) in message
        assert "\n" not in message


def test_writing_is_tried_again_until_the_disk_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "FIRST_RETRY_S", 1e-3)
    stored = watch_segments(monkeypatch)
    blocker = tmp_path / "traces"
    blocker.write_text("a file where the folder should be")
    replace, failed = os.replace, threading.Event()
    complain = TraceRecorder._complain

    def noticed(self: TraceRecorder, reason: str) -> None:
        complain(self, reason)
        failed.set()

    monkeypatch.setattr(TraceRecorder, "_complain", noticed)
    recorder = TraceRecorder(blocker, "engine", DRAFTS, segment_rows=2)
    recorder.add(make_round(2))
    assert failed.wait(60)
    replace(blocker, tmp_path / "moved")
    assert stored.acquire(timeout=60)
    recorder.close()
    assert (recorder.written, recorder.dropped) == (1, 0)
    assert len(read_trace(blocker)) == 2


def test_an_odd_round_is_dropped_and_later_ones_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for odd in (
        {"accepted": np.zeros(5, np.int32)},
        {"draft": np.full(2, 7, np.int32)},
        {"confidence": np.ones((5, 4))},
        {"step_s": "soon"},
    ):
        recorder = TraceRecorder(tmp_path, "engine", DRAFTS)
        stored = recorder._store([make_round(2, **odd)])
        assert not stored
        recorder.add(make_round(2))
        recorder.close()
        assert recorder.written == 1
    assert len(read_trace(tmp_path)) == 8
    assert len(caplog.records) == 4


def test_rounds_after_close_are_counted_as_dropped(tmp_path: Path) -> None:
    recorder = record(tmp_path, [make_round()])
    recorder.add(make_round())
    assert (recorder.written, recorder.dropped) == (1, 1)


def test_neither_the_package_nor_its_command_line_loads_pyarrow() -> None:
    code = (
        "import flyball, flyball.commands.main, sys; "
        "assert not {'pyarrow', 'torch', 'transformers', 'pydantic'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
