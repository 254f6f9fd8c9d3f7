"""What puts a device back as it was: orders that another process can carry out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Undo = Callable[[], None]


@dataclass(frozen=True)
class Order:
    """Puts one thing back that outlives the process that changed it; called as a function.

    It is plain data and imports what it needs when it is called: a watchdog, which has nothing
    but its text, carries it out after the process that wrote it was killed.
    """

    def __call__(self) -> None:
        """Carry it out; doing so twice does no harm."""
        raise NotImplementedError


@dataclass(frozen=True)
class WriteFile(Order):
    """Writes into a file what it held before, as sysfs takes it."""

    path: str
    text: str

    def __call__(self) -> None:
        """Write."""
        Path(self.path).write_text(self.text, encoding="ascii")


@dataclass(frozen=True)
class PutBackPowerLimit(Order):
    """Sets a GPU's power limit to the one that was in force before."""

    uuid: str
    power_limit_mw: int

    def __call__(self) -> None:
        """Set."""
        from flyball.integrations.hardware.nvml_library import gpu_by_uuid

        with gpu_by_uuid(self.uuid) as (pynvml, handle):
            pynvml.nvmlDeviceSetPowerManagementLimit(handle, self.power_limit_mw)


@dataclass(frozen=True)
class UnlockClocks(Order):
    """Takes back the lock of a GPU's clocks: NVML shows no lock that was there before."""

    uuid: str
    memory: bool

    def __call__(self) -> None:
        """Unlock."""
        from flyball.integrations.hardware.nvml_library import gpu_by_uuid

        with gpu_by_uuid(self.uuid) as (pynvml, handle):
            if self.memory:
                pynvml.nvmlDeviceResetMemoryLockedClocks(handle)
            else:
                pynvml.nvmlDeviceResetGpuLockedClocks(handle)


_ORDERS = {order.__name__: order for order in (WriteFile, PutBackPowerLimit, UnlockClocks)}


def dump_orders(orders: Sequence[Order]) -> str:
    """Orders as text."""
    fields = [{"order": type(order).__name__, **dataclasses.asdict(order)} for order in orders]
    return json.dumps(fields)


def load_orders(text: str) -> list[Order]:
    """Orders from text.

    Raises:
        ValueError: it is none.
    """
    try:
        return [_ORDERS[fields.pop("order")](**fields) for fields in json.loads(text)]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"expected orders, but got {text!r}") from error


def carry_out(orders: Sequence[Order]) -> list[tuple[Order, Exception]]:
    """Carry out orders, the last first; all are tried.

    Returns:
        Those that failed, in their old sequence, and why.
    """
    failed: list[tuple[Order, Exception]] = []
    for order in reversed(orders):
        try:
            order()
        except Exception as error:
            failed.append((order, error))
    return failed[::-1]
