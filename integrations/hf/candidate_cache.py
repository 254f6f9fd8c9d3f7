"""Key-value caches of candidates that are scored again and again as their texts grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from flyball.integrations.hf.cached_model import CachedModel
from flyball.integrations.hf.candidate_reads import Read, ReadPlan, find_source
from flyball.integrations.hf.candidate_rows import CandidateRows
from flyball.integrations.hf.device import upload
from flyball.integrations.hf.flops import forward_flops
from flyball.integrations.hf.scorers import Partial

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]
Value = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Columns of one forward: its logits have to fit, and short texts wait for long ones' columns.
_LEAST_WIDTH = 32
_BLOCK_TOKENS = 1024
_FORWARD_TOKENS = 64  # that may be padding before a forward more is cheaper


class CandidateCache:
    """Reads of every candidate only what it has not read, in batches of uneven lengths.

    Candidates share a row as long as their texts are alike, so that what they have in common is
    read once: a prompt, and the first tokens, which many samples of one prompt write alike. Who
    goes on differently does so on a copy of the row that shares the longest beginning with it, and
    a text that changed is read from where it did. So whom a text came from, and whether candidates
    are ever forgotten, matters to the cost alone.

    Args:
        model: decoder-only model that passed `checks.check_model`.
        value: what to keep of each column: a function of its outputs (rows, width, outputs) and of
            the tokens (rows, width) that follow, which gives values (rows, width); None if only
            `peek` is used.
        num_unread: last tokens of each text that `values` does not read; 1 where a value depends
            on the following token.
        max_rows: candidates that are cached at a time. Of more, those that were scored least
            recently make way, and are read anew when they come back.

    Attributes:
        num_tokens: tokens read so far, without padding.
        flops: what that took, by `forward_flops`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        value: Value | None = None,
        num_unread: int = 0,
        max_rows: int = 64,
    ) -> None:
        self.num_tokens = 0
        self.flops = 0.0
        self._model = model
        self._value = value
        self._num_unread = num_unread
        self._max_rows = max_rows
        self._rows = CandidateRows(max_rows)
        self._num_reserved = 1
        self._cached = CachedModel(model, self._num_reserved, 0)
        self._is_reading = False

    @torch.inference_mode()
    def values(self, partial: Partial) -> list[Floats]:
        """Values at the columns from each prompt's last token on.

        Returns:
            n arrays (length - prompt_len + 1 - num_unread,).
        """
        result = [np.zeros(0)] * len(partial.candidate)
        for reads in self._chunks(partial, np.zeros(0, np.int64)):
            self._read([read for read in reads if len(read.block)])
            for read in reads:
                values = self._rows.values[read.row, read.first : read.end].copy()
                for number in read.numbers.tolist():
                    result[number] = values
        return result

    @torch.inference_mode()
    def peek(self, partial: Partial, tail: Sequence[int]) -> torch.Tensor:
        """Outputs (n, outputs) behind each text and a tail (at least one token), not cached."""
        result: dict[int, torch.Tensor] = {}
        for reads in self._chunks(partial, np.array(tail, np.int64)):
            for read, outputs in zip(reads, self._read(reads), strict=True):
                result |= dict.fromkeys(read.numbers.tolist(), outputs)
        return torch.stack([result[number] for number in range(len(result))])

    def forget(self, candidates: Longs) -> None:
        """Free the rows of candidates (m,)."""
        for candidate in candidates.tolist():
            self._rows.leave(candidate)

    def _chunks(self, partial: Partial, tail: Longs) -> Iterator[list[Read]]:
        """Texts that are read together, in rows that hold all but the last of a prompt."""
        if self._is_reading:  # a forward failed, so what the rows hold is not known
            self._rows = CandidateRows(self._max_rows)
        self._is_reading = True
        numbers = np.arange(len(partial.candidate))
        for some in np.split(numbers, range(self._max_rows, len(numbers), self._max_rows)):
            self._rows.begin_call()
            alike: dict[tuple[bytes, int], list[int]] = {}
            for number in some.tolist():
                tokens = partial.tokens[number].astype(np.int64)
                key = tokens.tobytes(), int(partial.prompt_len[number])
                alike.setdefault(key, []).append(number)
            groups = [np.array(same) for same in alike.values()]
            self._read_prompts(partial, groups)
            plan = ReadPlan(self._rows, partial, self._num_unread, tail)
            reads, copies = plan.place(groups)
            self._make_room()
            self._cached.move_rows(*copies)
            yield reads
            # Texts that have ended will not grow; their rows serve until others need them.
            self.forget(partial.candidate[some][partial.finished[some]])
        self._is_reading = False

    def _read_prompts(self, partial: Partial, groups: Sequence[Longs]) -> None:
        """Read prompts that no row holds, each once, of groups of candidates with one text."""
        missing: set[bytes] = set()
        for same in groups:
            tokens, length = partial.tokens[same[0]], int(partial.prompt_len[same[0]]) - 1
            row, _ = find_source(self._rows, partial.candidate[same].tolist(), tokens, length)
            if row >= 0 and self._rows.held(tokens, row) >= length:
                self._rows.spare(row)
            elif length:
                missing.add(tokens[:length].astype(np.int64).tobytes())
        if not missing:
            return
        unread = [np.frombuffer(prompt, np.int64) for prompt in sorted(missing)]
        lengths = np.array([len(prompt) for prompt in unread])
        rows = np.array([self._rows.take() for _ in unread])
        self._make_room()
        ids = upload(_stack(unread), self._model.device)
        self._cached.read_prompts(ids, lengths, rows)
        self._count(lengths, np.zeros_like(lengths))
        for row, prompt in zip(rows.tolist(), unread, strict=True):
            self._rows.hold(row, prompt, len(prompt), len(prompt), len(prompt))

    def _make_room(self) -> None:
        if len(self._rows) > self._num_reserved:
            self._num_reserved = min(2 * len(self._rows), self._max_rows)
            self._cached.reserve_rows(self._num_reserved)

    def _read(self, reads: list[Read]) -> list[torch.Tensor]:
        """Feed blocks of uneven widths; returns the outputs (outputs,) at the end of each."""
        last: dict[int, torch.Tensor] = {}
        if not reads:
            return []
        self._count(np.array([len(r.block) for r in reads]), np.array([r.start for r in reads]))
        for some in _of_like_length(reads):
            last |= self._forward(some)
        return [last[read.row] for read in reads]

    def _forward(self, reads: list[Read]) -> dict[int, torch.Tensor]:
        """Feed blocks, as many columns at a time as fit; returns the last outputs by row."""
        last: dict[int, torch.Tensor] = {}
        width = max(_LEAST_WIDTH, _BLOCK_TOKENS // len(reads))
        for done in range(0, max(len(read.block) for read in reads), width):
            reads = [read for read in reads if len(read.block) > done]
            blocks = [read.block[done : done + width] for read in reads]
            nexts = [read.following[done : done + width] for read in reads]
            ids, following = (upload(_stack(x), self._model.device) for x in (blocks, nexts))
            lengths = np.array([read.start + done for read in reads])
            rows = np.array([read.row for read in reads])
            outputs = self._cached.forward(ids, lengths, rows=rows)
            if self._value is not None:
                self._keep(reads, done, self._value(outputs, following))
            for place, read in enumerate(reads):
                column = len(read.block) - 1 - done
                if column < width:
                    last[read.row] = outputs[place, column]
        return last

    def _keep(self, reads: list[Read], done: int, values: torch.Tensor) -> None:
        """Note values (rows, width) of columns that stay, after `done` columns of each block."""
        for read, new in zip(reads, values.double().cpu().numpy(), strict=True):
            first = read.start + done
            kept = max(0, min(len(new), read.end - first))
            self._rows.values[read.row, first : first + kept] = new[:kept]

    def _count(self, width: Longs, context: Longs) -> None:
        self.num_tokens += int(width.sum())
        self.flops += forward_flops(self._model, width, context)


def _of_like_length(reads: Sequence[Read]) -> Iterator[list[Read]]:
    """Parts that are read together, in the order of their rows: padding costs more than a part."""
    left = sorted(reads, key=lambda read: -len(read.block))
    while left:
        lengths = np.array([len(read.block) for read in left])
        saved = (lengths[0] - lengths) * np.arange(len(left), 0, -1)
        end = int((saved > _FORWARD_TOKENS).argmax()) or len(left)
        yield sorted(left[:end], key=lambda read: read.row)
        left = left[end:]


def _stack(arrays: list[Longs]) -> Longs:
    """Arrays of uneven lengths as rows (rows, width), with zeros behind."""
    stacked = np.zeros((len(arrays), max(len(array) for array in arrays)), np.int64)
    for row, array in zip(stacked, arrays, strict=True):
        row[: len(array)] = array
    return stacked
