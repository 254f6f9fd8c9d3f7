"""Policy files: strict, one model for YAML and TOML, errors that name the remedy."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from flyball.controller.errors import PolicyFileError
from flyball.controller.policy_problems import explain
from flyball.controller.sections import (
    AnyEnsemble,
    AnyLength,
    AnyRejection,
    AnyThrottle,
    GovernorSettings,
    ObjectiveSettings,
    SLOSettings,
    TraceSettings,
)
from flyball.policies.ensemble.base import EnsemblePolicy
from flyball.policies.length.base import LengthPolicy
from flyball.policies.length.goodput import GoodputSettings
from flyball.policies.length.static import Static, StaticSettings
from flyball.policies.registry import (
    ENSEMBLE_POLICIES,
    LENGTH_POLICIES,
    REJECTION_POLICIES,
    THROTTLE_POLICIES,
)
from flyball.policies.rejection.base import RejectionPolicy
from flyball.policies.throttle.base import Goal, ThrottlePolicy
from flyball.policies.throttle.space import Space

_STATIC_LENGTHS = (0, 1, 2, 4, 8, 16, 32, 64)


class PolicyFile(BaseModel):
    """What a policy file says; see the README for an example."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    version: Literal[1] = Field(description="Version of the file format.")
    length: AnyLength = Field(
        default_factory=GoodputSettings, description="How many tokens to draft."
    )
    ensemble: AnyEnsemble | None = Field(
        default=None,
        description="How to weigh several drafts against each other; left out, they are not "
        "mixed.",
    )
    rejection: AnyRejection | None = Field(
        default=None,
        description="Which candidates of searches to stop before they finish; left out, none.",
    )
    throttle: AnyThrottle | None = Field(
        default=None,
        description="Which clocks, limits and counts to set; left out, they are left alone.",
    )
    objective: ObjectiveSettings = Field(
        default=ObjectiveSettings(), description="What they are set for."
    )
    slo: SLOSettings | None = Field(
        default=None, description="What is promised, whatever is set; left out, nothing."
    )
    governor: GovernorSettings | None = Field(
        default=None,
        description="Left out, shadows are followed where the length section is left out or names "
        "goodput.",
    )
    trace: TraceSettings | None = Field(
        default=None, description="Record every verification round; left out, nothing is."
    )
    reload: bool = Field(
        default=False, description="Take up changes of this file while it is in force."
    )

    _path: Path | None = PrivateAttr(default=None)

    @property
    def path(self) -> Path | None:
        """The file that it was read from, if any."""
        return self._path

    def __eq__(self, other: object) -> bool:
        """Whether both say the same, wherever they were read from."""
        return isinstance(other, PolicyFile) and self.model_dump() == other.model_dump()

    @property
    def goal(self) -> Goal:
        """What the throttle section's policy is to reach."""
        return Goal(
            self.objective.maximize,
            None if self.slo is None else 1e-3 * self.slo.token_latency_p99_ms,
            self.objective.power_cap_w,
        )

    def offline(self) -> PolicyFile:
        """The same for replays: nothing is recorded, and no file is watched."""
        return self.model_copy(update={"trace": None, "reload": False})

    def make_length_policy(self) -> LengthPolicy:
        """A new length policy with these settings."""
        return LENGTH_POLICIES[self.length.policy](self.length)

    def make_ensemble_policy(
        self, num_members: int, rng: np.random.Generator
    ) -> EnsemblePolicy | None:
        """A new ensemble policy for so many drafts; None where the file has no such section."""
        if self.ensemble is None:
            return None
        return ENSEMBLE_POLICIES[self.ensemble.policy](self.ensemble, num_members, rng)

    def make_rejection_policy(self, rng: np.random.Generator) -> RejectionPolicy | None:
        """A new rejection policy; None where the file has no such section."""
        if self.rejection is None:
            return None
        return REJECTION_POLICIES[self.rejection.policy](self.rejection, rng)

    def make_throttle_policy(
        self, space: Space, goal: Goal, rng: np.random.Generator
    ) -> ThrottlePolicy | None:
        """A new throttle policy for these settings; None where the file has no such section."""
        if self.throttle is None:
            return None
        return THROTTLE_POLICIES[self.throttle.policy](self.throttle, space, goal, rng)

    def make_shadows(self) -> dict[str, LengthPolicy]:
        """New policies to be followed if they do better, by name, that of the file first.

        Empty where it alone is followed.
        """
        governor, limit = self.governor, self.length.max_draft_len
        if governor is None:
            governor = GovernorSettings(
                follow="shadows" if isinstance(self.length, GoodputSettings) else "length"
            )
        if governor.follow == "length":
            return {}
        found = {self.length.policy: self.make_length_policy()}
        for name in governor.shadows:
            if name == "static":
                for length in _STATIC_LENGTHS:
                    if length <= limit:
                        settings = StaticSettings(draft_len=length, max_draft_len=limit)
                        found.setdefault(f"static_{length}", Static(settings))
            elif name not in found:
                policy = LENGTH_POLICIES[name]
                bound = min(limit, policy.Settings.model_fields["max_draft_len"].default)
                found[name] = policy(policy.Settings(policy=name, max_draft_len=bound))
        return found


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
    path = Path(source)
    policy = _validate(_read(path), str(source))
    policy._path = path
    return policy


def static_policy(draft_len: int) -> PolicyFile:
    """The policy with one draft length for everything."""
    length = {"policy": "static", "draft_len": draft_len, "max_draft_len": max(draft_len, 1)}
    return load_policy({"version": 1, "length": length})


def load_policies(paths: Sequence[Path]) -> dict[str, PolicyFile]:
    """Policy files by their names without suffix.

    Raises:
        PolicyFileError: one cannot be used, or two have the same name; in one line.
    """
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        raise PolicyFileError(
            f"expected policy files of different names, but got {', '.join(names)}; rename one"
        )
    return dict(zip(names, map(load_policy, paths), strict=True))


def policy_schema() -> dict[str, Any]:
    """The JSON schema of a policy file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **PolicyFile.model_json_schema(),
    }


def dump_policy(policy: PolicyFile) -> str:
    """The policy as YAML with every setting, defaults included; it loads as the same policy."""
    text: str = yaml.safe_dump(policy.model_dump(), sort_keys=False, allow_unicode=True)
    return text


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
        problems = "; ".join(explain(dict(problem), PolicyFile) for problem in error.errors())
        raise PolicyFileError(f"{source}: {problems}") from error
