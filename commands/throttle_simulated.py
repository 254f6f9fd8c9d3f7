"""A simulated device as the load that a setting is tried on."""

from __future__ import annotations

import numpy as np

from flyball.commands.throttle_trials import Trial
from flyball.controller.errors import HardwareError
from flyball.integrations.hardware.device_model import DeviceModel
from flyball.integrations.hardware.device_models import MODELS
from flyball.integrations.hardware.device_settings import settings_of
from flyball.integrations.hardware.device_space import space_of
from flyball.integrations.hardware.device_specs import DEVICES
from flyball.integrations.hardware.device_work import Work
from flyball.integrations.hardware.simulated import SimulatedDevice
from flyball.policies.throttle.base import Context, Window
from flyball.policies.throttle.space import Places

_SERVED, _EDGE = (4.0, 8.0, 16.0, 32.0, 64.0), (1.0, 2.0, 4.0, 8.0)
_SERVES = {
    "A100": ("8B", _SERVED),
    "H100": ("8B", _SERVED),
    "Orin": ("1.1B", _EDGE),
    "TX2": ("0.4B", _EDGE),
}  # model and batch sizes
_PROMPT_LEN, _ANSWER_LEN = 512.0, 256.0
_WINDOW_S = 60.0


def simulated(name: str, load: float) -> tuple[SimulatedDevice, Context]:
    """A device that serves a model of its size, and what is asked of it.

    Args:
        name: of the device.
        load: tokens asked for, as a share of those that it can generate by default.

    Raises:
        HardwareError: there is no such device; in one line.
    """
    if name not in _SERVES:
        raise HardwareError(f"--device {name}: expected one of {', '.join(_SERVES)}")
    spec, (target, batch_sizes) = DEVICES[name], _SERVES[name]
    most = batch_sizes[-1]
    space = space_of(
        spec, batch_sizes=batch_sizes, default_batch=most, every=(4, 1, 4), power_limits=True
    )
    model = DeviceModel(spec, Work(MODELS[target], None, _PROMPT_LEN, _ANSWER_LEN))
    at_default = settings_of(spec, space, space.default[None], most)
    capacity = float(model.steady(at_default, Context(1e-3, most)).capacity[0])
    return SimulatedDevice(model, space, most), Context(load * capacity, most)


def simulated_trial(device: SimulatedDevice, context: Context, rng: np.random.Generator) -> Trial:
    """A minute of virtual time under a setting, once the device has settled."""

    def run(setting: Places) -> Window:
        device.apply(device.space.named(setting))
        device.window(_WINDOW_S, context, rng)
        return device.window(_WINDOW_S, context, rng)

    return run
