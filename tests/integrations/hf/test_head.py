"""An acceptance head in place of the largest probability: the output stays the target's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_texts import assert_same, pad_left, plain, random_models, random_rows

from flyball.controller.errors import HostError
from flyball.demo.loader import HEAD, load_demo
from flyball.integrations.hf import govern
from flyball.integrations.hf.drafts import Drafts
from flyball.integrations.hf.proposal import Proposal
from flyball.kernels.head import AcceptanceHead

NEW_TOKENS = 120


class Unsteady(AcceptanceHead):
    """Random, so that drafts end anywhere; keeps the states that it was shown."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size, 2)
        torch.nn.init.normal_(self.out_weight, std=3.0 / hidden_size**0.5)
        self.seen: list[torch.Tensor] = []

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.seen.append(hidden)
        return super().forward(hidden)


@pytest.mark.parametrize("domain", ["code", "prose", "tables"])
def test_greedy_output_equals_plain_generate(domain: str) -> None:
    demo = load_demo("float64")
    rows = [torch.tensor(demo.tokenizer(text)["input_ids"]) for text in demo.prompts[domain][:3]]
    expected = [plain(demo.target, row, max_new_tokens=NEW_TOKENS) for row in rows]
    torch.manual_seed(0)
    for head in (HEAD, Unsteady(128)):
        gov = govern(demo.target, [demo.draft], acceptance_head=head)
        for batch_size in (1, 3):
            inputs = pad_left(rows[:batch_size], 0)
            out = gov.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
            assert_same(out, inputs["input_ids"].shape[1], expected[:batch_size], 0.0)
        assert gov.stats.num_accepted > 0
        assert not any(gov.governor.faults.values())


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "qwen3"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_head_sees_the_states_that_propose(
    monkeypatch: pytest.MonkeyPatch, name: str, batch_size: int
) -> None:
    target, draft = random_models(name)
    torch.manual_seed(1)
    gov = govern(target, [draft, "prompt_lookup"], acceptance_head=Unsteady(32))
    head: Any = gov.session._head
    lengths = set()

    class Watched(Drafts):
        def _draft(self, *args: Any) -> Proposal:
            head.seen.clear()
            proposal = super()._draft(*args)
            assert len(head.seen) == proposal.tokens.shape[1]
            for state, token in zip(head.seen, proposal.tokens.T, strict=True):
                logits = draft.get_output_embeddings()(state)
                assert torch.equal(logits.argmax(dim=-1), token)
            assert proposal.confidence is not None
            lengths.add(int(proposal.draft_len.max()))
            return proposal

    module = sys.modules["flyball.integrations.hf.assemble"]
    monkeypatch.setattr(module, "Drafts", Watched)
    inputs = pad_left(random_rows(batch_size), 0)
    expected = target.generate(**inputs, max_new_tokens=80, do_sample=False)
    out = gov.generate(**inputs, max_new_tokens=80, do_sample=False)
    assert out.tolist() == expected.tolist()
    assert len(lengths) > 1


def test_a_head_of_the_callers_stays_as_it_is() -> None:
    target, draft = random_models("qwen2")
    head = AcceptanceHead(32, 1).train()
    gov = govern(target, [draft], acceptance_head=head)
    assert head.training and gov.session._head is not head


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, tiny: Any) -> None:
    target, draft = tiny(2, 32, seed=1), tiny(1, 32, seed=2)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"?" * 40)
    cases: list[tuple[list[Any], Any, str]] = [
        ([draft], tmp_path / "none.safetensors", "no file .*none.safetensors"),
        ([draft], str(broken), "expected a safetensors file"),
        ([draft], HEAD, "hidden size of 16, but got one for 128"),
        ([draft, tiny(1, 32, seed=3)], AcceptanceHead(16, 1), "one draft model .*but got 2"),
        (["prompt_lookup"], AcceptanceHead(16, 1), "one draft model .*but got 0"),
        ([draft], 0.5, "but got float"),
    ]
    for drafts, head, match in cases:
        with pytest.raises(HostError, match=match) as caught:
            govern(target, drafts, acceptance_head=head)
        assert "\n" not in str(caught.value)
