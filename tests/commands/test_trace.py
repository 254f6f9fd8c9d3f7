import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyball.controller.trace import SCHEMA, TraceRecorder, TraceRound, write_segment


def make_round(step_id: int, accepted: list[int], draft: int = 0) -> TraceRound:
    """A round that drafts three tokens for every request, or none where `draft` is -1."""
    n = len(accepted)
    hits = np.array(accepted, np.int32)
    proposed = np.full(n, 0 if draft < 0 else 3, np.int32)
    return TraceRound(
        time_s=1.7e9 + step_id,
        step_id=step_id,
        policy="goodput/1",
        batch_size=n,
        num_waiting=0,
        request=np.arange(n),
        position=np.zeros(n, np.int32),
        context_len=np.zeros(n, np.int32),
        draft=np.full(n, draft, np.int32),
        planned=proposed + 1,
        proposed=proposed,
        accepted=hits,
        observed=np.minimum(hits + 1, proposed),
        confidence=None,
        propensity=np.ones(n),
        verify_len=4,
        num_draft_steps=3,
        step_s=0.01 * step_id,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for engine in ("first", "second [x]"):
        recorder = TraceRecorder(tmp_path, engine, ("tiny",))
        recorder.add(make_round(1, [3, 1, 0]))
        recorder.add(make_round(2, [0], draft=-1))
        recorder.close()
    return tmp_path


def test_info_counts_what_was_recorded(folder: Path, flyball: Callable[..., Any]) -> None:
    summary = json.loads(flyball("trace", "info", folder, "--json").out)
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert summary == {
        "segments": 2,
        "bytes": size,
        "rows": 8,
        "requests": 6,
        "steps": 4,
        "start_s": 1.7e9 + 1,
        "end_s": 1.7e9 + 2,
        "engines": ["first", "second [x]"],
        "drafts": ["tiny"],
        "policies": ["goodput/1"],
        "planned_tokens": 26,
        "proposed_tokens": 18,
        "accepted_tokens": 8,
        "acceptance": [pytest.approx(2 / 3), 0.5, 1.0],
        "observed_rounds": [6, 4, 2],
        "mean_accepted": 1.0,
        "mean_step_s": pytest.approx(0.015),
        "batch_size": {"min": 1.0, "mean": 2.0, "max": 3.0},
    }


def test_info_prints_tables(folder: Path, flyball: Callable[..., Any]) -> None:
    done = flyball("trace", "info", folder)
    assert done.code == 0
    for text in ("first, second [x]", "goodput/1", "tiny", "0.667", "1 to 3, mean 2"):
        assert text in done.out


def test_info_of_a_trace_without_drafts(tmp_path: Path, flyball: Callable[..., Any]) -> None:
    recorder = TraceRecorder(tmp_path, "engine", ())
    recorder.add(make_round(1, [0], draft=-1))
    recorder.close()
    assert json.loads(flyball("trace", "info", tmp_path, "--json").out)["acceptance"] == []
    assert flyball("trace", "info", tmp_path).code == 0


def test_info_of_a_trace_without_rows(tmp_path: Path, flyball: Callable[..., Any]) -> None:
    write_segment(SCHEMA.empty_table(), tmp_path / "1.parquet")
    summary = json.loads(flyball("trace", "info", tmp_path, "--json").out)
    assert (summary["rows"], summary["steps"], summary["mean_step_s"]) == (0, 0, None)
    assert flyball("trace", "info", tmp_path).code == 0


def test_info_of_no_trace_is_one_line(tmp_path: Path, flyball: Callable[..., Any]) -> None:
    for directory in (tmp_path, tmp_path / "none"):
        done = flyball("trace", "info", directory)
        assert done.code == 2
        assert done.err.startswith(f"flyball: {directory}: expected")
        assert len(done.err.splitlines()) == 1
