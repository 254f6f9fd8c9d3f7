"""Every kernel compiles for an H100, on a machine that has none.

Triton's interpreter, under which `tests/gpu_kernels` runs, takes Python that its compiler refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")

TYPES = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32", torch.int64: "*i64",
    torch.uint8: "*u8",
}  # fmt: skip
REQUESTS, MOST, VOCAB = 2, 4, 128_256


def source_of(kernel: Any, arguments: dict[str, Any]) -> Any:
    """What Triton would compile for a launch, all pointers aligned as torch aligns them."""
    from triton.compiler import ASTSource

    signature, constants, attributes = {}, {}, {}
    for at, (name, parameter) in enumerate(zip(kernel.arg_names, kernel.params, strict=True)):
        value = arguments[name]
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[(at,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            attributes[(at,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32" if isinstance(value, int) else "fp32"
    return ASTSource(kernel, signature, constants, attributes)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of kernels whose launches were compiled, and not run, from now on."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import JITFunction

    names: list[str] = []

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        arguments = dict(zip(self.arg_names, args, strict=False))
        options = {name: kwargs[name] for name in kwargs if name not in self.arg_names}
        source = source_of(self, {**arguments, **kwargs})
        done = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert len(done.asm["cubin"]) > 0
        names.append(self.__name__)

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(JITFunction, "run", run)
    return names


def numbers(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def chains(dtype: torch.dtype) -> None:
    from flyball.kernels.gpu.verify import verify

    logits = torch.zeros(REQUESTS, MOST + 1, VOCAB, dtype=dtype)
    draft = torch.zeros(REQUESTS, MOST, VOCAB)
    given = (numbers(REQUESTS, MOST), *(numbers(REQUESTS) for _ in range(3)))
    verify(logits, draft, *given)
    certain = torch.zeros(REQUESTS, dtype=torch.bool)
    verify(logits, draft, *given, method="block", certain=certain, wants_overlap=True)
    verify(logits, None, *given)


def trees(dtype: torch.dtype) -> None:
    from flyball.kernels.gpu.tree import verify_tree

    logits = torch.zeros(REQUESTS, 1 + MOST * 2, VOCAB, dtype=dtype)
    draft = torch.zeros(REQUESTS, MOST, VOCAB)
    given = (numbers(REQUESTS, MOST, 2), *(numbers(REQUESTS) for _ in range(3)))
    verify_tree(logits, draft, *given)
    verify_tree(logits, None, *given)


def distributions(dtype: torch.dtype) -> None:
    from flyball.kernels.gpu.accept_gradient import accept_gradient
    from flyball.kernels.gpu.confidence import confidence
    from flyball.kernels.gpu.mix import mix_draw

    logits, shares = torch.zeros(REQUESTS, 2, VOCAB, dtype=dtype), torch.zeros(REQUESTS, 2)
    confidence(logits)
    for greedy in (False, True):
        mix_draw(logits, shares, numbers(REQUESTS), numbers(REQUESTS), greedy=greedy)
    present = torch.ones(REQUESTS, 2, dtype=torch.bool)
    accept_gradient(logits[:, 0], logits.float(), shares, numbers(REQUESTS), present=present)


def states(dtype: torch.dtype) -> None:
    from flyball.kernels.gpu.cache import compact
    from flyball.kernels.gpu.head import acceptance_logit

    weight = torch.zeros(2, 896, 896, dtype=dtype)
    acceptance_logit(weight[0, :3], weight, weight[:, 0], weight[0, 0], weight[0, 0, 0])
    compact([torch.zeros(2, 4, 64, 128, dtype=dtype)], numbers(2, 8), numbers(2))


@pytest.mark.parametrize(
    ("launch", "num_kernels"), [(chains, 6), (trees, 4), (distributions, 9), (states, 4)]
)
def test_every_launch_compiles_for_an_h100(
    launch: Callable[[torch.dtype], None], num_kernels: int, compiled: list[str]
) -> None:
    launch(torch.bfloat16)
    assert len(compiled) == num_kernels
