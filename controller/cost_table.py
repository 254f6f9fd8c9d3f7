"""Frozen costs: what steps take on some machine, for replays and for runs that must repeat."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flyball.controller.contract import Cost
from flyball.controller.errors import CostTableError
from flyball.controller.validation import first_problem

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]

_SHIPPED = Path(__file__).parent / "costs"
_REACH = 2  # times the largest that was measured may be asked for

_Positive = Annotated[float, Field(gt=0.0, lt=1e9)]
_NotNegative = Annotated[float, Field(ge=0.0, lt=1e9)]
_Count = Annotated[int, Field(ge=1)]


class Power(BaseModel):
    """Watts that are drawn in the parts of a step, by all devices together."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    verify_w: _Positive = Field(description="While the target verifies and reads prompts.")
    draft_w: _Positive = Field(description="While the draft runs.")
    host_w: _Positive = Field(description="In between.")


class CostTable(BaseModel):
    """Seconds of the parts of a step, by batch size; straight lines between what was measured.

    A step over n requests with w verified tokens each, k draft steps and p tokens of prompts takes

        verify_s(n, w) + [k > 0] draft_start_s(n) + k draft_step_s(n) + host_s(n)
        + p prompt_token_s ,

    and k ask_s(n) more where the policy is asked in mid-draft: the host then waits for each of the
    draft's distributions, and for the answer.
    Beyond the last batch size, or number of tokens, the last line goes on, level where it falls.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    version: Literal[1] = Field(description="Version of the file format.")
    target: str = Field(description="Name of the target.")
    draft: str = Field(description="Name of the draft.")
    machine: str = Field(description="What it was measured on.")
    source: str = Field(description="Who measured, how, and when.")
    batch_sizes: list[_Count] = Field(min_length=1, description="b sizes, ascending.")
    verify_lens: list[_Count] = Field(
        min_length=1, description="w numbers of tokens verified for each request, ascending."
    )
    verify_s: list[list[_Positive]] = Field(description="b rows of w: forwards of the target.")
    draft_step_s: list[_NotNegative] = Field(description="b: a forward of the draft.")
    draft_start_s: list[_NotNegative] = Field(
        default_factory=list,
        description="b: what drafting at all costs beside its forwards; nothing if left out.",
    )
    ask_s: list[_NotNegative] = Field(
        default_factory=list,
        description="b: what a draft step takes longer where the policy is asked in mid-draft; "
        "nothing if left out.",
    )
    host_s: list[_NotNegative] = Field(description="b: everything else in a step.")
    prompt_token_s: _NotNegative = Field(description="Reading a token of a prompt.")
    power: Power | None = Field(None, description="What it draws; leave out where unknown.")

    @model_validator(mode="after")
    def _fits(self) -> CostTable:
        for name in ("batch_sizes", "verify_lens"):
            values = getattr(self, name)
            if any(b <= a for a, b in zip(values, values[1:], strict=False)):
                raise ValueError(f"expected ascending {name}, but got {values}")
        num_sizes, num_lens = len(self.batch_sizes), len(self.verify_lens)
        lists = ["verify_s", "draft_step_s", "host_s"]
        lists += [name for name in ("draft_start_s", "ask_s") if getattr(self, name)]
        for name in lists:
            if len(getattr(self, name)) != num_sizes:
                raise ValueError(
                    f"expected {num_sizes} values of {name}, one a batch size, but got "
                    f"{len(getattr(self, name))}"
                )
        if any(len(row) != num_lens for row in self.verify_s):
            raise ValueError(f"expected rows of {num_lens} values in verify_s, one a verify_len")
        return self

    @cached_property
    def _by_size(self) -> Floats:
        """(b, w + 4): verification, question, draft step, its start, host."""
        nothing = [0.0] * len(self.batch_sizes)
        ask_s, start_s = self.ask_s or nothing, self.draft_start_s or nothing
        return np.column_stack([self.verify_s, ask_s, self.draft_step_s, start_s, self.host_s])

    @cached_property
    def _rows(self) -> dict[int, Floats]:
        return {}

    def _row(self, batch_size: int) -> Floats:
        """(w + 4,) of one batch size."""
        if batch_size not in self._rows:
            at, share = _between(np.array(self.batch_sizes), np.array([batch_size]))
            low, high = self._by_size[at[0]], self._by_size[min(at[0] + 1, len(self._by_size) - 1)]
            self._rows[batch_size] = _on_line(low, high, share[0])
        return self._rows[batch_size]

    def verify_seconds(self, batch_size: int, verify_len: NDArray[Any] | float) -> Floats:
        """Seconds of forwards that verify so many tokens of each request, any shape."""
        seconds = self._row(batch_size)[:-4]
        at, share = _between(np.array(self.verify_lens), verify_len)
        low, high = seconds[at], seconds[np.minimum(at + 1, len(seconds) - 1)]
        return _on_line(low, high, share)

    def check_covers(self, batch_size: int, verify_len: int) -> None:
        """Refuse steps of which nothing is known: they are much larger, or batches smaller.

        As a batch drains it gets smaller than what was asked for; that is not refused.

        Raises:
            CostTableError: in one line.
        """
        for what, asked, known in (
            ("requests at a time", batch_size, self.batch_sizes),
            ("verified tokens a request", verify_len, self.verify_lens),
        ):
            most = known[-1] * (_REACH if len(known) > 1 else 1)
            if asked > most:
                raise CostTableError(
                    f"expected costs of up to {asked} {what}, but the table of {self.machine} "
                    f"was measured at {', '.join(map(str, known))}; measure larger ones, or ask "
                    "for less"
                )
        if batch_size < self.batch_sizes[0]:
            raise CostTableError(
                f"expected costs of {batch_size} requests at a time, but the table of "
                f"{self.machine} was measured from {self.batch_sizes[0]} on; measure smaller "
                "ones, or ask for more"
            )

    def step_parts(
        self,
        batch_size: int,
        verify_len: NDArray[Any],
        num_draft_steps: Longs,
        asks: bool = False,
    ) -> Floats:
        """Seconds (..., 3) of verification, draft and host; arguments as in `cost`.

        Of steps that read no prompts.
        """
        ask_s, draft_step_s, start_s, host_s = self._row(batch_size)[-4:]
        draft_step_s += asks * ask_s
        verifying = self.verify_seconds(batch_size, verify_len)
        drafting = num_draft_steps * draft_step_s + (num_draft_steps > 0) * start_s
        parts = np.broadcast_arrays(verifying, drafting, host_s)
        return np.stack(parts, axis=-1)

    def step_seconds(
        self, batch_size: int, verify_len: NDArray[Any], num_draft_steps: Longs
    ) -> Floats:
        """Seconds of steps that read no prompts, any shape; arguments as in `cost`."""
        result: Floats = self.step_parts(batch_size, verify_len, num_draft_steps).sum(axis=-1)
        return result

    def joules(self, parts: Floats) -> Floats | None:
        """What steps of such parts (..., 3) take; None where the power is not known."""
        if self.power is None:
            return None
        watts = np.array([self.power.verify_w, self.power.draft_w, self.power.host_w])
        result: Floats = parts @ watts
        return result

    def draft_step_seconds(self, batch_size: int) -> float:
        """Seconds of a forward of the draft."""
        return float(self._row(batch_size)[-3])

    def host_seconds(self, batch_size: int) -> float:
        """Seconds of a step in which neither model runs."""
        return float(self._row(batch_size)[-1])

    def draft_prompt_token_seconds(self, batch_size: int) -> float:
        """Seconds in which the draft reads a token of a prompt: as much less as its steps take."""
        one = float(self.verify_seconds(batch_size, 1.0))
        return self.prompt_token_s * self.draft_step_seconds(batch_size) / one

    def cost(
        self,
        step_id: int,
        batch_size: int,
        verify_len: float,
        num_draft_steps: int,
        num_prompt: int = 0,
        draft: int = 0,
        asks: bool = False,
    ) -> Cost:
        """What a step is taken to cost.

        Args:
            step_id: of its plan.
            batch_size: requests that the forwards run over.
            verify_len: tokens verified for each request, padding included.
            num_draft_steps: forwards of the draft.
            num_prompt: tokens of prompts that the step reads.
            draft: which one drafts.
            asks: whether the policy is asked in mid-draft.
        """
        ask_s, draft_step_s, start_s, host_s = self._row(batch_size)[-4:].tolist()
        draft_step_s += asks * ask_s
        verifying = float(self.verify_seconds(batch_size, verify_len))
        drafting = num_draft_steps * draft_step_s + (start_s if num_draft_steps else 0.0)
        return Cost(
            step_id=step_id,
            step_s=verifying + drafting + host_s + num_prompt * self.prompt_token_s,
            batch_size=batch_size,
            verify_len=verify_len,
            num_draft_steps=num_draft_steps,
            draft_s=drafting,
            verify_s=verifying,
            draft=draft,
            num_prefill=num_prompt,
        )

    def priced(self, cost: Cost, asks: bool = False) -> Cost:
        """The same step at this table's seconds; `asks` as in `cost`."""
        return self.cost(
            cost.step_id,
            cost.batch_size,
            cost.verify_len,
            cost.num_draft_steps,
            cost.num_prefill,
            cost.draft,
            asks,
        )


def _on_line(low: Floats, high: Floats, share: Any) -> Floats:
    """The line from low to high; beyond high it does not fall."""
    result: Floats = low + np.where(high > low, share, np.minimum(share, 1.0)) * (high - low)
    return result


def _between(grid: NDArray[Any], x: Any) -> tuple[NDArray[np.intp], Floats]:
    """The interval of an ascending grid for each x, and where in it, beyond 1 to the right."""
    if len(grid) == 1:
        return np.zeros(np.shape(x), np.intp), np.zeros(np.shape(x))
    at = np.clip(np.searchsorted(grid, x, side="right") - 1, 0, len(grid) - 2)
    share: Floats = np.maximum((x - grid[at]) / (grid[at + 1] - grid[at]), 0.0)
    return at, share


def load_costs(source: str | Path | CostTable) -> CostTable:
    """Read a cost table from a JSON or YAML file, or take a published one by its name.

    Raises:
        CostTableError: one line that says what was expected, what came and what to do.
    """
    if isinstance(source, CostTable):
        return source
    path = Path(source)
    if str(source) in published() and not path.exists():
        path = _SHIPPED / f"{source}.json"
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise CostTableError(
            f"{path}: cannot read the cost table: {reason}; measure one with flyball advise "
            f"--measure, or take a published one: {', '.join(published())}"
        ) from error
    try:
        return CostTable.model_validate(content)
    except ValidationError as error:
        raise CostTableError(
            f"{path}: {first_problem(error)}; correct the file, or measure anew with flyball "
            "advise --measure"
        ) from error


def published() -> list[str]:
    """Names of the tables that are shipped; each says where its numbers stand."""
    return sorted(path.stem for path in _SHIPPED.glob("*.json"))


def dump_costs(table: CostTable) -> str:
    """The table as JSON."""
    return json.dumps(table.model_dump(exclude_none=True), indent=1)
