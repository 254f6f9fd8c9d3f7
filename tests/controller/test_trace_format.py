import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.controller.errors import FlyballError, TraceError
from flyball.controller.trace import SCHEMA, TraceRecorder, TraceRound, read_trace, write_segment

DRAFTS = ("draft model", "prompt_lookup")


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
                "num_prefill": entry.num_prefill,
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
        num_prefill=draw(COUNTS),
        step_s=draw(SECONDS),
        draft_s=draw(st.none() | SECONDS),
        verify_s=draw(st.none() | SECONDS),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(rounds(), max_size=8), st.integers(1, 6))
def test_what_is_recorded_is_what_is_read(entries: list[TraceRound], segment_rows: int) -> None:
    expected = [row for entry in entries for row in expected_rows(entry)]
    with tempfile.TemporaryDirectory() as folder:
        recorder = TraceRecorder(folder, "engine", DRAFTS, segment_rows=segment_rows)
        for entry in entries:
            recorder.add(entry)
        recorder.close()
        assert (recorder.written, recorder.dropped) == (len(entries), 0)
        if expected:
            table = read_trace(folder)
            assert len(set(table["run"].to_pylist())) == 1
            np.testing.assert_equal(table.drop_columns("run").to_pylist(), expected)
        else:
            assert list(Path(folder).iterdir()) == []


def test_what_is_no_trace_is_refused_in_one_line(tmp_path: Path) -> None:
    empty = SCHEMA.empty_table()

    def refused(directory: Path, expected: str) -> None:
        with pytest.raises(TraceError, match=expected) as caught:
            read_trace(directory)
        assert isinstance(caught.value, FlyballError)
        assert isinstance(caught.value, ValueError)
        assert "\n" not in str(caught.value)

    def with_file(name: str, table: pa.Table) -> Path:
        folder = tmp_path / name
        write_segment(empty, folder / "1.parquet")
        write_segment(table, folder / "0.parquet")
        return folder

    metadata = {b"flyball_trace_version": b"9"}
    refused(tmp_path / "none", "expected a folder with a trace, but it does not exist")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "but it is no folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "found none")
    (tmp_path / "empty" / "0.parquet").write_bytes(b"no parquet\n\n")
    refused(tmp_path / "empty", "0.parquet: cannot read the segment: .*; move the file out")
    refused(with_file("foreign", pa.table({"a": [1]})), "it is another Parquet file")
    refused(with_file("new", empty.replace_schema_metadata(metadata)), "version 2, but got 9")
    changed = empty.drop_columns("step").replace_schema_metadata(SCHEMA.metadata)
    refused(with_file("changed", changed), "but these differ: step|int64")


def test_what_is_no_whole_segment_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_segment(SCHEMA.empty_table(), tmp_path / "1.parquet")
    whole = (tmp_path / "1.parquet").read_bytes()
    (tmp_path / "0.parquet").write_bytes(whole[:-20])
    assert len(read_trace(tmp_path)) == 0
    (line,) = (record.getMessage() for record in caplog.records)
    assert "0.parquet: cannot read the segment" in line and "left out" in line


def test_one_column_can_be_read_alone(tmp_path: Path) -> None:
    write_segment(SCHEMA.empty_table(), tmp_path / "1.parquet")
    assert read_trace(tmp_path, ["accepted"]).column_names == ["accepted"]
