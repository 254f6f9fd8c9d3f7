"""The Triton kernels, on a GPU or under Triton's interpreter.

    TRITON_INTERPRET=1 python -m pytest tests/gpu_kernels

Triton reads that variable when it is imported, and everything in the process that uses Triton is
interpreted then, other hosts' kernels included: so these tests have a session of their own, and
any other leaves them out where there is no GPU.
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED or torch.cuda.is_available() else ["test_*.py"]


@pytest.fixture
def device() -> str:
    return "cpu" if INTERPRETED else "cuda"
