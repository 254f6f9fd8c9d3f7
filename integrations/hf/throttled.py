"""The throttle of a governed model: batch, draft length and the hardware under it."""

from __future__ import annotations

import numpy as np
import torch

from flyball.controller.governor import Governor
from flyball.controller.throttle import Throttle
from flyball.integrations.hardware.base import LeverActuator
from flyball.integrations.hardware.combined import Combined
from flyball.integrations.hardware.devices import best_meter, open_device
from flyball.integrations.hardware.engine import EngineActuator, batch_lever, draft_lever


def open_throttle(
    governor: Governor, device: torch.device, most_rows: int, drafts: bool
) -> Throttle | None:
    """What sets batch, draft length and hardware while texts are written.

    Args:
        governor: whose limits the loop goes by, and whose policy file says which policy, for
            what, and which device is set besides.
        device: of the model.
        most_rows: that decode at a time.
        drafts: whether the model has drafts.

    Returns:
        None where the file has no throttle section.

    Raises:
        HardwareError: the device is not here, or another process governs it; in one line.
    """
    file = governor.policy_file
    settings = file.throttle
    if settings is None:
        return None
    levers = [batch_lever(governor, most_rows)]
    if drafts:
        # No queue grows here, and most of the slowest tokens are those after a rejected draft.
        levers.append(draft_lever(governor, safe=0))
    # NVML counts all GPUs of the machine, torch those that it may use.
    gpu = torch.cuda._get_nvml_device_index(device) if device.type == "cuda" else None
    name = f"{governor.engine_id} {id(governor)}"
    parts: list[LeverActuator] = [EngineActuator(name, levers, settings.dry_run)]
    if settings.actuator == "engine":
        meter = best_meter(gpu)
    else:
        hardware, meter = open_device(settings.actuator, gpu or 0, settings.dry_run)
        parts.insert(0, hardware)
    actuator = Combined(parts)
    space, rng = actuator.capabilities(), np.random.default_rng(0)
    policy = file.make_throttle_policy(space, file.goal, rng)
    assert policy is not None
    return Throttle(policy, actuator, meter, settings.window_s)
