"""Joules from sampled watts, for devices that show power and count no energy."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

SAMPLE_PERIOD_S = 0.1

logger = logging.getLogger(__name__)


class PowerIntegral:
    """Integrates power between samples by the trapezoidal rule.

    Samples are taken by a thread from the first reading until `close`, and by each reading.

    Args:
        power_w: reads watts.
        kind: of meter.
        clock: seconds.
        period_s: between the thread's samples.

    Attributes:
        kind: as given.
    """

    def __init__(
        self,
        power_w: Callable[[], float],
        kind: str,
        clock: Callable[[], float] = time.perf_counter,
        period_s: float = SAMPLE_PERIOD_S,
    ) -> None:
        self.kind = kind
        self._power_w = power_w
        self._clock = clock
        self._period_s = period_s
        self._turn = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._sum_j = 0.0
        self._last_w, self._last_s = power_w(), clock()

    def energy_j(self) -> float:
        """Since it was made.

        Raises:
            HardwareError: power cannot be read; in one line.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="flyball-power", daemon=True)
            self._thread.start()
        return self._sample()

    def _sample(self) -> float:
        with self._turn:
            now_w, now_s = self._power_w(), self._clock()
            self._sum_j += (now_w + self._last_w) / 2 * (now_s - self._last_s)
            self._last_w, self._last_s = now_w, now_s
            return self._sum_j

    def _run(self) -> None:
        while not self._closed.wait(self._period_s):
            try:
                self._sample()
            except Exception as error:
                logger.warning("power is read with the windows only from now on: %s", error)
                return

    def close(self) -> None:
        """Take no more samples."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
