"""Policy files: strict, one model for YAML and TOML, errors that name the remedy."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flyball.controller.errors import PolicyFileError
from flyball.policies.length.base import LengthPolicy, LengthSettings
from flyball.policies.length.goodput import GoodputSettings
from flyball.policies.registry import LENGTH_POLICIES

if TYPE_CHECKING:
    AnyLength = LengthSettings
else:
    AnyLength = Annotated[
        reduce(or_, [policy.Settings for policy in LENGTH_POLICIES.values()]),
        Field(discriminator="policy"),
    ]


class PolicyFile(BaseModel):
    """What a policy file says; see the README for an example."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    version: Literal[1] = Field(description="Version of the file format.")
    length: AnyLength = Field(
        default_factory=GoodputSettings, description="How many tokens to draft."
    )

    def make_length_policy(self) -> LengthPolicy:
        """A new length policy with these settings."""
        return LENGTH_POLICIES[self.length.policy](self.length)


def load_policy(source: str | Path | Mapping[str, Any] | PolicyFile | None) -> PolicyFile:
    """Read a policy from a file, a mapping, or take the default for None.

    Raises:
        PolicyFileError: one line that says what was expected, what came and what to do.
    """
    if isinstance(source, PolicyFile):
        return source
    if source is None:
        return PolicyFile(version=1)
    if isinstance(source, Mapping):
        return _validate(dict(source), "policy")
    return _validate(_read(Path(source)), str(source))


def _read(path: Path) -> Any:
    if path.suffix not in (".yaml", ".yml", ".toml"):
        raise PolicyFileError(
            f"{path}: expected a policy file that ends in .yaml, .yml or .toml; rename it"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise PolicyFileError(f"{path}: cannot read the policy file: {reason}") from error
    try:
        return tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # TOML's error, or an impossible date
        reason = " ".join(str(error).split())
        raise PolicyFileError(f"{path}: not valid {path.suffix[1:].upper()}: {reason}") from error


def _validate(content: Any, source: str) -> PolicyFile:
    if not isinstance(content, dict):
        raise PolicyFileError(
            f"{source}: expected keys such as 'version: 1' at the top, "
            f"but got {type(content).__name__}"
        )
    try:
        return PolicyFile.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(_explain(dict(problem)) for problem in error.errors())
        raise PolicyFileError(f"{source}: {problems}") from error


def _explain(problem: dict[str, Any]) -> str:
    """One clause for one of pydantic's findings."""
    loc = [str(part) for part in problem["loc"]]
    # The name of the chosen policy stands in the middle of pydantic's location.
    path = [part for i, part in enumerate(loc) if not (i == 1 and part in LENGTH_POLICIES)]
    where, key = ".".join(path), path[-1]
    if problem["type"] == "extra_forbidden":
        known = _known_keys(loc[:-1])
        return f"unknown key '{where}'{_nearest(key, known)}"
    if problem["type"] == "union_tag_invalid":
        name = str(problem["ctx"]["tag"])
        return f"unknown policy '{name}' for {where}{_nearest(name, list(LENGTH_POLICIES))}"
    if problem["type"] == "union_tag_not_found":
        return f"{where}: expected a key 'policy', one of {', '.join(LENGTH_POLICIES)}"
    if problem["type"] == "missing":
        return f"missing key '{where}'"
    if problem["type"] == "value_error":
        return f"{where}: {problem['ctx']['error']}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{where}: {message}, but got {problem['input']!r}"


def _known_keys(loc: list[str]) -> list[str]:
    if not loc:
        return list(PolicyFile.model_fields)
    return list(LENGTH_POLICIES[loc[-1]].Settings.model_fields)


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    if close:
        return f", did you mean '{close[0]}'?"
    return f"; known are {', '.join(known)}"
