import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flyball.controller.policy_file import load_policy
from flyball.policies.registry import (
    ENSEMBLE_POLICIES,
    LENGTH_POLICIES,
    REJECTION_POLICIES,
    THROTTLE_POLICIES,
)

GOOD = "version: 1\nlength: {policy: static, draft_len: 3}\ntrace: {dir: traces/}\n"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


def test_check_tells_every_file_s_fate(
    tmp_path: Path, good: Path, flyball: Callable[..., Any]
) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("version = 1\n[length]\npolicy = 'godput'\n")
    done = flyball("policy", "check", broken, good, tmp_path / "none.yaml")
    assert done.code == 2
    assert done.out == f"{good}: ok, length policy static\n"
    first, second = done.err.splitlines()
    assert str(broken) in first
    assert "did you mean 'goodput'?" in first
    assert "none.yaml: cannot read" in second


def test_check_of_good_files_exits_with_0(good: Path, flyball: Callable[..., Any]) -> None:
    done = flyball("policy", "check", good, good)
    assert (done.code, done.err) == (0, "")
    assert len(done.out.splitlines()) == 2


def test_schema_is_json_schema(flyball: Callable[..., Any]) -> None:
    schema = json.loads(flyball("policy", "schema").out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert {"version", "length", "ensemble", "trace"} <= set(schema["properties"])


def test_show_prints_a_file_that_is_the_same_policy(
    tmp_path: Path, good: Path, flyball: Callable[..., Any]
) -> None:
    shown = tmp_path / "shown.yaml"
    shown.write_text(flyball("policy", "show", good).out)
    assert "max_draft_len: 32" in shown.read_text()
    assert load_policy(shown) == load_policy(good)
    assert load_policy(json.loads(flyball("policy", "show", good, "--json").out)) == load_policy(
        good
    )


def test_show_fills_in_the_rejection_section(tmp_path: Path, flyball: Callable[..., Any]) -> None:
    path = tmp_path / "search.yaml"
    path.write_text("version: 1\nrejection: {policy: conformal}\n")
    shown = json.loads(flyball("policy", "show", path, "--json").out)
    assert shown["rejection"]["risk"] == 0.05
    assert load_policy(shown) == load_policy(path)
    assert "risk: 0.05" in flyball("policy", "show", path).out


def test_show_of_a_broken_file_is_one_line(tmp_path: Path, flyball: Callable[..., Any]) -> None:
    done = flyball("policy", "show", tmp_path / "none.yaml")
    assert done.code == 2
    assert done.err.startswith("flyball: ")
    assert len(done.err.splitlines()) == 1


def test_list_holds_every_policy_and_setting(flyball: Callable[..., Any]) -> None:
    rows = json.loads(flyball("policy", "list", "--json").out)
    listed = {(row["section"], row["policy"]) for row in rows}
    assert listed == {
        *(("length", name) for name in LENGTH_POLICIES),
        *(("ensemble", name) for name in ENSEMBLE_POLICIES),
        *(("rejection", name) for name in REJECTION_POLICIES),
        *(("throttle", name) for name in THROTTLE_POLICIES),
    }
    assert [row["policy"] for row in rows if row["default"]] == ["goodput"]
    table = flyball("policy", "list").out
    for row in rows:
        assert row["summary"].endswith(".")
        assert row["summary"] in table
        for setting in row["settings"]:
            assert setting["description"]
            assert setting["name"] in table
