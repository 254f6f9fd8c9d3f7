"""A governor's longest draft as a knob."""

from __future__ import annotations

import pytest

from flyball.controller.governor import Governor, HostInfo
from flyball.controller.policy_file import static_policy
from flyball.integrations.hardware.engine import EngineActuator, draft_lever


@pytest.mark.parametrize("ragged_ok", [True, False])
def test_no_plan_is_longer_than_the_limit_in_force(ragged_ok: bool) -> None:
    governor = Governor(static_policy(6), HostInfo("test", ragged_ok=ragged_ok), lambda: 0.0)
    slots = governor.admit(3)

    def planned() -> list[int]:
        return governor.plan(slots).draft_len.tolist()

    with EngineActuator("test", [draft_lever(governor)]) as actuator:
        assert actuator.capabilities().knobs[0].values == (0.0, 1.0, 2.0, 4.0, 6.0)
        for limit in (2, 0, 4):
            actuator.apply({"draft_len": float(limit)})
            assert planned() == [limit] * 3
            assert actuator.read() == {"draft_len": float(limit)}
    assert planned() == [6] * 3
    assert governor.faults == {}
