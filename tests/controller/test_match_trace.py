from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flyball.controller.errors import FlyballError, TraceError
from flyball.controller.match_text import MatchText, branches_of
from flyball.controller.match_trace import KIND, SCHEMA, read_matches, write_matches
from flyball.controller.segment_file import read_segment
from flyball.controller.trace import SCHEMA as ROUNDS
from flyball.controller.trace import write_segment


def make_text(match: list[float], num_ahead: int = 4, **changes: Any) -> MatchText:
    """Every value tells where it comes from: 0.01 a position, and tails count on from there."""
    size = len(match)
    sampled = changes.get("sampled", False)
    branches = branches_of(np.array(match, np.float32), sampled)
    confidence = np.arange(size, dtype=np.float32) / 100
    tail = 0.5 + np.add.outer(branches / 100, np.arange(num_ahead - 1) / 1000)
    fields: dict[str, Any] = {
        "domain": "code",
        "target": "big",
        "draft": "small",
        "prompt_len": 7,
        "limit": 300,
        "num_ahead": num_ahead,
        "sampled": sampled,
        "tokens": np.arange(size, dtype=np.int32),
        "match": np.array(match, np.float32),
        "target_log_p": -confidence,
        "draft_log_p": np.full(size, -np.inf, np.float32),
        "confidence": confidence,
        "entropy": confidence + 1,
        "tail_confidence": tail.astype(np.float32),
        "tail_entropy": (tail + 1).astype(np.float32),
    }
    return MatchText(**{**fields, **changes})


def test_a_draft_sees_the_text_until_its_first_miss_and_its_own_tail_after_it() -> None:
    text = make_text([1, 1, 0, 1, 0, 1, 1])
    assert text.branches.tolist() == [2, 4, 6]
    confidence, entropy = text.ahead(np.arange(7))
    expected = [
        [0.00, 0.01, 0.02, 0.520],
        [0.01, 0.02, 0.520, 0.521],
        [0.02, 0.520, 0.521, 0.522],
        [0.03, 0.04, 0.540, 0.541],
        [0.04, 0.540, 0.541, 0.542],
        [0.05, 0.06, 0.560, 0.561],
        [0.06, 0.560, 0.561, 0.562],
    ]
    np.testing.assert_allclose(confidence, expected, atol=1e-6)
    np.testing.assert_allclose(entropy, np.array(expected) + 1, atol=1e-6)
    np.testing.assert_array_equal(text.ahead(np.array([5]))[0], confidence[5:6])


def test_one_position_ahead_is_the_position_itself() -> None:
    text = make_text([1, 0, 1], num_ahead=1)
    np.testing.assert_array_equal(text.ahead(np.arange(3))[0][:, 0], text.confidence)


def test_a_sampled_text_stands_for_what_would_be_drawn() -> None:
    text = make_text([0.5, 0.1, 1.0], sampled=True)
    assert text.branches.tolist() == []
    confidence, _ = text.ahead(np.array([1]))
    np.testing.assert_allclose(confidence, [[0.01, 0.02, np.nan, np.nan]], atol=1e-6)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    written = [
        make_text(rng.integers(0, 2, size).astype(float).tolist(), domain=f"text {size}")
        for size in (1, 5, 40)
    ]
    written.append(make_text([0.25, 1.0], sampled=True, num_ahead=1))
    nothing = np.zeros((0, 3), np.float32)
    offers = {"strength": np.array([-1, 5, 0], np.int32), "matched": np.array([0, 4, 0], np.int32)}
    tails = {"tail_confidence": nothing, "tail_entropy": nothing}
    written.append(make_text([0.0, 1.0, 0.0], **offers, **tails))
    write_matches(written[:2], tmp_path / "new" / "0.parquet")
    write_matches(written[2:], tmp_path / "new" / "1.parquet")
    found = read_matches(tmp_path / "new")
    assert len(found) == len(written)
    for one, other in zip(found, written, strict=True):
        for name in SCHEMA.names:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)


def test_what_is_no_match_trace_is_refused_in_one_line(tmp_path: Path) -> None:
    def refused(folder: Path, expected: str) -> None:
        with pytest.raises(TraceError, match=expected) as caught:
            read_matches(folder)
        assert isinstance(caught.value, FlyballError)
        assert "\n" not in str(caught.value)

    def with_table(name: str, table: pa.Table) -> Path:
        write_segment(table, tmp_path / name / "0.parquet")
        return tmp_path / name

    good = tmp_path / "good" / "0.parquet"
    write_matches([make_text([1, 0, 1])], good)
    table = pq.read_table(good)

    def altered(name: str, value: Any) -> Path:
        row = {**table.to_pylist()[0], name: value}
        return with_table(f"altered {name}", pa.Table.from_pylist([row], schema=SCHEMA))

    refused(tmp_path / "none", "expected a folder with a match trace, but it does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "found none; record matches into it first")
    refused(with_table("rounds", ROUNDS.empty_table()), "expected a match trace segment")
    newer = table.replace_schema_metadata({KIND.version_key: b"9"})
    refused(with_table("newer", newer), "expected match trace version 2, but got 9; read it with")
    fewer = table.drop_columns("entropy").replace_schema_metadata(SCHEMA.metadata)
    refused(with_table("fewer", fewer), "but these differ: entropy|entropy")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "0.parquet").write_bytes(good.read_bytes()[:-20])
    refused(tmp_path / "cut", "0.parquet: cannot read the segment: .*; move the file out")
    refused(altered("entropy", [0.1]), "row 0: expected 3 values of entropy, one a token, but got")
    refused(altered("tail_entropy", [0.1]), "expected 6 values of tail_entropy, 3 a branch")
    refused(altered("strength", [0]), "expected 3 values of strength, one a token, or none")
    refused(altered("domain", None), "expected a value for domain")
    refused(altered("tokens", []), "expected tokens and num_ahead of at least 1")


def test_one_column_can_be_read_alone(tmp_path: Path) -> None:
    write_matches([make_text([1, 0, 1])], tmp_path / "0.parquet")
    table = read_segment(tmp_path / "0.parquet", KIND, ["match"])
    assert table.to_pylist() == [{"match": [1.0, 0.0, 1.0]}]
