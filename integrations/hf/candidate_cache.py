"""Key-value caches of candidates that are scored again and again as their texts grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from flyball.integrations.hf.cached_model import CachedModel
from flyball.integrations.hf.candidate_rows import CandidateRows, Row
from flyball.integrations.hf.device import upload
from flyball.integrations.hf.flops import forward_flops
from flyball.integrations.hf.scorers import Partial

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]
Value = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Columns of one forward: its logits have to fit, and short texts wait for long ones' columns.
_LEAST_WIDTH = 32
_BLOCK_TOKENS = 1024


@dataclass(frozen=True)
class _Feed:
    """What has to be read of one candidate.

    Attributes:
        number: of the candidate among the partial texts.
        row: where it is cached.
        start: column of the first token that is read.
        end: columns that stay in the cache.
        block: tokens to read, from `start` on; a tail that does not stay included.
        following: as many tokens, each that behind the block's; 0 where there is none.
    """

    number: int
    row: Row
    start: int
    end: int
    block: Longs
    following: Longs


class CandidateCache:
    """Reads of every candidate only what it has not read, in batches of uneven lengths.

    A new candidate begins with a copy of the cache that shares the longest beginning with it: its
    parent's where beams fork, or that of any candidate with the same prompt. Prompts that are
    alike are read once, and a text that changed is read from where it did. So whom a text came
    from, and whether candidates are ever forgotten, matters to the cost alone.

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
        self._num_calls = 0
        self._is_reading = False

    @torch.inference_mode()
    def values(self, partial: Partial) -> list[Floats]:
        """Values at the columns from each prompt's last token on.

        Returns:
            n arrays (length - prompt_len + 1 - num_unread,).
        """
        result: list[Floats] = []
        for numbers, rows in self._chunks(partial):
            self._read(self._feeds(partial, numbers, rows, np.zeros(0, np.int64)))
            for number, row in zip(numbers, rows, strict=True):
                result.append(row.values[partial.prompt_len[number] - 1 :].copy())
        return result

    @torch.inference_mode()
    def peek(self, partial: Partial, tail: Sequence[int]) -> torch.Tensor:
        """Outputs (n, outputs) behind each text and a tail (at least one token), not cached."""
        result: dict[int, torch.Tensor] = {}
        for numbers, rows in self._chunks(partial):
            result |= self._read(self._feeds(partial, numbers, rows, np.array(tail, np.int64)))
        return torch.stack([result[number] for number in range(len(result))])

    def forget(self, candidates: Longs) -> None:
        """Free the rows of candidates (m,)."""
        self._rows.forget(candidates)

    def _chunks(self, partial: Partial) -> Iterator[tuple[Longs, list[Row]]]:
        """Candidates that are read together, and rows that hold all but the last of a prompt."""
        if self._is_reading:  # a forward failed, so what the rows hold is not known
            self._rows = CandidateRows(self._max_rows)
        self._is_reading = True
        for first in range(0, len(partial.candidate), self._max_rows):
            self._num_calls += 1
            numbers = np.arange(len(partial.candidate))[first : first + self._max_rows]
            found = self._rows.find(partial.candidate[numbers], self._num_calls)
            rows = [
                found.get(int(partial.candidate[number])) or self._begin(partial, number)
                for number in numbers
            ]
            self._read_prompts(partial, numbers, rows)
            yield numbers, rows
            # Texts that have ended will not grow; their rows serve until others need them.
            self.forget(partial.candidate[numbers][partial.finished[numbers]])
        self._is_reading = False

    def _begin(self, partial: Partial, number: int) -> Row:
        row, source = self._rows.begin(
            int(partial.candidate[number]),
            partial.tokens[number],
            int(partial.prompt_len[number]) - 1,
            self._num_calls,
        )
        if len(self._rows) > self._num_reserved:
            self._num_reserved = min(2 * self._num_reserved, self._max_rows)
            self._cached.reserve_rows(self._num_reserved)
        if source is not row:
            self._copy(source, row)
        return row

    def _copy(self, source: Row, target: Row) -> None:
        places = (np.array([self._rows.place(row)]) for row in (source, target))
        self._cached.move_rows(*places)
        target.copy_from(source)

    def _read_prompts(self, partial: Partial, numbers: Longs, rows: list[Row]) -> None:
        """Read prompts that no row holds, but for their last tokens, each once."""
        alike: dict[bytes, list[Row]] = {}
        for number, row in zip(numbers, rows, strict=True):
            prompt = partial.tokens[number][: partial.prompt_len[number] - 1]
            if row.common(prompt) < len(prompt):
                alike.setdefault(prompt.astype(np.int64).tobytes(), []).append(row)
        if not alike:
            return
        prompts = [np.frombuffer(prompt, np.int64) for prompt in alike]
        lengths = np.array([len(prompt) for prompt in prompts])
        places = np.array([self._rows.place(same[0]) for same in alike.values()])
        ids = upload(_stack(prompts), self._model.device)
        self._cached.read_prompts(ids, lengths, places)
        self._count(lengths, np.zeros_like(lengths))
        for prompt, (first, *others) in zip(prompts, alike.values(), strict=True):
            first.hold_prompt(prompt)
            for row in others:
                self._copy(first, row)

    def _feeds(
        self, partial: Partial, numbers: Longs, rows: list[Row], tail: Longs
    ) -> list[_Feed]:
        feeds = []
        for number, row in zip(numbers.tolist(), rows, strict=True):
            tokens, first = partial.tokens[number], int(partial.prompt_len[number]) - 1
            end = len(tokens) - self._num_unread
            start = row.grow(tokens, first, end, self._num_unread)
            text = np.concatenate([tokens, tail, [0]]).astype(np.int64)
            stop = len(tokens) + len(tail) if len(tail) else end
            if start < stop:
                block, following = text[start:stop], text[start + 1 : stop + 1]
                feeds.append(_Feed(number, row, start, end, block, following))
        return feeds

    def _read(self, feeds: list[_Feed]) -> dict[int, torch.Tensor]:
        """Feed blocks of uneven widths; returns the outputs at the last column of each."""
        last: dict[int, torch.Tensor] = {}
        if not feeds:
            return last
        self._count(np.array([len(f.block) for f in feeds]), np.array([f.start for f in feeds]))
        width = max(_LEAST_WIDTH, _BLOCK_TOKENS // len(feeds))
        # Those that need more forwards come first, so that the others are done without a move.
        feeds = sorted(feeds, key=lambda f: (-len(f.block) // width, self._rows.place(f.row)))
        self._cached.move_rows(*self._rows.bring_to_front([feed.row for feed in feeds]))
        for done in range(0, max(len(feed.block) for feed in feeds), width):
            feeds = [feed for feed in feeds if len(feed.block) > done]
            blocks = [feed.block[done : done + width] for feed in feeds]
            nexts = [feed.following[done : done + width] for feed in feeds]
            ids, following = (upload(_stack(x), self._model.device) for x in (blocks, nexts))
            outputs = self._cached.forward(ids, np.array([f.start + done for f in feeds]))
            if self._value is not None:
                self._keep(feeds, done, self._value(outputs, following))
            for place, feed in enumerate(feeds):
                column = len(feed.block) - 1 - done
                if column < width:
                    last[feed.number] = outputs[place, column].clone()
        return last

    def _keep(self, feeds: list[_Feed], done: int, values: torch.Tensor) -> None:
        """Note values (rows, width) of columns that stay, after `done` columns of each block."""
        for feed, new in zip(feeds, values.double().cpu().numpy(), strict=True):
            first = feed.start + done
            kept = max(0, min(len(new), feed.end - first))
            feed.row.values[first : first + kept] = new[:kept]

    def _count(self, width: Longs, context: Longs) -> None:
        self.num_tokens += int(width.sum())
        self.flops += forward_flops(self._model, width, context)


def _stack(arrays: list[Longs]) -> Longs:
    """Arrays of uneven lengths as rows (rows, width), with zeros behind."""
    stacked = np.zeros((len(arrays), max(len(array) for array in arrays)), np.int64)
    for row, array in zip(stacked, arrays, strict=True):
        row[: len(array)] = array
    return stacked
