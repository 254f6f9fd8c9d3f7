"""Every text that beam searches come by, and what solver and judge say behind it.

A token is a function of the text before it and of its candidate's seed, so models have to be asked
once about each text, whichever policy, beam or problem size comes by it again.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.rejection_pool import SAMPLING, prompt_ids
from flyball.demo.arithmetic import STEP_END, Problem, read_steps
from flyball.demo.reasoner_loader import Reasoner, load_reasoner
from flyball.kernels.philox import token_noise

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_AT_ONCE = 64  # texts of a forward
_AHEAD = 24  # tokens whose noise is made at a time
_NONE = -1


@dataclass(frozen=True)
class Steps:
    """Candidates, grown to the ends of their steps.

    Attributes:
        node: (n, L) the text after each token, -1 behind the end.
        length: (n,) tokens.
    """

    node: Ints
    length: Ints


class Prefixes:
    """A tree of texts; nodes are numbered, those of prompts first.

    Processes hand it to each other without the models.

    Args:
        problems: (P,) whose texts they are.

    Attributes:
        problems: (P,).
        prompts: token ids of each problem.
        num_asked: texts that the models read.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        models = self.models
        self.prompts = [prompt_ids(models, problem) for problem in problems]
        self.num_asked = 0
        self.problems = problems
        self._vocab = int(models.solver.config.vocab_size)
        self._eos = int(models.tokenizer.eos_token_id)
        self._ids = models.tokenizer.get_vocab()
        self._symbol = {token: symbol for symbol, token in self._ids.items()}
        self._num_nodes = len(problems)
        self._problem: Ints = np.arange(len(problems))
        self._parent: Ints = np.full(len(problems), _NONE)
        self._token: Ints = np.full(len(problems), _NONE)
        self._child: Ints = np.full((len(problems), self._vocab), _NONE)
        self._known = np.zeros(len(problems), np.bool_)
        self._solver = np.zeros((len(problems), self._vocab), np.float32)
        self._judge = np.zeros((len(problems), self._vocab))
        self._score = np.zeros(len(problems))

    @functools.cached_property
    def models(self) -> Reasoner:
        """Solver and judge."""
        return load_reasoner()

    def __getstate__(self) -> dict[str, Any]:
        """All but the models."""
        return {name: value for name, value in vars(self).items() if name != "models"}

    def score(self, node: Ints) -> Floats:
        """The judge's likelihood of what was generated, in nats, of texts (...)."""
        found: Floats = self._score[node]
        return found

    def generated(self, node: int) -> list[int]:
        """Tokens of a text behind its prompt."""
        tokens = []
        while self._parent[node] != _NONE:
            tokens.append(int(self._token[node]))
            node = int(self._parent[node])
        return tokens[::-1]

    def grow(self, start: Ints, seeds: Sequence[int], num_before: Ints, limit: Ints) -> Steps:
        """Let candidates write their step.

        Args:
            start: (n,) texts that they go on from.
            seeds: of each one's tokens.
            num_before: (n,) tokens that were generated before.
            limit: (n,) tokens of the step at most.
        """
        key = torch.from_numpy(np.array(seeds, np.uint64).view(np.int64))
        ends = np.array([self._eos, self._ids[STEP_END]])
        node, length = start.copy(), limit.copy()
        columns: list[Ints] = []
        rows = np.arange(len(start))
        while len(rows):
            self._ask(node[rows])
            ahead = len(columns) % _AHEAD
            if ahead == 0:
                index = (num_before + len(columns))[:, None] + np.arange(_AHEAD)
                noise = token_noise(key, torch.from_numpy(index), self._vocab).numpy()
            token = (self._solver[node[rows]] + noise[rows, ahead]).argmax(axis=1)
            node[rows] = self._step(node[rows], token)
            column = np.full(len(start), _NONE)
            column[rows] = node[rows]
            columns.append(column)
            over = np.isin(token, ends) | (limit[rows] == len(columns))
            length[rows[over]] = len(columns)
            rows = rows[~over]
        return Steps(np.stack(columns, axis=1), length)

    def _step(self, node: Ints, token: Ints) -> Ints:
        """Texts (n,) one token further, which may be new."""
        child = self._child[node, token]
        if (child == _NONE).any():
            pairs = np.unique(np.stack([node, token], axis=1)[child == _NONE], axis=0)
            self._add(pairs[:, 0], pairs[:, 1])
            child = self._child[node, token]
        return child

    def _add(self, node: Ints, token: Ints) -> None:
        """New texts (n,), each its parent's with one more token."""
        count, first = len(node), self._num_nodes
        if first + count > len(self._parent):
            self._reserve(2 * (first + count))
        new = slice(first, first + count)
        self._num_nodes += count
        self._child[node, token] = np.arange(first, first + count)
        self._problem[new], self._parent[new] = self._problem[node], node
        self._token[new] = token
        self._score[new] = self._score[node] + self._judge[node, token]

    def _reserve(self, num_nodes: int) -> None:
        for name in ("_problem", "_parent", "_token", "_child"):
            self._grow_array(name, num_nodes, _NONE)
        for name in ("_known", "_solver", "_judge", "_score"):
            self._grow_array(name, num_nodes, 0)

    def _grow_array(self, name: str, num_nodes: int, fill: int) -> None:
        old = getattr(self, name)
        new = np.full((num_nodes, *old.shape[1:]), fill, old.dtype)
        new[: len(old)] = old
        setattr(self, name, new)

    def _ask(self, node: Ints) -> None:
        """Have the models read these texts (n,), if they have not, and what may follow."""
        unknown = np.unique(node[~self._known[node]])
        texts = []
        for number in unknown.tolist():
            problem, written = int(self._problem[number]), self.generated(number)
            texts.append((number, self.prompts[problem], written, self._guess(problem, written)))
        texts.sort(key=lambda text: sum(map(len, text[1:])))
        for first in range(0, len(texts), _AT_ONCE):
            self._read(texts[first : first + _AT_ONCE])
        self.num_asked += len(texts)

    def _guess(self, problem: int, written: list[int]) -> list[int]:
        """Tokens that may well follow: what would be right after the latest result."""
        operations, value = self.problems[problem].operations, self.problems[problem].start
        *done, current = read_steps("".join(self._symbol[token] for token in written))
        if done and done[-1][:2].isdecimal():
            value = int(done[-1][:2])
        if len(done) >= len(operations):
            return []
        if len(current) >= 2 and current[:2].isdecimal():
            rest = Problem(int(current[:2]), operations[len(done) + 1 :])
            right = rest.text[:-1] + (STEP_END + rest.solution if rest.operations else "")
        else:
            right = Problem(value, operations[len(done) :]).solution
        if not right.startswith(current):
            return []
        return [self._ids[symbol] for symbol in right[len(current) :]]

    @torch.inference_mode()
    def _read(self, texts: list[tuple[int, list[int], list[int], list[int]]]) -> None:
        """Ask the models about texts of nodes, and about each beginning of their guesses."""
        whole = [[*prompt, *written, *guess] for _, prompt, written, guess in texts]
        ids = torch.zeros(len(whole), max(map(len, whole)), dtype=torch.long)
        for row, tokens in enumerate(whole):
            ids[row, : len(tokens)] = torch.tensor(tokens)
        solver = (self.models.solver(ids).logits.float() / SAMPLING["temperature"]).numpy()
        judge = self.models.judge(ids).logits.float().log_softmax(dim=-1).double().numpy()
        for row, (number, prompt, written, guess) in enumerate(texts):
            node, first = number, len(prompt) + len(written) - 1
            for place, token in enumerate([*guess, _NONE]):
                if not self._known[node]:
                    self._known[node] = True
                    self._solver[node] = solver[row, first + place]
                    self._judge[node] = judge[row, first + place]
                if token != _NONE:
                    one = np.array([node]), np.array([token])
                    node = int(self._step(*one)[0])
