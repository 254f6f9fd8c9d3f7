"""The fused acceptance head equals the float64 formula."""

from __future__ import annotations

import pytest
import torch

from flyball.kernels.gpu.head import acceptance_logit
from flyball.kernels.head import plain_logit as reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_blocks", [0, 1, 3])
@pytest.mark.parametrize("shape", [(1, 16), (3, 2, 300), (20, 64), (0, 16)])
def test_logits_are_the_formulas(
    shape: tuple[int, ...], num_blocks: int, dtype: torch.dtype, device: str
) -> None:
    torch.manual_seed(0)
    size = shape[-1]
    parameters = [
        torch.randn(shape),
        torch.randn(num_blocks, size, size) / size**0.5,
        torch.randn(num_blocks, size),
        torch.randn(size) / size**0.5,
        torch.randn(()),
    ]
    given = [x.to(device, dtype) for x in parameters]
    found = acceptance_logit(*given)
    assert found.shape == shape[:-1] and found.dtype == dtype
    wanted = reference(*(x.cpu().double() for x in given))
    # States stay in TF32 at least; bfloat16 keeps 8 bits of the result.
    tolerance = {torch.float32: 2e-6, torch.float16: 5e-3, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(found.cpu().double(), wanted, rtol=tolerance, atol=tolerance)
