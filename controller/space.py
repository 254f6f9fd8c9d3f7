"""Spaces of policy files: which settings to tune, within which bounds."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flyball.controller.errors import PolicyFileError, SpaceError
from flyball.controller.policy_file import PolicyFile, load_policy
from flyball.controller.policy_problems import known_keys
from flyball.controller.validation import first_problem
from flyball.policies.registry import LENGTH_POLICIES

Floats = NDArray[np.float64]
Value = float | int | str | bool
Point = dict[str, Value]  # by parameter; those that its policy does not have are left out

# Replays mix no drafts, so that nothing of an ensemble can be tuned.
_POLICIES = {"length": LENGTH_POLICIES}
_UNUSED = 0.5  # where a parameter stands that a point does not have


class Range(BaseModel):
    """Numbers between two bounds, both included."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    low: float = Field(description="Least value.")
    high: float = Field(description="Largest value.")
    integer: bool = Field(default=False, description="Whole numbers only.")
    log: bool = Field(default=False, description="Even in the logarithm; bounds above 0.")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high or not math.isfinite(self.high - self.low):
            raise ValueError(f"expected low < high, but got {self.low:g} and {self.high:g}")
        if self.log and (self.low <= 0.0 or self.integer):
            raise ValueError(
                f"expected low above 0 and no whole numbers with log, but got {self.low:g}"
                f"{' and integer' if self.integer else ''}"
            )
        if self.integer and math.ceil(self.low) > math.floor(self.high):
            raise ValueError(
                f"expected a whole number from {self.low:g} to {self.high:g}, but there is none"
            )
        return self

    @property
    def width(self) -> int:
        """Numbers that encode a value."""
        return 1

    def decode(self, unit: Floats) -> Value:
        """The value at a place (1,) between 0 and 1."""
        share = min(max(float(unit[0]), 0.0), 1.0)
        if self.integer:
            count = math.floor(self.high) - math.ceil(self.low) + 1
            return math.ceil(self.low) + min(int(share * count), count - 1)
        if self.log:
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + share * (self.high - self.low)
        return min(max(float(f"{value:.4g}"), self.low), self.high)  # for people to read

    def encode(self, value: Value) -> list[float]:
        """Where a value stands; a whole number in the middle of what `decode` takes for it."""
        number = float(value)
        if self.integer:
            first = math.ceil(self.low)
            return [(number - first + 0.5) / (math.floor(self.high) - first + 1)]
        if self.log:
            return [math.log(number / self.low) / math.log(self.high / self.low)]
        return [(number - self.low) / (self.high - self.low)]


class Choices(BaseModel):
    """Some values without an order."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    choices: list[Value] = Field(min_length=1, description="The values.")

    @property
    def width(self) -> int:
        """Numbers that encode a value."""
        return len(self.choices)

    def decode(self, unit: Floats) -> Value:
        """The value whose place (choices,) is highest."""
        return self.choices[int(unit.argmax())]

    def encode(self, value: Value) -> list[float]:
        """1 for the value, 0 for the others."""
        return [float(value == choice) for choice in self.choices]


class Space(BaseModel):
    """What `flyball tune` may change in a policy file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    version: Literal[1] = Field(description="Version of the file format.")
    policy: dict[str, Any] = Field(
        default_factory=lambda: {"version": 1},
        description="Content of the policy file that the parameters change.",
    )
    parameters: dict[str, Range | Choices] = Field(
        min_length=1, description="By key, such as length.draft_len; where to look."
    )

    @cached_property
    def _names(self) -> list[str]:
        """Those that others depend on first."""
        return sorted(self.parameters, key=lambda name: (not name.endswith(".policy"), name))

    @property
    def width(self) -> int:
        """Numbers that encode a point."""
        return sum(parameter.width for parameter in self.parameters.values())

    def decode(self, unit: Floats) -> Point:
        """The point at a place (width,) of the unit cube."""
        point: Point = {}
        first = 0
        for name in self._names:
            parameter = self.parameters[name]
            value = parameter.decode(unit[first : first + parameter.width])
            first += parameter.width
            if self._has(name, point):
                point[name] = value
        return point

    def encode(self, points: Sequence[Point]) -> Floats:
        """Where points (n,) stand in the unit cube (n, width)."""
        rows = []
        for point in points:
            row: list[float] = []
            for name in self._names:
                parameter = self.parameters[name]
                if name in point:
                    row += parameter.encode(point[name])
                else:
                    row += [_UNUSED] * parameter.width
            rows.append(row)
        return np.array(rows, np.float64).reshape(len(points), self.width)

    def _has(self, name: str, point: Mapping[str, Value]) -> bool:
        """Whether the policy that a point has chosen so far has this setting."""
        section, _, key = name.partition(".")
        if section not in _POLICIES or key == "policy":
            return True
        own = self.policy.get(section, {})
        chosen = point.get(f"{section}.policy", own.get("policy", _DEFAULT[section]))
        policy = _POLICIES[section].get(str(chosen))
        return policy is None or key in policy.Settings.model_fields

    def policy_at(self, point: Mapping[str, Value]) -> PolicyFile:
        """The policy file of a point.

        Raises:
            PolicyFileError: the settings do not go together.
        """
        content: dict[str, Any] = {key: _copy(value) for key, value in self.policy.items()}
        for section in _POLICIES:
            chosen = point.get(f"{section}.policy")
            # Another policy does not have the settings of the one in the file.
            if chosen in _POLICIES[section] and chosen != content.get(section, {}).get("policy"):
                fields = _POLICIES[section][str(chosen)].Settings.model_fields
                kept = {k: v for k, v in content.get(section, {}).items() if k in fields}
                content[section] = {**kept, "policy": chosen}
        for name, value in point.items():
            section, _, key = name.partition(".")
            if key:
                default = {"policy": _DEFAULT[section]} if section in _POLICIES else {}
                content.setdefault(section, default)[key] = value
            else:
                content[section] = value
        return load_policy(content)


_SECTIONS = ("governor",)  # besides those that choose a policy
_DEFAULT = {"length": PolicyFile(version=1).length.policy}


def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def load_space(source: str | Path | Mapping[str, Any]) -> Space:
    """Read a space from a YAML file or a mapping, and try what it may give.

    Raises:
        SpaceError: one line that says what was expected, what came and what to do.
    """
    name, content = "space", source
    if not isinstance(source, Mapping):
        name = str(source)
        try:
            content = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
            raise SpaceError(f"{name}: cannot read the space: {reason}") from error
    try:
        space = Space.model_validate(content)
    except ValidationError as error:
        raise SpaceError(f"{name}: {first_problem(error)}; see the README for a space") from error
    try:
        load_policy(space.policy)
    except PolicyFileError as error:
        raise SpaceError(f"{name}: {error}; correct the space's policy") from error
    _check(space, name)
    return space


def _check(space: Space, source: str) -> None:
    """Refuse fields that no policy has, and bounds that a policy file refuses."""
    for name in space.parameters:
        section, _, key = name.partition(".")
        known = [f"{section}.{field}" for field in _known(space, section)] or list(_POLICIES)
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"
            raise SpaceError(f"{source}: unknown parameter '{name}', {hint}")
    rng = np.random.default_rng(0)
    corners = [np.zeros(space.width), np.ones(space.width), *rng.random((64, space.width))]
    points: list[Point] = [{}, *map(space.decode, corners)]
    for point in points:
        try:
            space.policy_at(point)
        except PolicyFileError as error:
            raise SpaceError(
                f"{source}: it allows a policy file that is refused: {error}; narrow the bounds"
            ) from error


def _known(space: Space, section: str) -> list[str]:
    """Settings of a section, under any policy that the space may choose."""
    if section not in _POLICIES:
        return known_keys(PolicyFile, [section]) if section in _SECTIONS else []
    chosen = space.parameters.get(f"{section}.policy")
    own = space.policy.get(section, {}).get("policy", _DEFAULT[section])
    names = [str(c) for c in chosen.choices] if isinstance(chosen, Choices) else [str(own)]
    found: dict[str, None] = {"policy": None}
    for name in names:
        if name in _POLICIES[section]:
            found |= dict.fromkeys(_POLICIES[section][name].Settings.model_fields)
    return list(found)
