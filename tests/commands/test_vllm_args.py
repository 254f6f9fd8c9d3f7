"""`flyball vllm-args` prints flags that vLLM takes."""

import json
import pkgutil
import shlex
from pathlib import Path

import pytest

from flyball.commands.main import main
from flyball.commands.vllm_args import SCHEDULER, length_table


def flags(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["flyball", "vllm-args", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
    printed = capsys.readouterr()
    assert end.value.code == 0, printed.err
    words = shlex.split(printed.out)
    return dict(zip(words[::2], words[1::2], strict=True))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\nlength: {policy: goodput, max_draft_len: 5}\n", encoding="utf-8")
    return path


def test_the_flags_name_scheduler_policy_and_every_length(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = flags(capsys, str(policy), "--max-num-seqs", "32")
    assert found["--scheduler-cls"] == SCHEDULER
    assert json.loads(found["--additional-config"]) == {"flyball": {"policy": str(policy)}}
    config = json.loads(found["--speculative-config"])
    assert config["method"] == "ngram"
    assert config["num_speculative_tokens"] == 5
    table = config["num_speculative_tokens_per_batch_size"]
    assert {row[2] for row in table} == set(range(6))


@pytest.mark.parametrize(("most", "num_seqs"), [(1, 1), (8, 256), (8, 4), (32, 32)])
def test_the_table_covers_every_batch_size_once(most: int, num_seqs: int) -> None:
    table = length_table(most, num_seqs)
    assert table[0][0] == 1
    assert all(first <= last for first, last, _ in table)
    assert all(a[1] + 1 == b[0] for a, b in zip(table, table[1:], strict=False))
    assert table[-1][1] >= num_seqs
    assert [row[2] for row in table] == list(range(most, -1, -1))


def test_a_draft_model_is_named_where_the_method_needs_one(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = flags(capsys, str(policy), "--method", "draft_model", "--draft-model", "some/draft")
    assert json.loads(found["--speculative-config"])["model"] == "some/draft"


def test_a_probe_is_a_worker_class_of_ours(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--method", "draft_model", "--draft-model", "some/draft")
    assert "--worker-cls" not in flags(capsys, str(policy), *model)
    worker = flags(capsys, str(policy), *model, "--probe")["--worker-cls"]
    assert pkgutil.resolve_name(worker).take_draft_token_ids


def test_lookup_is_a_class_of_ours(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = flags(capsys, str(policy), "--method", "lookup")
    config = json.loads(found["--speculative-config"])
    assert config["method"] == "custom_class"
    assert pkgutil.resolve_name(config["model"]).propose
    assert config["num_speculative_tokens"] == 5


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--method", "eagle3"], "flyball: --method eagle3: expected a --draft-model\n"),
        (["--draft-model", "x"], "flyball: --method ngram: expected no --draft-model\n"),
        (
            ["--probe"],
            "flyball: --probe: expected --method draft_model or eagle or eagle3 or mtp, "
            "but got ngram\n",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(
    policy: Path, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["flyball", "vllm-args", str(policy), *arguments])
        with pytest.raises(SystemExit) as end:
            main()
    assert end.value.code == 2
    assert capsys.readouterr().err == line
