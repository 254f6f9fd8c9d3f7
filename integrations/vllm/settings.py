"""Where a vLLM engine finds its policy."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from typing import Any

from flyball.controller.errors import PolicyFileError
from flyball.controller.policy_file import PolicyFile, load_policy

POLICY_VARIABLE = "FLYBALL_POLICY"
_KEYS = ("policy", "allow_untested")


@dataclass(frozen=True)
class Settings:
    """What the user said.

    Attributes:
        policy: the policy file; the default policy where there is none.
        allow_untested: govern a vLLM that was not tested, where its methods look the same.
    """

    policy: PolicyFile
    allow_untested: bool = False


def read_settings(vllm_config: Any) -> Settings:
    """Settings from `--additional-config '{"flyball": {"policy": ...}}'`, or FLYBALL_POLICY.

    Raises:
        PolicyFileError: the policy file is missing or broken, or a setting is unknown.
    """
    additional = vllm_config.additional_config
    own = additional.get("flyball", {}) if isinstance(additional, dict) else {}
    if not isinstance(own, dict):
        raise PolicyFileError(
            f'additional-config: expected {{"flyball": {{"policy": "FILE"}}}}, but got {own!r}'
        )
    for key in own:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(_KEYS)}"
            raise PolicyFileError(f"additional-config: unknown key 'flyball.{key}'; {hint}")
    path = own.get("policy") or os.environ.get(POLICY_VARIABLE)
    return Settings(load_policy(path), own.get("allow_untested") is True)
