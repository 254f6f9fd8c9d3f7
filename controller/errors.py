"""Errors that a user can act on: what was expected, what came, what to do."""

from __future__ import annotations


class FlyballError(Exception):
    """Root of all errors of this package."""


class PolicyFileError(FlyballError, ValueError):
    """A policy file cannot be used."""


class TraceError(FlyballError, ValueError):
    """A trace cannot be read."""


class HostError(FlyballError, ValueError):
    """A host, or the way it is called, cannot be governed."""


class DemoError(FlyballError, ValueError):
    """The demo cannot run as asked."""


class CostTableError(FlyballError, ValueError):
    """A cost table cannot be used."""


class SpaceError(FlyballError, ValueError):
    """A space of policy files cannot be tuned."""


class TuneError(FlyballError, ValueError):
    """A tuning cannot go on."""


class HardwareError(FlyballError, RuntimeError):
    """A device cannot be set, read or put back."""


class DeviceBusyError(HardwareError):
    """Another governor holds the device."""


class HardwarePermissionError(HardwareError, PermissionError):
    """The right to set a device is missing; nothing was changed."""


class NotSupportedError(HardwareError):
    """A device, or its driver, does not do this; nothing was changed."""
