import ctypes
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fake_nvml import State, build, open_state
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings


@pytest.fixture(scope="module", autouse=True)
def threads_of_torch() -> Iterator[None]:
    """An engine of vLLM puts a function that does nothing in the place of torch's."""
    own = torch.set_num_threads
    yield
    torch.set_num_threads = own


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


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def _shared_state(fake_library: Path) -> State:
    return open_state(fake_library.with_name("state"))


@pytest.fixture
def gpu_state(
    fake_library: Path, _shared_state: State, monkeypatch: pytest.MonkeyPatch
) -> Iterator[State]:
    """The state of a fake GPU, which NVML shows here and in processes that are started."""
    pynvml = pytest.importorskip("pynvml")
    monkeypatch.setenv("FAKE_NVML_STATE", str(fake_library.with_name("state")))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake_library.parent))
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(fake_library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    _shared_state.reset()
    yield _shared_state
    _shared_state.reset()
