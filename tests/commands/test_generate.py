import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flyball.demo.loader import MODELS, load_demo

PROMPT = "import os\nimport sys\n\n\ndef main():\n"


@pytest.fixture(scope="module")
def plain() -> str:
    """What the demo's target says on its own."""
    models = load_demo()
    inputs = models.tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False)
    tokens = models.target.generate(**inputs, max_new_tokens=40, do_sample=False)
    text: str = models.tokenizer.decode(
        tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return text


@pytest.mark.parametrize("drafts", [[], ["--prompt-lookup"], ["--draft", MODELS / "draft"]])
def test_text_is_the_target_s_and_statistics_go_to_standard_error(
    plain: str, drafts: list[Any], flyball: Callable[..., Any]
) -> None:
    done = flyball("generate", PROMPT, "--max-new-tokens", 40, *drafts)
    assert done.code == 0
    assert done.out == plain + "\n"
    (line,) = done.err.splitlines()
    assert line.startswith("40 tokens in ")
    assert "tokens/s" in line


def test_the_prompt_may_come_from_standard_input(plain: str, flyball: Callable[..., Any]) -> None:
    done = flyball("generate", "--max-new-tokens", 40, "--json", stdin=PROMPT.encode())
    result = json.loads(done.out)
    assert result["text"] == plain
    stats = result["stats"]
    assert stats["num_tokens"] == 40
    assert 0 < stats["num_accepted"] <= stats["num_drafted"]
    assert stats["tokens_per_s"] == pytest.approx(40 / stats["total_s"])


def test_a_folder_of_one_s_own_is_decoded_with_prompt_lookup(
    plain: str, flyball: Callable[..., Any]
) -> None:
    model = ["--model", MODELS / "target", "--prompt-lookup"]
    done = flyball("generate", PROMPT, *model, "--max-new-tokens", 40)
    assert done.code == 0
    assert done.out.strip()


def test_the_same_seed_samples_the_same_text_where_no_clock_decides(
    tmp_path: Path, flyball: Callable[..., Any]
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nlength: {policy: static, draft_len: 3}\n")
    options = ["--sample", "--temperature", 0.9, "--top-p", 0.95, "--max-new-tokens", 40]

    def sampled(seed: int) -> str:
        done = flyball("generate", PROMPT, *options, "--policy", policy, "--seed", seed)
        assert done.code == 0
        text: str = done.out
        return text

    assert sampled(1) == sampled(1) != sampled(2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model", "none", "--prompt-lookup"], "none: expected a folder with a model"),
        (["--model", MODELS / "target"], "pass --draft DIR or --prompt-lookup"),
        (["--draft", "none"], "none: expected a folder with a model"),
        (["--policy", "none.yaml"], "none.yaml: cannot read the policy file"),
        (["--temperature", "0.5"], "expected --sample beside --temperature"),
        (["--seed", "5"], "expected --sample beside --temperature"),
        (["--sample", "--temperature", "0"], "expected --temperature above 0, but got 0"),
    ],
)
def test_a_mistake_is_one_line(
    options: list[Any],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flyball: Callable[..., Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    done = flyball("generate", "text", *options)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("flyball: ")
    assert expected in done.err
    assert len(done.err.splitlines()) == 1


def test_no_prompt_is_refused(flyball: Callable[..., Any]) -> None:
    done = flyball("generate", stdin=b"")
    assert done.code == 2
    assert "expected a prompt of at least one token" in done.err


@pytest.mark.parametrize("content", ["{}", "not json", '{"model_type": "llama"}'])
def test_a_folder_whose_model_cannot_be_loaded_is_named(
    content: str, tmp_path: Path, flyball: Callable[..., Any]
) -> None:
    (tmp_path / "config.json").write_text(content)
    done = flyball("generate", "text", "--model", tmp_path, "--prompt-lookup")
    assert done.code == 2
    assert f"{tmp_path}: cannot load the model: " in done.err
    assert len(done.err.splitlines()) == 1
