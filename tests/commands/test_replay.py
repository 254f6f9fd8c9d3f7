"""From prompts to a tuned policy: record, replay, tune and advise, with the demo's models."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from replay_texts import COSTS as MADE_UP

from flyball.commands.main import main
from flyball.controller.corpus import of_draft
from flyball.controller.cost_table import Power, dump_costs
from flyball.controller.match_trace import read_matches
from flyball.controller.policy_file import load_policy
from flyball.controller.trace_format import read_trace

NUM_PROMPTS = 40
COSTS = MADE_UP.model_copy(update={"target": "demo", "draft": "demo draft"})
SPACE = """
version: 1
policy: {version: 1, length: {policy: static, draft_len: 8}}
parameters:
  length.draft_len: {low: 0, high: 16, integer: true}
"""
RUN = [sys.executable, "-c", "from flyball.commands.main import main; main()"]
# The same, and a line to standard output whenever something has reached the disk.
TELL = """
import sys
from flyball.commands.main import main
from flyball.controller.ledger import Ledger
from flyball.integrations.hf import record

def telling(write):
    def wrapped(*arguments):
        write(*arguments)
        print("written", *(a for a in arguments if isinstance(a, dict)), flush=True)
    return wrapped

Ledger.add = telling(Ledger.add)
record.write_matches = telling(record.write_matches)
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With prompts, costs, policies, a space, and an exact trace."""
    path = tmp_path_factory.mktemp("replay")
    words = ["def add(a, b):\n    return", "The old man said that", "id,name,price\n1,"]
    lines = [
        json.dumps({"prompt": f"{words[n % 3]} {n}", "domain": ("code", "prose", "table")[n % 3]})
        for n in range(NUM_PROMPTS)
    ]
    (path / "prompts.jsonl").write_text("\n".join(lines))
    (path / "costs.json").write_text(dump_costs(COSTS))
    (path / "space.yaml").write_text(SPACE)
    for name, length in (("short", 1), ("long", 8)):
        (path / f"{name}.yaml").write_text(
            f"version: 1\nlength: {{policy: static, draft_len: {length}}}\n"
        )
    sys.argv = ["flyball", *map(str, record_arguments(path, path / "trace"))]
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    return path


def record_arguments(folder: Path, trace: Path) -> list[object]:
    return [
        "record", trace, "--exact", "--prompts", folder / "prompts.jsonl",
        "--max-new-tokens", 32, "--json",
    ]  # fmt: skip


def kill_after(arguments: list[object], word: str, count: int) -> None:
    """Run a command in a process group of its own, and kill it once it has told this so often."""
    process = subprocess.Popen(
        [sys.executable, "-c", TELL, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        count -= word in line
        if count == 0:
            break
    assert count == 0
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def refused(done: Any, *words: str) -> None:
    assert done.code == 2
    assert done.out == ""
    (line,) = done.err.splitlines()
    for word in words:
        assert word in line


def test_every_prompt_is_recorded_once(folder: Path, flyball: Callable[..., Any]) -> None:
    texts = read_matches(folder / "trace")
    assert len(of_draft(texts, "demo draft")) == len(of_draft(texts, None)) == NUM_PROMPTS
    assert len(of_draft(texts, "prompt_lookup")) == NUM_PROMPTS
    assert {text.domain for text in texts} == {"code", "prose", "table"}
    again = json.loads(flyball(*record_arguments(folder, folder / "trace")).out)
    assert again == {"prompts": NUM_PROMPTS, "found": NUM_PROMPTS, "tokens": 0}


def test_a_killed_recording_loses_the_open_segment_alone(
    folder: Path, tmp_path: Path, flyball: Callable[..., Any]
) -> None:
    arguments = record_arguments(folder, tmp_path / "trace")
    kill_after(arguments, "written", 1)
    written = len(list(tmp_path.glob("trace/*.parquet")))
    assert written in (1, 2)  # the second may be on its way already
    again = json.loads(flyball(*arguments).out)
    assert again["found"] == min(32 * written, NUM_PROMPTS)
    ours, whole = read_matches(tmp_path / "trace"), read_matches(folder / "trace")
    assert [t.tokens.tolist() for t in ours] == [t.tokens.tolist() for t in whole]


def test_ordinary_recordings_hold_the_rounds(
    folder: Path, tmp_path: Path, flyball: Callable[..., Any]
) -> None:
    done = flyball(
        "record", tmp_path / "rounds", "--prompts", folder / "prompts.jsonl",
        "--max-new-tokens", 8, "--json",
    )  # fmt: skip
    assert json.loads(done.out)["prompts"] == NUM_PROMPTS
    table = read_trace(tmp_path / "rounds")
    assert len(set(table["request"].to_pylist())) == NUM_PROMPTS


def test_policies_are_compared_on_the_same_texts(
    folder: Path, flyball: Callable[..., Any]
) -> None:
    arguments = [
        "replay", folder / "trace", "--policy", folder / "short.yaml",
        "--policy", folder / "long.yaml", "--costs", folder / "costs.json",
        "--concurrency", 1, "--concurrency", 4,
    ]  # fmt: skip
    rows = json.loads(flyball(*arguments, "--json").out)["rows"]
    assert [(row["policy"], row["concurrency"]) for row in rows] == [
        ("short", 1), ("long", 1), ("short", 4), ("long", 4),
    ]  # fmt: skip
    assert len({row["tokens"] for row in rows}) == 1
    assert rows[0]["drafted"] < rows[1]["drafted"]
    assert rows[2]["tokens_per_s"] > rows[0]["tokens_per_s"]
    assert "short" in flyball(*arguments).out
    offered = flyball(*arguments, "--draft", "prompt_lookup", "--json").out
    assert {row["tokens"] for row in json.loads(offered)["rows"]} == {rows[0]["tokens"]}
    vllm = [*arguments, "--draft", "prompt_lookup", "--host", "vllm"]
    refused(flyball(*vllm), "prompt lookup", "--host transformers")


def test_another_machine_answers_with_its_published_costs(
    folder: Path, flyball: Callable[..., Any]
) -> None:
    costs = ["--costs", "a100-llama-2-70b-int4"]
    how = ["replay", folder / "trace", "--policy", folder / "short.yaml", *costs]
    (row,) = json.loads(flyball(*how, "--json").out)["rows"]
    assert row["tokens_per_s"] > 25.25 and row["tokens_per_joule"] is None
    refused(flyball(*how, "--concurrency", 2), "measured at 1")
    known = ["advise", "--trace", folder / "trace"]
    advice = json.loads(flyball(*known, *costs, "--json").out)
    assert advice["drafts"].keys() == {"demo draft", "prompt_lookup"}
    (one,) = {drafts[0]["tokens_per_s"] for drafts in advice["drafts"].values()}
    assert one == pytest.approx(25.25, rel=1e-3)  # without a draft, what was published
    refused(flyball(*known, *costs, "--check"), "this machine's costs", "A100")
    refused(flyball(*known, "--costs", "4xh200-llama-3-70b"), "measured from 8 on")


def test_a_tuned_policy_is_written_and_the_same_whoever_replays(
    folder: Path, tmp_path: Path, flyball: Callable[..., Any]
) -> None:
    arguments = [
        "tune", folder / "trace", "--space", folder / "space.yaml",
        "--costs", folder / "costs.json", "--trials", 10, "--json",
    ]  # fmt: skip
    one = json.loads(flyball(*arguments, "--out", tmp_path / "one", "--workers", 1).out)
    two = json.loads(flyball(*arguments, "--out", tmp_path / "two", "--workers", 2).out)
    assert one == two
    assert len(one["trials"]) == 10
    winner = load_policy(tmp_path / "one" / "winner.yaml")
    assert winner.length.draft_len == one["winner"]["point"]["length.draft_len"]
    held_out = one["winner"]["held_out"]
    assert len(held_out) == 4 and min(held_out) > 0
    assert "Trials" in (tmp_path / "one" / "report.html").read_text(encoding="utf-8")


def test_limits_on_joules_are_kept_where_the_power_is_known(
    folder: Path, tmp_path: Path, flyball: Callable[..., Any]
) -> None:
    arguments = [
        "tune", folder / "trace", "--space", folder / "space.yaml", "--trials", 4,
        "--joules-per-token", 1e-3, "--out", tmp_path / "out",
    ]  # fmt: skip
    refused(flyball(*arguments, "--costs", folder / "costs.json"), "power", "--joules-per-token")
    power = Power(verify_w=300.0, draft_w=200.0, host_w=100.0)
    (tmp_path / "costs.json").write_text(dump_costs(COSTS.model_copy(update={"power": power})))
    how = ["replay", folder / "trace", "--policy", folder / "short.yaml"]
    assert "tokens/joule" in flyball(*how, "--costs", tmp_path / "costs.json").out
    done = flyball(*arguments, "--costs", tmp_path / "costs.json", "--json")
    result = json.loads(done.out)
    assert result["winner"] is None  # a token takes some joules
    assert all(trial["joules_per_token"] > 1.0 for trial in result["trials"])


def test_a_killed_tuning_loses_one_trial_at_most(
    folder: Path, tmp_path: Path, flyball: Callable[..., Any]
) -> None:
    arguments = [
        "tune", folder / "trace", "--space", folder / "space.yaml",
        "--costs", folder / "costs.json", "--trials", 6, "--json", "--out", tmp_path / "killed",
    ]  # fmt: skip
    ledger = tmp_path / "killed" / "trials.jsonl"
    kill_after(arguments, "'point'", 3)
    kept = ledger.read_bytes()
    whole = kept[: kept.rfind(b"\n") + 1]
    again = json.loads(flyball(*arguments).out)
    assert len(again["trials"]) == 6
    assert ledger.read_bytes().startswith(whole)
    other = json.loads(flyball(*arguments[:-1], tmp_path / "whole").out)
    assert again == other


def test_advice_names_what_pays_and_measures_what_it_names(
    folder: Path, tmp_path: Path, flyball: Callable[..., Any]
) -> None:
    known = ["--trace", folder / "trace", "--costs", folder / "costs.json"]
    result = json.loads(
        flyball("advise", *known, "--check", "--parameters", 400_000, "--json").out
    )
    assert result["drafts"].keys() == {"demo draft", "prompt_lookup"}
    rows = [{"draft": name, **row} for name, own in result["drafts"].items() for row in own]
    best = max(rows, key=lambda row: row["tokens_per_s"])
    assert result["best"] == best
    assert {row["draft_len"] for row in result["check"]} == {0, best["draft_len"]}
    assert all(row["measured_tokens_per_s"] > 0 for row in result["check"])
    depths = [row["depth"] for row in result["shapes"]]
    assert depths == sorted(set(depths)) and len(depths) >= 2
    assert "Pays most" in flyball("advise", *known).out


def test_bad_input_is_one_line_with_the_remedy(
    folder: Path, tmp_path: Path, flyball: Callable[..., Any]
) -> None:
    how = ["--policy", folder / "short.yaml", "--costs", folder / "costs.json"]
    (tmp_path / "empty").mkdir()
    refused(flyball("replay", tmp_path / "empty", *how), "found none", "record")
    refused(flyball("replay", tmp_path / "none", *how), "does not exist")
    refused(flyball("replay", folder / "trace", *how, "--draft", "x"), "demo draft")
    broken = tmp_path / "space.yaml"
    broken.write_text(SPACE.replace("draft_len: {", "draft_length: {"))
    space = ["--space", broken, "--costs", folder / "costs.json", "--out", tmp_path / "out"]
    refused(flyball("tune", folder / "trace", *space), "length.draft_length", "length.draft_len")
    refused(flyball("advise"), "--trace")
    refused(flyball("record", tmp_path / "t", "--prompts", tmp_path / "none.txt"), "none.txt")
    (tmp_path / "p.jsonl").write_text('{"text": "x"}')
    refused(flyball("record", tmp_path / "t", "--prompts", tmp_path / "p.jsonl"), "line 1")

    other = tmp_path / "other"
    shutil.copytree(folder / "trace", other)
    table = pq.read_table(sorted(other.iterdir())[0])
    metadata = {**table.schema.metadata, b"flyball_match_trace_version": b"0"}
    pq.write_table(table.replace_schema_metadata(metadata), sorted(other.iterdir())[0])
    refused(flyball("replay", other, *how), "version 2, but got 0")
    shutil.rmtree(other)
    shutil.copytree(folder / "trace", other)
    pq.write_table(table.drop_columns(["match"]), sorted(other.iterdir())[0])
    refused(flyball("replay", other, *how), "match")


def test_a_truncated_segment_is_skipped_and_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "trace", tmp_path / "trace")
    bad = sorted((tmp_path / "trace").iterdir())[0]
    bad.write_bytes(bad.read_bytes()[:-100])
    how = ["--policy", folder / "short.yaml", "--costs", folder / "costs.json", "--json"]
    arguments = [*RUN, "replay", *map(str, (tmp_path / "trace", *how))]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert bad.name in line and "left out" in line
    (row,) = json.loads(done.stdout)["rows"]
    assert row["texts"] == NUM_PROMPTS - 32
