"""Training of the demo's acceptance head, and the head that ships."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open

from flyball.demo.head_data import write_texts
from flyball.demo.head_scores import calibration_error, losses
from flyball.demo.loader import HEAD, DemoModels, load_demo
from flyball.demo.measure_head import Reading, read_texts
from flyball.demo.train_head import fit_head, weighted_bce
from flyball.kernels.head import AcceptanceHead


@pytest.fixture(scope="module")
def models() -> DemoModels:
    return load_demo()


def test_the_loss_is_the_papers() -> None:
    logit, accepted = torch.tensor([0.3, -1.2, 2.0]), torch.tensor([1.0, 0.25, 0.6])
    s, w = logit.sigmoid(), 6.0
    expected = 0.0
    for p, y in zip(s.tolist(), accepted.tolist(), strict=True):
        expected -= y * math.log(p) + w * (1 - y) * math.log(1 - p)
    expected /= w * (0.0 + 0.75 + 0.4) + (1.0 + 0.25 + 0.6)
    assert weighted_bce(logit, accepted, w).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("w_rej", [1.0, 6.0])
def test_a_weight_of_rejections_leaves_no_bias(w_rej: float) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(65_536, 4)
    chance = (0.5 + 1.5 * hidden[:, 0]).sigmoid()
    head = fit_head(hidden, chance, num_blocks=0, w_rej=w_rej, num_epochs=8, lr=0.05)
    with torch.no_grad():
        error = head(hidden) - chance
    assert float(error.abs().max()) < 0.05


@pytest.mark.parametrize("sample", [False, True])
def test_texts_of_the_target_give_every_position(models: DemoModels, sample: bool) -> None:
    prompts = models.tokenizer(models.prompts["code"][:2])["input_ids"]
    ids = torch.tensor([row[-40:] for row in prompts])
    generator = torch.Generator().manual_seed(0)
    data = write_texts(models, ids, 30, 1.0, sample, generator)
    assert data.hidden.shape == (60, 128)
    if sample:
        assert ((data.overlap > 0.0) & (data.overlap <= 1.001)).all()
        return
    text = models.target.generate(ids, do_sample=False, max_new_tokens=30, min_new_tokens=30)
    with torch.no_grad():
        states = models.draft(text, output_hidden_states=True).hidden_states[-1][:, -31:-1]
        proposed = models.draft.lm_head(states)
    proposed[..., models.tokenizer.eos_token_id] = -torch.inf
    # Both are written position by position.
    torch.testing.assert_close(
        data.hidden, states.transpose(0, 1).reshape(60, 128), rtol=1e-3, atol=1e-3
    )
    right = (proposed.argmax(dim=-1) == text[:, -30:]).float()
    assert torch.equal(data.match, right.T.reshape(60))


def test_mixed_texts_leave_the_targets_tokens_out(models: DemoModels) -> None:
    prompts = models.tokenizer(models.prompts["code"][0])["input_ids"]
    ids = torch.tensor(prompts[-40:]).expand(32, -1)
    generator = torch.Generator().manual_seed(0)
    data = write_texts(models, ids, 20, 0.25, True, generator)
    assert 0.7 < len(data.match) / 640 < 0.8


def test_the_shipped_head_is_calibrated_on_held_out_text(models: DemoModels) -> None:
    head = AcceptanceHead.load(HEAD)
    assert HEAD.stat().st_size < 300_000
    reading = Reading.join([read_texts(models, head, d, 8, False) for d in models.prompts])
    head_, top = (1.0 / (1.0 + np.exp(-reading.columns[name])) for name in ("head", "max q"))
    assert calibration_error(head_, reading.accepted) < 0.03
    loss, rival = (losses(p, reading.accepted).mean() for p in (head_, top))
    assert loss < 0.75 * rival


def test_engines_that_load_every_file_of_a_folder_leave_the_head_out() -> None:
    index = json.loads((HEAD.parent / "model.safetensors.index.json").read_text())
    with safe_open(HEAD.parent / "model.safetensors", framework="pt") as file:
        assert index["weight_map"] == dict.fromkeys(file.keys(), "model.safetensors")
