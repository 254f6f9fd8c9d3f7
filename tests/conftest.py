from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings


def tiny_llama(
    num_layers: int, vocab_size: int, seed: int, *, spread: float = 0.3, eos: int | None = None
) -> LlamaForCausalLM:
    """A random Llama whose next-token distributions differ strongly from context to context."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=0,
        initializer_range=spread,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tiny() -> Callable[..., PreTrainedModel]:
    return tiny_llama
