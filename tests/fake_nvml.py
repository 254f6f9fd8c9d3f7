"""A test double of the NVML library, below nvidia-ml-py: C functions over a file of state.

The same file serves this process and those it starts, so a watchdog sees the same GPU.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
from pathlib import Path

SUCCESS = 0
NO_PERMISSION = 4
DRIVER_NOT_LOADED = 9
GPU_IS_LOST = 15
NOT_SUPPORTED = 3


class State(ctypes.Structure):
    """Mirrors `struct state` of fake_nvml.c."""

    _fields_ = [
        ("init_error", ctypes.c_int),
        ("read_error", ctypes.c_int),
        ("set_error", ctypes.c_int),
        ("energy_supported", ctypes.c_int),
        ("power_supported", ctypes.c_int),
        ("clocks_supported", ctypes.c_int),
        ("graphics_lock", ctypes.c_uint),
        ("memory_lock", ctypes.c_uint),
        ("power_limit", ctypes.c_uint),
        ("default_limit", ctypes.c_uint),
        ("least_limit", ctypes.c_uint),
        ("most_limit", ctypes.c_uint),
        ("power", ctypes.c_uint),
        ("temperature", ctypes.c_uint),
        ("energy", ctypes.c_ulonglong),
        ("num_sets", ctypes.c_uint),
    ]

    def reset(self) -> None:
        """A GPU whose owner lowered the power limit, 600 W instead of 700 W."""
        ctypes.memset(ctypes.addressof(self), 0, ctypes.sizeof(self))
        self.energy_supported = self.power_supported = self.clocks_supported = 1
        self.power_limit, self.default_limit = 600_000, 700_000
        self.least_limit, self.most_limit = 200_000, 700_000
        self.power, self.temperature, self.energy = 350_500, 51, 1_000_000


def build(folder: Path) -> Path:
    """Compile the library into a folder, under the name that nvidia-ml-py loads."""
    library = folder / "libnvidia-ml.so.1"
    source = Path(__file__).with_name("fake_nvml.c")
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source]
    subprocess.run(command, check=True)
    return library


def open_state(file: Path) -> State:
    """The state that libraries share which were given this file."""
    file.write_bytes(bytes(ctypes.sizeof(State)))
    descriptor = os.open(file, os.O_RDWR)
    shared = mmap.mmap(descriptor, ctypes.sizeof(State))
    os.close(descriptor)
    state = State.from_buffer(shared)
    state.reset()
    return state
