"""Which implementation a tensor is given to: the one place that decides by device."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

# What the references do in as few passes as a CPU needs is not written again for it.
_OWN_ON_CPU = frozenset({"tree", "verify"})


def on_gpu(tensor: torch.Tensor) -> bool:
    """Whether a Triton kernel computes on this tensor: it lies on a GPU, and Triton is there.

    The kernels compute in single precision, which would be less than a float64 tensor asks for.
    """
    return tensor.is_cuda and tensor.dtype != torch.float64 and _has_triton()


def implementation(name: str, tensor: torch.Tensor) -> ModuleType:
    """The module of `kernels/gpu`, `kernels/cpu` or `kernels/reference` for a tensor.

    Imported here and not before: `import flyball.kernels.verify` imports no Triton. A GPU without
    Triton computes by the reference.

    Args:
        name: of the public module, "verify" for instance.
        tensor: the first argument, whose device decides.
    """
    if on_gpu(tensor):
        return _module("gpu", name)
    own = name in _OWN_ON_CPU and not tensor.is_cuda
    return _module("cpu" if own else "reference", name)


@cache
def _module(folder: str, name: str) -> ModuleType:
    return import_module(f"flyball.kernels.{folder}.{name}")


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
