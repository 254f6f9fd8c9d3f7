"""Metrics from the engine core, where the governor lives, to the API server's `/metrics`.

vLLM runs the scheduler in a process of its own. With several API servers it sets
PROMETHEUS_MULTIPROC_DIR, and they show whatever prometheus_client keeps in that folder. With one
API server nothing crosses over, so the engine core writes a text file into FLYBALL_METRICS_DIR
and a collector in the API server reads it at each scrape (see `metrics_files`). The files also
suit the textfile collector of Prometheus' node exporter.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, values, write_to_textfile

from flyball.controller.errors import HostError
from flyball.controller.metrics import GovernorMetrics, Status
from flyball.integrations.vllm.metrics_files import METRICS_DIR, engine_file

MULTIPROC_DIR = "PROMETHEUS_MULTIPROC_DIR"

logger = logging.getLogger(__name__)


class Publisher:
    """Shows the status of an engine's governor to whoever scrapes the API servers.

    `publish` only remembers the status. A daemon thread writes it at most once an interval, so
    the decoding thread never waits for a disk; the last status is written even when no other
    follows. Nothing here raises: what cannot be written is logged once and costs the metrics
    alone.

    Args:
        engine: value of the label `engine`, the engine's index as in vLLM's own metrics.
        interval_s: seconds between two writes.

    Attributes:
        wanted: whether a status would be written at once. Making one costs 10 us in an engine
            core (2 cores), so a host may publish only then, and when it falls idle.
    """

    def __init__(self, engine: str, interval_s: float = 1.0) -> None:
        self._engine = engine
        self._interval_s = interval_s
        self.wanted = True
        self._latest: Status | None = None
        self._show: Callable[[Status], None] | None = None
        self._troubled = False
        self._news = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flyball-metrics", daemon=True)
        self._thread.start()

    def publish(self, status: Status) -> None:
        """Take the newest status; cheap enough for every step."""
        self._latest = status
        if not self._news.is_set():
            self._news.set()

    def close(self) -> None:
        """Write the last status and stop; a disk that hangs is not waited for long."""
        self._closed.set()
        self._news.set()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._news.wait()
            self._news.clear()
            self.wanted = False
            self._write()
            self._closed.wait(self._interval_s)
            self.wanted = True
        self._write()

    def _write(self) -> None:
        if self._latest is None:
            return
        try:
            if self._show is None:
                self._show = _way_across(self._engine)
            self._show(self._latest)
        except Exception as error:
            if not self._troubled:
                self._troubled = True
                logger.warning("no flyball metrics of engine %s: %s", self._engine, error)


def _way_across(engine: str) -> Callable[[Status], None]:
    """What shows a status to the API servers, as the environment has it."""
    registry = CollectorRegistry()
    if os.environ.get(MULTIPROC_DIR):
        if not getattr(values.ValueClass, "_multiprocess", False):
            # prometheus_client looks for the variable when it is imported, and a forked engine
            # core inherits an import from before vLLM set it.
            values.ValueClass = values.MultiProcessValue()
        return GovernorMetrics(engine, registry).update
    directory = os.environ.get(METRICS_DIR)
    if not directory:
        raise HostError(
            f"expected {METRICS_DIR} or {MULTIPROC_DIR} to name a folder, but neither is set; "
            "the plugin sets the first: let VLLM_PLUGINS name flyball"
        )
    if not Path(directory).is_dir():
        raise HostError(f"expected {METRICS_DIR} to name a folder, but got {directory}")
    metrics = GovernorMetrics(engine, registry)
    path = engine_file(Path(directory), engine)

    def show(status: Status) -> None:
        metrics.update(status)
        if path.parent.is_dir():  # whoever made it removes it at exit
            write_to_textfile(str(path), registry)

    return show
