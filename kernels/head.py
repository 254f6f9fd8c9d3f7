"""The acceptance head: a draft's own prediction that the target accepts what it proposes next.

With `h` the draft's last hidden state, the very one that `q = softmax(W_vocab h)` is made from,

    x_0 = h,    x_d = x_(d-1) + SiLU(W_d x_(d-1) + b_d),  d = 1..D,
    P(accepted) = sigmoid(v . x_D + c).

SpecDec++ (Huang et al., arXiv 2405.19715, section 3), with two differences from what its authors
released: every block has weights of its own, and the prediction is made from the state that
proposes the token, not from the one that has read it. So it is known one step earlier, and nothing
of the drawn token is in it: a draft that ends by it obeys Law 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch.nn import functional

from flyball.kernels.dispatch import on_gpu

_FEW_ROWS = 64  # beyond, cuBLAS shares the weights that it reads among more rows
_FORMAT = "flyball acceptance head, version 1"
_SHAPES = {"weight": "dhh", "bias": "dh", "out_weight": "h", "out_bias": ""}


def acceptance_logit(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    out_weight: torch.Tensor,
    out_bias: torch.Tensor,
) -> torch.Tensor:
    """Log-odds that the target accepts what is proposed from each state.

    Args:
        hidden: (..., hidden) last hidden states of the draft.
        weight: (blocks, hidden, hidden), row-major: a block's output by its input.
        bias: (blocks, hidden).
        out_weight: (hidden,).
        out_bias: scalar.

    Returns:
        (...,) logits.
    """
    trained = torch.is_grad_enabled() and (hidden.requires_grad or out_weight.requires_grad)
    if on_gpu(hidden) and not trained and hidden[..., 0].numel() <= _FEW_ROWS:
        from flyball.kernels.gpu import head

        return head.acceptance_logit(hidden, weight, bias, out_weight, out_bias)
    return plain_logit(hidden, weight, bias, out_weight, out_bias)


def plain_logit(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    out_weight: torch.Tensor,
    out_bias: torch.Tensor,
) -> torch.Tensor:
    """`acceptance_logit` in plain torch: for any number of rows, and for training."""
    x = hidden
    for block_weight, block_bias in zip(weight.unbind(), bias.unbind(), strict=True):
        x = x + functional.silu(functional.linear(x, block_weight, block_bias))
    return x @ out_weight + out_bias


class AcceptanceHead(torch.nn.Module):
    """Parameters of `acceptance_logit`, and their file.

    Blocks start at random from torch's generator: zeros would give all of them the same gradient.

    Args:
        hidden_size: of the draft.
        num_blocks: D, at least 0.
        notes: how it was trained; kept in the file.
    """

    def __init__(
        self, hidden_size: int, num_blocks: int, notes: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self.notes = dict(notes or {})
        scale = hidden_size**-0.5
        weight = torch.empty(num_blocks, hidden_size, hidden_size).uniform_(-scale, scale)
        self.weight = torch.nn.Parameter(weight)
        self.bias = torch.nn.Parameter(torch.zeros(num_blocks, hidden_size))
        self.out_weight = torch.nn.Parameter(torch.zeros(hidden_size))
        self.out_bias = torch.nn.Parameter(torch.zeros(()))

    @property
    def hidden_size(self) -> int:
        """Width of the states that it reads."""
        return len(self.out_weight)

    @property
    def num_blocks(self) -> int:
        """D, the residual blocks."""
        return len(self.weight)

    def logit(self, hidden: torch.Tensor) -> torch.Tensor:
        """Log-odds (...,) of acceptance for states (..., hidden), in the head's own dtype."""
        return acceptance_logit(
            hidden.to(self.weight.dtype), self.weight, self.bias, self.out_weight, self.out_bias
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Probability (...,) of acceptance for states (..., hidden)."""
        return self.logit(hidden).sigmoid()

    def save(self, path: Path) -> None:
        """Write parameters and, as metadata, shape and notes into one safetensors file."""
        from safetensors.torch import save_file

        shape = {"hidden_size": str(self.hidden_size), "num_blocks": str(self.num_blocks)}
        tensors = {name: value.detach().contiguous() for name, value in self.named_parameters()}
        save_file(tensors, path, metadata={**self.notes, **shape, "format": _FORMAT})

    @classmethod
    def load(cls, path: Path) -> AcceptanceHead:
        """Read a file of `save`, in float32.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file holds something else.
        """
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            raise FileNotFoundError(f"expected an acceptance head, but there is no file {path}")
        try:
            with safe_open(path, framework="pt") as file:
                notes = file.metadata() or {}
                # The file is no mapping: it cannot be iterated over itself.
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path}: expected a safetensors file, but {reason}") from None
        if notes.pop("format", None) != _FORMAT:
            raise ValueError(f"{path}: expected {_FORMAT!r} in its metadata; train it anew")
        sizes = {"d": int(notes.pop("num_blocks")), "h": int(notes.pop("hidden_size"))}
        expected = {name: tuple(sizes[s] for s in shape) for name, shape in _SHAPES.items()}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != expected:
            raise ValueError(f"{path}: expected tensors {expected}, but got {found}")
        head = cls(sizes["h"], sizes["d"], notes)
        head.load_state_dict(tensors)
        return head.eval()
