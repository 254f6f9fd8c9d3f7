from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from flyball.controller.errors import DemoError
from flyball.demo.loader import load_demo
from flyball.demo.widen import VLLM_HEAD_DIM, save_for_vllm, widen_heads


@torch.no_grad()
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_wide_heads_compute_the_same_logits(factor: int) -> None:
    target = load_demo("float64").target
    wide = widen_heads(target, factor * target.config.head_dim)
    ids = torch.randint(0, 512, (2, 200), generator=torch.Generator().manual_seed(0))
    assert wide.config.head_dim == factor * 40
    torch.testing.assert_close(wide(ids).logits, target(ids).logits, rtol=0, atol=1e-10)


def test_wide_heads_write_the_same_text() -> None:
    models = load_demo("float64")
    wide = widen_heads(models.target, VLLM_HEAD_DIM)
    texts = [models.prompts[domain][0] for domain in models.prompts]
    inputs = models.tokenizer(
        texts, return_tensors="pt", padding=True, return_token_type_ids=False
    )
    options = {"do_sample": False, "max_new_tokens": 48, "min_new_tokens": 48}
    expected = models.target.generate(**inputs, **options)
    assert torch.equal(wide.generate(**inputs, **options), expected)


@pytest.mark.parametrize("head_dim", [0, 20, 64])
def test_a_width_that_is_no_multiple_is_refused(head_dim: int) -> None:
    with pytest.raises(DemoError, match="multiple of the model's 40"):
        widen_heads(load_demo().target, head_dim)


def test_saved_models_load_and_are_used_again(tmp_path: Path) -> None:
    paths = save_for_vllm(tmp_path / "models")
    written = [(path / "model.safetensors").stat().st_mtime_ns for path in paths]
    target, draft = (AutoModelForCausalLM.from_pretrained(path) for path in paths)
    assert (target.config.head_dim, target.dtype) == (VLLM_HEAD_DIM, torch.float32)
    assert (draft.config.head_dim, draft.dtype) == (32, torch.float32)
    assert AutoTokenizer.from_pretrained(paths[0])("import os")["input_ids"]
    assert save_for_vllm(tmp_path / "models") == paths
    assert written == [(path / "model.safetensors").stat().st_mtime_ns for path in paths]


def test_a_model_cut_short_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "target.part").mkdir()
    (tmp_path / "target.part" / "config.json").write_text("{")
    target, _ = save_for_vllm(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(target).config.head_dim == VLLM_HEAD_DIM


def test_a_foreign_folder_is_kept_and_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "notes.txt").write_text("mine")
    with pytest.raises(DemoError, match="something else"):
        save_for_vllm(tmp_path)
    assert (tmp_path / "target" / "notes.txt").read_text() == "mine"
