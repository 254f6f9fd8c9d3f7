"""Devices, work and settings that several tests share."""

import numpy as np

from flyball.integrations.hardware.device_model import DeviceModel
from flyball.integrations.hardware.device_models import MODELS
from flyball.integrations.hardware.device_settings import Settings
from flyball.integrations.hardware.device_space import space_of
from flyball.integrations.hardware.device_spec import DeviceSpec
from flyball.integrations.hardware.device_specs import A100, H100, ORIN, TX2
from flyball.integrations.hardware.device_work import Work
from flyball.integrations.hardware.simulated import SimulatedDevice

TARGETS = {A100.name: "13B", H100.name: "70B-w4", ORIN.name: "1.5B", TX2.name: "0.4B"}


def work_on(spec: DeviceSpec, drafted: bool = True) -> Work:
    draft = MODELS["0.1B"] if drafted else None
    return Work(MODELS[TARGETS[spec.name]], draft, prompt_len=200.0, answer_len=150.0)


def settings(spec: DeviceSpec, num: int = 1, **columns: float) -> Settings:
    values = {
        "graphics_clock_mhz": spec.max_graphics_mhz,
        "memory_clock_mhz": spec.max_memory_mhz,
        "cpu_clock_mhz": spec.max_cpu_mhz,
        "power_limit_w": 1e6,
        "batch_size": 8.0,
        "draft_len": 0.0,
        **columns,
    }
    arrays = {name: np.broadcast_to(value, num).astype(float) for name, value in values.items()}
    return Settings(backend=np.zeros(num, np.intp), **arrays)


def orin() -> SimulatedDevice:
    space = space_of(
        ORIN,
        batch_sizes=(1.0, 2.0, 4.0, 8.0),
        default_batch=4.0,
        draft_lens=(0.0, 2.0, 4.0),
        power_limits=True,
        backends=True,
    )
    return SimulatedDevice(DeviceModel(ORIN, work_on(ORIN)), space)
