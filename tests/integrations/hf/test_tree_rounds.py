"""Rounds over token trees: the output stays the target's, and more is accepted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ensemble_calls import ensemble_policy, only_together, take_over
from hf_texts import SETTINGS, assert_same, pad_left, plain, random_models, random_rows
from sampled_texts import FALSE_ALARM_RATE, VOCAB, WARPERS, draw_counts, expected_probs, noisy
from text_statistics import p_value

from flyball.controller.errors import HostError
from flyball.integrations.hf import drafts as drafts_module
from flyball.integrations.hf import govern
from flyball.integrations.hf.cached_model import CachedModel

STATIC = {"version": 1, "length": {"policy": "static", "draft_len": 4, "max_draft_len": 4}}


@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
@pytest.mark.parametrize("together", [False, True], ids=["one draft", "ensemble and lookup"])
def test_greedy_output_is_the_targets(width: int, name: str, together: bool) -> None:
    target, draft = random_models(name)
    rows = random_rows(4)
    expected = [plain(target, row, max_new_tokens=60) for row in rows]
    if together:
        drafts = [draft, noisy(draft, 1), "prompt_lookup"]
        gov = govern(target, drafts, policy=ensemble_policy(), tree_width=width)
        only_together(gov)
    else:
        gov = govern(target, [draft], policy=STATIC, tree_width=width)
    gained = 0
    observe = gov.governor.observe

    def watched(outcomes: Any, cost: Any) -> None:
        nonlocal gained
        gained += int(outcomes.num_beside.sum())
        observe(outcomes, cost)

    take_over(gov, "observe", watched)
    for batch in ([rows[0]], rows):
        out = gov.generate(**pad_left(batch, 0), max_new_tokens=60, do_sample=False)
        assert_same(out, max(map(len, batch)), expected[: len(batch)], 0.0)
    queue = gov.generate_many(rows * 2, batch_size=3, max_new_tokens=60, do_sample=False)
    for text, row, (tokens, _) in zip(queue, rows * 2, expected * 2, strict=True):
        assert text[len(row) :].tolist() == tokens
    assert gained > 10
    assert gov.governor.faults == {}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_processors_that_look_at_the_text_get_chains(setting: dict[str, Any]) -> None:
    target, draft = random_models("qwen2")
    row = random_rows(2)[1]
    gov = govern(target, [draft, "prompt_lookup"], policy=STATIC, tree_width=3)
    out = gov.generate(**pad_left([row], 0), max_new_tokens=60, do_sample=False, **setting)
    expected = plain(target, row, max_new_tokens=60, **setting)
    assert_same(out, len(row), [expected], 0.0)


def test_scores_and_logits_are_those_of_the_emitted_tokens() -> None:
    target, draft = random_models("qwen3")
    inputs = pad_left(random_rows(3), 0)
    settings: dict[str, Any] = {
        "max_new_tokens": 30,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
    }
    gov = govern(target, [draft], policy=STATIC, tree_width=3)
    got, wanted = gov.generate(**inputs, **settings), target.generate(**inputs, **settings)
    assert got.sequences.tolist() == wanted.sequences.tolist()
    for name in ("scores", "logits"):
        for mine, theirs in zip(getattr(got, name), getattr(wanted, name), strict=True):
            live = theirs.isfinite() & (mine != 0)
            torch.testing.assert_close(
                mine[live].double(), theirs[live].double(), rtol=1e-4, atol=1e-5
            )


def test_a_sibling_left_where_it_was_read_spoils_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: the cache keeps the rejected token of the spine."""
    target, draft = random_models("qwen3")
    row = random_rows(1)[0]
    expected, _ = plain(target, row, max_new_tokens=60)
    monkeypatch.setattr(CachedModel, "keep_path", lambda *_: None)
    gov = govern(target, [draft], policy=STATIC, tree_width=3)
    out = gov.generate(**pad_left([row], 0), max_new_tokens=60, do_sample=False)
    assert out[0, len(row) :].tolist() != expected


@pytest.fixture(scope="module")
def family(tiny: Any) -> tuple[Any, Any, Any]:
    target = tiny(2, VOCAB, seed=1, spread=0.4)
    return target, noisy(target, 2), noisy(target, 3)


def drawn_p_value(family: tuple[Any, Any, Any], width: int, warp: str, together: bool) -> float:
    target, *drafts = family
    if together:
        gov = govern(
            target, [*drafts, "prompt_lookup"], policy=ensemble_policy(draft_len=3),
            tree_width=width,
        )  # fmt: skip
        only_together(gov)
    else:
        policy = {"version": 1, "length": {"policy": "threshold", "max_draft_len": 3}}
        gov = govern(target, drafts[:1], policy=policy, tree_width=width)
    counts = draw_counts(gov, target, WARPERS[warp])
    assert counts.sum() >= 200_000 and gov.governor.faults == {}
    return p_value(counts, expected_probs(target, WARPERS[warp]))


@pytest.mark.parametrize(
    ("width", "warp", "together"),
    [(2, "temperature", False), (3, "top_p", True)],
    ids=["one draft, width 2", "ensemble and lookup, width 3"],
)
def test_texts_are_distributed_as_the_targets(
    family: tuple[Any, Any, Any], width: int, warp: str, together: bool
) -> None:
    assert drawn_p_value(family, width, warp, together) > FALSE_ALARM_RATE


def test_siblings_drawn_with_replacement_fail_the_same_test(
    family: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_replacement(q: torch.Tensor, spine: torch.Tensor, width: int) -> torch.Tensor:
        found = torch.multinomial(q, width - 1, replacement=True)
        return torch.where(found == spine[:, None], -1, found)

    monkeypatch.setattr(drafts_module, "draw_siblings", with_replacement)
    assert drawn_p_value(family, 3, "temperature", False) < FALSE_ALARM_RATE


def test_what_makes_no_tree_is_refused_in_one_line() -> None:
    target, draft = random_models("qwen2")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tree_width": 0}, "tree_width from 1 to 4, but got 0"),
        ({"tree_width": "2"}, "tree_width from 1 to 4, but got '2'"),
        ({"tree_width": 2, "verification": "block"}, "tree_width=1 with block verification"),
    ]
    for settings, message in cases:
        with pytest.raises(HostError, match=message) as error:
            govern(target, [draft], **settings)
        assert "\n" not in str(error.value)
