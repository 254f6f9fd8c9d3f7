"""What the kernels' benchmark computes: inputs, implementations, and bytes that none can avoid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from flyball.kernels import accept_gradient, confidence, head, mix, tree, verify
from flyball.kernels.dispatch import implementation
from flyball.kernels.reference import accept_gradient as gradient_reference
from flyball.kernels.reference import cache as cache_reference
from flyball.kernels.reference import confidence as confidence_reference
from flyball.kernels.reference import mix as mix_reference
from flyball.kernels.reference import tree as tree_reference
from flyball.kernels.reference import verify as verify_reference

Call = Callable[[], Any]
OPS = (
    "confidence", "mix_draw", "mix_greedy", "verify", "verify_overlap", "verify_block",
    "verify_certain", "verify_tree", "accept_gradient", "head", "cache",
)  # fmt: skip
NUM_MEMBERS = 2
TREE_WIDTH = 2
_HEAD_SIZE, _HEAD_BLOCKS = 896, 3
_CACHE = (8, 1024, 128)  # heads, columns, head size


@dataclass(frozen=True)
class Shape:
    """A batch: K drafted tokens a request, logits of one dtype."""

    requests: int
    draft_len: int
    vocab: int
    dtype: str = "float32"


@dataclass(frozen=True)
class Case:
    """One operation on one batch.

    Attributes:
        ours: through the public function.
        others: by name.
        num_bytes: that any implementation must read or write, each once.
    """

    ours: Call
    others: dict[str, Call]
    num_bytes: int


class Batch:
    """Random logits of a target and of drafts close to it, and tokens drawn from them."""

    def __init__(self, shape: Shape, device: str, seed: int) -> None:
        generator = torch.Generator(device).manual_seed(seed)
        count, most, vocab = shape.requests, shape.draft_len, shape.vocab
        dtype = getattr(torch, shape.dtype)

        def normal(*size: int) -> torch.Tensor:
            return torch.randn(*size, generator=generator, device=device)

        def numbers(high: int, *size: int) -> torch.Tensor:
            return torch.randint(high, size, generator=generator, device=device)

        self.device, self.shape, self.normal = device, shape, normal
        self.logits = (3.0 * normal(count, most + 1, vocab)).to(dtype)
        self.draft_logits = self.logits[:, :most].float() + normal(count, most, vocab)
        self.draft = self.draft_logits.softmax(-1)
        drawn = torch.multinomial(self.draft.flatten(0, 1), 1, generator=generator)
        self.tokens = drawn.view(count, most)
        self.lengths = torch.full((count,), most, device=device)
        self.seeds, self.places = numbers(2**62, count), numbers(2**30, count)
        self.shares = torch.full((count, NUM_MEMBERS), 1 / NUM_MEMBERS, device=device)

    def drafted(self) -> tuple[Any, ...]:
        """Arguments of `verify`."""
        return (
            self.logits, self.draft, self.tokens, self.lengths, self.seeds, self.places
        )  # fmt: skip


def build(op: str, batch: Batch) -> Case:
    """The case of an operation."""
    makers = {"confidence": _confidence, "accept_gradient": _gradient, "head": _head}
    makers |= {"cache": _cache, "verify_tree": _tree}
    if op in makers:
        return makers[op](batch)
    return _mix(op, batch) if op.startswith("mix") else _verify(op, batch)


def _confidence(batch: Batch) -> Case:
    logits = batch.logits
    return Case(
        lambda: confidence.confidence(logits),
        {"eager": lambda: confidence_reference.confidence(logits)},
        _size(logits),
    )


def _mix(op: str, batch: Batch) -> Case:
    count, vocab = batch.shape.requests, batch.shape.vocab
    logits = (3.0 * batch.normal(count, NUM_MEMBERS, vocab)).to(batch.logits.dtype)
    given = (logits, batch.shares, batch.seeds, batch.places)
    greedy = op == "mix_greedy"
    return Case(
        lambda: mix.mix_draw(*given, greedy=greedy),
        {"eager": lambda: mix_reference.mix_draw(*given, greedy=greedy)},
        _size(logits),
    )


def _verify(op: str, batch: Batch) -> Case:
    given = batch.drafted()
    settings: dict[str, Any] = {}
    if op == "verify_block":
        settings["method"] = "block"
    if op == "verify_overlap":
        settings["wants_overlap"] = True
    if op == "verify_certain":
        given = (given[0], None, *given[2:])
    others: dict[str, Call] = {"eager": lambda: verify_reference.verify(*given, **settings)}
    if op == "verify":
        others |= _peers(batch)
    accepted = verify.verify(*given, **settings).num_accepted
    rejected = accepted < batch.lengths
    # Rows of the draft that the verdict needs as a whole.
    num_rows = {"verify": int(rejected.sum()), "verify_certain": 0}.get(op)
    if op == "verify_overlap":
        num_rows = int((accepted + rejected).sum())
    if num_rows is None:
        num_rows = int(batch.lengths.sum())
    num_bytes = _size(batch.logits) + num_rows * batch.shape.vocab * 4
    return Case(lambda: verify.verify(*given, **settings), others, num_bytes)


def _tree(batch: Batch) -> Case:
    """A sibling for every drafted token; theirs are the last columns of the target's logits."""
    most, vocab = batch.shape.draft_len, batch.shape.vocab
    drafts, spine = batch.draft.flatten(0, 1), batch.tokens.flatten()
    siblings = tree.draw_siblings(drafts, spine, TREE_WIDTH)
    candidates = torch.cat([spine[:, None], siblings], dim=1).unflatten(0, (-1, most))
    others = 3.0 * batch.normal(batch.shape.requests, most * (TREE_WIDTH - 1), vocab)
    logits = torch.cat([batch.logits, others.to(batch.logits.dtype)], dim=1)
    _, draft, _, *rest = batch.drafted()
    given = (logits, draft, candidates, *rest)
    found = tree.verify_tree(*given)
    # A draft's row where a spine is rejected, and the target's after a sibling that is taken.
    taken = found.choice > 0
    num_rejected = int((taken | (found.num_accepted < batch.lengths)).sum())
    sibling_bytes = int(taken.sum()) * vocab * logits.element_size()
    return Case(
        lambda: tree.verify_tree(*given),
        {"eager": lambda: tree_reference.verify_tree(*given)},
        _size(batch.logits) + num_rejected * vocab * 4 + sibling_bytes,
    )


def _gradient(batch: Batch) -> Case:
    logits = batch.logits[:, :-1].flatten(0, 1).contiguous()
    drafts = batch.draft.flatten(0, 1)[:, None]
    drafts = torch.cat([drafts, drafts.flip(0)], dim=1)
    shares = batch.shares.repeat_interleave(batch.shape.draft_len, 0)
    given = (logits, drafts, shares, batch.tokens.flatten())
    return Case(
        lambda: accept_gradient.accept_gradient(*given),
        {"eager": lambda: gradient_reference.accept_gradient(*given)},
        _size(logits) + _size(drafts),
    )


def _head(batch: Batch) -> Case:
    dtype, size = batch.logits.dtype, _HEAD_SIZE
    hidden = batch.normal(batch.shape.requests, size).to(dtype)
    weight = (batch.normal(_HEAD_BLOCKS, size, size) / size**0.5).to(dtype)
    bias, out = batch.normal(_HEAD_BLOCKS, size).to(dtype), batch.normal(size).to(dtype)
    given = (hidden, weight, bias, out, out[0])
    return Case(
        lambda: head.acceptance_logit(*given),
        {"eager": lambda: head.plain_logit(*given)},
        _size(weight) + _size(hidden),
    )


def _cache(batch: Batch) -> Case:
    """Half of the last 64 columns of each row are holes; the sources are the same every time."""
    count, columns = batch.shape.requests, _CACHE[1]
    buffers = [batch.normal(count, *_CACHE).to(batch.logits.dtype) for _ in range(2)]
    source = torch.arange(columns - 64, columns, 2, device=batch.device).repeat(count, 1)
    start = torch.full((count,), columns - 64, device=batch.device)
    moved = 2 * len(buffers) * count * 32 * _CACHE[0] * _CACHE[2] * buffers[0].element_size()
    ours = implementation("cache", buffers[0]).compact
    return Case(
        lambda: ours(buffers, source, start),
        {"eager": lambda: cache_reference.compact(buffers, source, start)},
        moved,
    )


def _peers(batch: Batch) -> dict[str, Call]:
    """Other projects' routines that are importable, each given what it takes.

    transformers' takes one request at a time, and the draft's logits, which it normalises; vLLM's
    takes the bonus tokens, which others drew.
    """
    found: dict[str, Call] = {}
    try:
        from transformers.generation.utils import _speculative_sampling
    except ImportError:
        pass
    else:
        logits, others, tokens = batch.logits, batch.draft_logits, batch.tokens
        most, rows = batch.shape.draft_len, range(batch.shape.requests)
        found["transformers"] = lambda: [
            _speculative_sampling(tokens[i : i + 1], others[i : i + 1], most, logits[i : i + 1])
            for i in rows
        ]
        # The same work of ours: it normalises the draft's logits too.
        found["ours from draft logits"] = lambda: verify.verify(
            batch.logits, batch.draft_logits.softmax(-1), *batch.drafted()[2:]
        )
    if batch.device == "cuda":
        try:
            from vllm.v1.sample.rejection_sampler import rejection_sample
        except ImportError:
            return found
        most = batch.shape.draft_len
        lengths = [most] * batch.shape.requests
        ends = batch.lengths.cumsum(0).int()
        target = batch.logits[:, :most].flatten(0, 1).contiguous()
        draft, tokens = batch.draft.flatten(0, 1), batch.tokens.flatten().int()
        bonus = batch.logits[:, most].argmax(-1, keepdim=True).int()
        settings: Any = SimpleNamespace(
            temperature=torch.ones(batch.shape.requests, device=batch.device),
            all_greedy=False, all_random=True, generators={},
        )  # fmt: skip
        found["vllm"] = lambda: rejection_sample(
            tokens, lengths, most, ends, draft, target, bonus, settings
        )
    return found


def _size(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
