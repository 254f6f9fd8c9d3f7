import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.controller import trace
from flyball.controller.errors import FlyballError, TraceError
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
        "step_s": 0.01,
    }
    return TraceRound(**{**fields, **changes})


def record(directory: Path, rounds: list[TraceRound], **options: Any) -> TraceRecorder:
    recorder = TraceRecorder(directory, "engine", DRAFTS, **options)
    for entry in rounds:
        recorder.add(entry)
    recorder.close()
    return recorder


def f32(values: Any) -> list[float]:
    return np.asarray(values, np.float32).tolist()


def expected_rows(entry: TraceRound) -> list[dict[str, Any]]:
    """The rows of a round, told in the plainest way."""
    rows = []
    for i in range(entry.request.size):
        draft = int(entry.draft[i])
        kept = None
        if entry.confidence is not None:
            kept = f32(entry.confidence[i, : entry.proposed[i]])
        rows.append(
            {
                "time_s": entry.time_s,
                "engine": "engine",
                "request": int(entry.request[i]),
                "position": int(entry.position[i]),
                "draft": None if draft < 0 else DRAFTS[draft],
                "step": entry.step_id,
                "batch_size": entry.batch_size,
                "context_len": int(entry.context_len[i]),
                "waiting": entry.num_waiting,
                "planned": int(entry.planned[i]),
                "proposed": int(entry.proposed[i]),
                "accepted": int(entry.accepted[i]),
                "observed": int(entry.observed[i]),
                "confidence": kept,
                "verify_len": entry.verify_len,
                "num_draft_steps": entry.num_draft_steps,
                "step_s": entry.step_s,
                "draft_s": entry.draft_s,
                "verify_s": entry.verify_s,
                "policy": entry.policy,
                "propensity": float(entry.propensity[i]),
            }
        )
    return rows


SECONDS = st.floats(allow_nan=True, allow_infinity=True)
COUNTS = st.integers(0, 2**31 - 1)


@st.composite
def rounds(draw: st.DrawFn) -> TraceRound:
    n, width = draw(st.integers(0, 4)), draw(st.integers(0, 5))

    def row(element: st.SearchStrategy[Any], dtype: Any, size: int = n) -> np.ndarray:
        return np.array(draw(st.lists(element, min_size=size, max_size=size)), dtype)

    confidence = None
    if draw(st.booleans()):
        confidence = row(st.floats(width=32), np.float64, n * width).reshape(n, width)
    return TraceRound(
        time_s=draw(SECONDS),
        step_id=draw(st.integers(0, 2**40)),
        policy=draw(st.text(st.characters(codec="utf-8"), max_size=5)),
        batch_size=draw(COUNTS),
        num_waiting=draw(COUNTS),
        request=row(st.integers(0, 2**62), np.int64),
        draft=row(st.integers(-1, 1), np.int32),
        proposed=row(st.integers(0, 7), np.int32),
        **{
            name: row(COUNTS, np.int32)
            for name in ("position", "context_len", "planned", "accepted", "observed")
        },
        confidence=confidence,
        propensity=row(SECONDS, np.float64),
        verify_len=draw(COUNTS),
        num_draft_steps=draw(COUNTS),
        step_s=draw(SECONDS),
        draft_s=draw(st.none() | SECONDS),
        verify_s=draw(st.none() | SECONDS),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(rounds(), max_size=8), st.integers(1, 6))
def test_what_is_recorded_is_what_is_read(entries: list[TraceRound], segment_rows: int) -> None:
    expected = [row for entry in entries for row in expected_rows(entry)]
    with tempfile.TemporaryDirectory() as folder:
        recorder = record(Path(folder), entries, segment_rows=segment_rows)
        assert (recorder.written, recorder.dropped) == (len(entries), 0)
        if expected:
            table = read_trace(folder)
            assert len(set(table["run"].to_pylist())) == 1
            np.testing.assert_equal(table.drop_columns("run").to_pylist(), expected)
        else:
            assert list(Path(folder).iterdir()) == []


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


COMMON = """
import sys, numpy as np
from flyball.controller import trace
from flyball.controller.trace import TraceRecorder, TraceRound
def make(step):
    one = np.ones(1, np.int32)
    return TraceRound(1.7e9, step, "static/1", 1, 0, np.zeros(1, np.int64), step * one,
                      one, 0 * one, one, one, one, one, np.ones((1, 1)), np.ones(1), 2, 1, 0.1)
"""


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMON + code, *arguments], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("num_written", [1, 40, 41, 97])
def test_a_killed_process_leaves_a_readable_trace(tmp_path: Path, num_written: int) -> None:
    code = """
recorder = TraceRecorder(sys.argv[1], "engine", ("draft",), segment_rows=1, max_pending=4)
step, told = 0, False
while True:
    before = recorder.dropped
    recorder.add(make(step))
    step += recorder.dropped == before
    if recorder.written >= int(sys.argv[2]) and not told:
        told = print("written", flush=True) is None
"""
    process = child(code, str(tmp_path), str(num_written))
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    steps = read_trace(tmp_path)["step"].to_pylist()
    assert len(steps) >= num_written
    assert steps == list(range(len(steps)))
    record(tmp_path, [make_round()])
    assert not list(tmp_path.glob("*.tmp"))


def test_a_process_that_ends_without_close_loses_nothing(tmp_path: Path) -> None:
    code = """
recorder = TraceRecorder(sys.argv[1], "engine", ("draft",))
for step in range(7):
    recorder.add(make(step))
"""
    process = child(code, str(tmp_path))
    process.communicate()
    assert process.returncode == 0
    assert len(read_trace(tmp_path)) == 7


def test_a_full_disk_costs_nothing_once_there_is_room_again(tmp_path: Path) -> None:
    code = """
import resource, threading
trace.FIRST_RETRY_S = 1e-3
full = threading.Event()
complain = TraceRecorder._complain
def noticed(self, reason):
    complain(self, reason)
    print(reason)
    full.set()
TraceRecorder._complain = noticed
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
recorder = TraceRecorder(sys.argv[1], "engine", ("draft",), segment_rows=2)
for step in range(2):
    recorder.add(make(step))
assert full.wait(60)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
for step in range(2, 6):
    recorder.add(make(step))
recorder.close()
assert (recorder.written, recorder.dropped) == (6, 0)
"""
    process = child(code, str(tmp_path))
    output, _ = process.communicate()
    assert process.returncode == 0
    assert "File too large" in output
    assert read_trace(tmp_path)["step"].to_pylist() == list(range(6))
    assert not list(tmp_path.glob(".*"))


def test_what_is_no_trace_is_refused_in_one_line(tmp_path: Path) -> None:
    def refused(directory: Path, expected: str) -> None:
        with pytest.raises(TraceError, match=expected) as caught:
            read_trace(directory)
        assert isinstance(caught.value, FlyballError)
        assert isinstance(caught.value, ValueError)
        assert "\n" not in str(caught.value)

    def with_file(name: str, table: pa.Table | None = None) -> Path:
        folder = tmp_path / name
        record(folder, [make_round()])
        if table is None:
            (folder / "0.parquet").write_bytes(b"no parquet\n\n")
        else:
            pq.write_table(table, folder / "0.parquet")
        return folder

    metadata = {b"flyball_trace_version": b"9"}
    empty = trace.SCHEMA.empty_table()
    refused(tmp_path / "none", "expected a folder with a trace, but it does not exist")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "but it is no folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "found none")
    refused(with_file("text"), "0.parquet: cannot read the segment: .*; move the file out")
    refused(with_file("foreign", pa.table({"a": [1]})), "it is another Parquet file")
    refused(with_file("new", empty.replace_schema_metadata(metadata)), "version 1, but got 9")
    changed = empty.drop_columns("step").replace_schema_metadata(trace.SCHEMA.metadata)
    refused(with_file("changed", changed), "but these differ: step|int64")


def test_one_column_can_be_read_alone(tmp_path: Path) -> None:
    record(tmp_path, [make_round(3)])
    assert read_trace(tmp_path, ["accepted"]).column_names == ["accepted"]


def test_neither_the_package_nor_its_command_line_loads_pyarrow() -> None:
    code = (
        "import flyball, flyball.commands.main, sys; "
        "assert not {'pyarrow', 'torch', 'transformers', 'pydantic'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
