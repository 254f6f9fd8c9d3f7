"""NVML through nvidia-ml-py: imported late, and its errors in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flyball.controller.errors import HardwareError, HardwarePermissionError, NotSupportedError

NEEDED_RIGHT = "root, or the capability SYS_ADMIN (CAP_SYS_ADMIN; docker --cap-add SYS_ADMIN)"
_CAP_SYS_ADMIN = 21


def start_nvml() -> Any:
    """The module pynvml, its library initialised; NVML counts the starts and the stops.

    Raises:
        HardwareError: the package or the driver is missing; in one line.
    """
    try:
        import pynvml
    except ImportError as error:
        raise HardwareError(
            "expected the package nvidia-ml-py for NVML; install flyball[gpu]"
        ) from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise in_words(pynvml, error, "NVML cannot start") from error
    return pynvml


def in_words(pynvml: Any, error: Exception, what: str) -> HardwareError:
    """An error of NVML's, with the remedy.

    Args:
        pynvml: the module.
        error: that it raised.
        what: went wrong.
    """
    match getattr(error, "value", None):
        case pynvml.NVML_ERROR_NO_PERMISSION:
            return HardwarePermissionError(
                f"{what}: it needs {NEEDED_RIGHT}; reading needs no right"
            )
        case pynvml.NVML_ERROR_LIBRARY_NOT_FOUND | pynvml.NVML_ERROR_DRIVER_NOT_LOADED:
            return HardwareError(f"{what}: no NVIDIA driver is here ({error})")
        case pynvml.NVML_ERROR_NOT_SUPPORTED:
            return NotSupportedError(f"{what}: this GPU does not do that; leave the knob out")
        case pynvml.NVML_ERROR_GPU_IS_LOST:
            return HardwareError(f"{what}: the GPU is lost; it comes back with a reset or reboot")
    return HardwareError(f"{what}: {error}")


def may_set(euid: int, status: str) -> bool:
    """Whether a process has the right to set clocks and limits.

    Args:
        euid: its effective user.
        status: as in /proc/PID/status.
    """
    if euid == 0:
        return True
    words = next((line.split() for line in status.splitlines() if line.startswith("CapEff")), [])
    return len(words) > 1 and bool(int(words[1], 16) >> _CAP_SYS_ADMIN & 1)


class Gpu:
    """One GPU, by NVML.

    Args:
        index: as NVML counts: all GPUs of the machine, whatever CUDA_VISIBLE_DEVICES says.

    Attributes:
        uuid: of the GPU.
        name: for people.

    Raises:
        HardwareError: no driver, or no such GPU; in one line.
    """

    def __init__(self, index: int = 0) -> None:
        self.nvml = start_nvml()
        self.name = f"GPU {index}"
        self._handle = self._call("nvmlDeviceGetHandleByIndex", index)
        self.uuid = str(self.call("nvmlDeviceGetUUID"))
        self.name = f"GPU {index} ({self.call('nvmlDeviceGetName')})"

    def call(self, function: str, *args: Any) -> Any:
        """Call a function of NVML's about this GPU.

        Raises:
            NotSupportedError: this GPU does not do that.
            HardwarePermissionError: the right is missing.
            HardwareError: the GPU is lost, or anything else; all in one line.
        """
        return self._call(function, self._handle, *args)

    def _call(self, function: str, *args: Any) -> Any:
        try:
            return getattr(self.nvml, function)(*args)
        except self.nvml.NVMLError as error:
            what = function.removeprefix("nvmlDevice")
            raise in_words(self.nvml, error, f"{self.name}: {what}") from error


@contextmanager
def gpu_by_uuid(uuid: str) -> Iterator[tuple[Any, Any]]:
    """The module pynvml and the handle of a GPU.

    Raises:
        HardwareError: no driver, or what is done with the handle fails; in one line.
    """
    pynvml = start_nvml()
    try:
        yield pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError as error:
        raise in_words(pynvml, error, f"GPU {uuid}") from error
    finally:
        pynvml.nvmlShutdown()
