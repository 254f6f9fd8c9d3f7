from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from replay_texts import COSTS, NUM_AHEAD, make_corpus, make_text, policy

from flyball.controller.corpus import Corpus, of_draft
from flyball.controller.cost_table import Power
from flyball.controller.errors import CostTableError, TraceError
from flyball.controller.policy_file import load_policy
from flyball.controller.replay import HOSTS, Replayed, replay
from flyball.controller.replay_summary import summarise
from flyball.controller.virtual_host import VirtualHost
from flyball.policies.registry import LENGTH_POLICIES


def by_hand(corpus: Corpus, draft_len: int) -> list[list[tuple[int, int, int]]]:
    """Rounds of each text: position, proposed and accepted."""
    found = []
    for text in corpus.texts:
        position, rounds = 1, []
        while position < len(text.match):
            proposed = min(draft_len, text.limit - position - 1)
            accepted = 0
            while (
                accepted < proposed
                and position + accepted < len(text.match)
                and text.match[position + accepted] == 1.0
            ):
                accepted += 1
            kept = min(accepted + 1, len(text.match) - position)
            rounds.append((position, proposed, min(accepted, kept)))
            position += kept
        found.append(rounds)
    return found


def rounds_of(found: Replayed, num_texts: int) -> list[list[tuple[int, int, int]]]:
    columns = zip(found.position, found.proposed, found.accepted, strict=True)
    result: list[list[tuple[int, int, int]]] = [[] for _ in range(num_texts)]
    for text, row in zip(found.text, columns, strict=True):
        result[text].append((int(row[0]), int(row[1]), int(row[2])))
    return result


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("draft_len", [0, 1, 4, 8])
def test_constant_lengths_have_the_rounds_that_they_must(
    draft_len: int, batch_size: int, host: str
) -> None:
    corpus, file = make_corpus(), policy(policy="static", draft_len=draft_len)
    quick = replay(corpus, file, COSTS, HOSTS[host], batch_size)
    assert rounds_of(quick, len(corpus.texts)) == by_hand(corpus, draft_len)
    asked = VirtualHost(corpus, file, COSTS, HOSTS[host], batch_size).run()
    assert asked.faults == {}
    for name in ("text", "position", "proposed", "accepted", "kept", "step"):
        assert getattr(quick, name).tolist() == getattr(asked, name).tolist()
    np.testing.assert_allclose(quick.step_s, asked.step_s, rtol=1e-12)
    assert (np.bincount(quick.step) <= batch_size).all()


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", [name for name, p in LENGTH_POLICIES.items() if p.still])
def test_still_policies_do_at_once_what_they_do_when_asked(
    name: str, host: str, sampled: bool
) -> None:
    corpus = make_corpus(7, 20, sampled)
    file = policy(policy=name, **({"draft_len": 5} if name == "static" else {}))
    quick = replay(corpus, file, COSTS, HOSTS[host], 4)
    asked = VirtualHost(corpus, file, COSTS, HOSTS[host], 4).run()
    for column in ("text", "position", "proposed", "accepted", "kept", "step"):
        assert getattr(quick, column).tolist() == getattr(asked, column).tolist()
    np.testing.assert_allclose(quick.step_s, asked.step_s, rtol=1e-12)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    "name", ["goodput", "heuristic", "threshold", "survival", "thompson", "svip"]
)
def test_every_text_is_decoded_whole_and_again_the_same(
    name: str, host: str, sampled: bool
) -> None:
    corpus, file = make_corpus(2, 30, sampled), policy(policy=name)
    first, second = (replay(corpus, file, COSTS, HOSTS[host], 4) for _ in range(2))
    assert first.faults == {}
    for column in ("text", "proposed", "accepted", "step_s"):
        assert getattr(first, column).tolist() == getattr(second, column).tolist()
    tokens = np.bincount(first.text, first.kept, len(corpus.texts)) + 1
    assert tokens.tolist() == [len(text.match) for text in corpus.texts]
    assert (first.accepted <= first.proposed).all()
    assert first.proposed.max() <= NUM_AHEAD


def test_what_a_draft_sees_is_what_the_text_says() -> None:
    corpus = make_corpus(3)
    for number, text in enumerate(corpus.texts):
        starts = np.arange(len(text.match))
        expected = np.stack(text.ahead(starts))
        for position in range(1, NUM_AHEAD + 1):
            seen = corpus.ahead(corpus.first[number] + starts, position)
            np.testing.assert_array_equal(seen, expected[:, :, position - 1])


def test_sums_are_those_of_the_rounds() -> None:
    corpus = make_corpus(4)
    found = replay(corpus, policy(policy="static", draft_len=3), COSTS, batch_size=4)
    summary = summarise(corpus, found)
    assert summary["tokens"] == sum(len(text.match) for text in corpus.texts)
    assert summary["seconds"] == pytest.approx(found.step_s.sum())
    assert summary["tokens_per_s"] == pytest.approx(summary["tokens"] / found.step_s.sum())
    assert summary["drafted"] == summary["accepted"] + summary["wasted"]
    for name in ("tokens", "rounds", "drafted", "accepted", "texts"):
        assert summary[name] == sum(part[name] for part in summary["domains"].values())


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("file", [{"policy": "static", "draft_len": 3}, {"policy": "goodput"}])
def test_joules_are_the_parts_at_their_power(file: dict[str, Any], host: str) -> None:
    corpus, how = make_corpus(5), {"host": HOSTS[host], "batch_size": 4}
    even, hot = (
        replay(corpus, policy(**file), COSTS.model_copy(update={"power": power}), **how)
        for power in (
            Power(verify_w=1.0, draft_w=1.0, host_w=1.0),
            Power(verify_w=1.0, draft_w=5.0, host_w=1.0),
        )
    )
    assert even.step_j is not None and hot.step_j is not None
    np.testing.assert_allclose(even.step_j, even.step_s, rtol=1e-12)
    assert (hot.step_j > even.step_j).any() and (hot.step_j >= even.step_j).all()
    summary = summarise(corpus, hot)
    assert summary["tokens_per_joule"] == pytest.approx(summary["tokens"] / hot.step_j.sum())
    unknown = summarise(corpus, replay(corpus, policy(**file), COSTS, **how))
    assert unknown["tokens_per_joule"] is None


def test_what_cannot_be_replayed_is_refused() -> None:
    text = make_text(np.random.default_rng(0), 20, 0)
    with pytest.raises(TraceError, match="positions ahead"):
        corpus = Corpus([text], np.random.default_rng(0))
        replay(corpus, policy(policy="goodput", max_draft_len=12), COSTS)
    with pytest.raises(CostTableError, match="33 verified tokens"):
        replay(corpus, load_policy({"version": 1}), COSTS)
    with pytest.raises(TraceError, match="one target and one draft"):
        Corpus([text, replace(text, draft="other")], np.random.default_rng(0))
    with pytest.raises(TraceError, match="one target and one draft"):
        Corpus([], np.random.default_rng(0))
    with pytest.raises(TraceError, match="two tokens"):
        Corpus([make_text(np.random.default_rng(0), 1, 0)], np.random.default_rng(0))
    texts = [text, replace(text, draft="other")]
    assert of_draft(texts, "other") == texts[1:]
    assert of_draft(texts[:1], None) == texts[:1]
    with pytest.raises(TraceError, match="several drafts.*d, other"):
        of_draft(texts, None)
    with pytest.raises(TraceError, match="no draft 'x'"):
        of_draft(texts, "x")
