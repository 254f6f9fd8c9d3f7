"""Metric files: written by engine cores, read by the API server at each scrape.

Every engine core has one file in the text format of Prometheus, replaced as a whole. Its name
carries the process id, so that files of dead engines are told from live ones; a folder therefore
belongs to one machine (one container).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

METRICS_DIR = "FLYBALL_METRICS_DIR"

logger = logging.getLogger(__name__)


def engine_file(directory: Path, engine: str) -> Path:
    """The file of an engine that runs in this process; what dead ones left is removed."""
    for path in directory.glob(f"engine-{engine}-*.prom"):
        if not is_alive(path):
            path.unlink(missing_ok=True)
    return directory / f"engine-{engine}-{os.getpid()}.prom"


def is_alive(path: Path) -> bool:
    """Whether the process that wrote a file still runs."""
    pid = path.stem.rpartition("-")[2]
    if not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


class FileCollector(Collector):
    """The metrics of all engines that write into a folder and are alive.

    Args:
        directory: the folder; it need not exist.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unreadable: set[Path] = set()

    def collect(self) -> list[Metric]:
        """One family a metric, with the samples of all engines."""
        families: dict[str, Metric] = {}
        samples: dict[tuple[str, frozenset[tuple[str, str]]], tuple[str, Sample]] = {}
        for family in self._read():
            families[family.name] = Metric(family.name, family.documentation, family.type)
            for sample in family.samples:
                samples[sample.name, frozenset(sample.labels.items())] = family.name, sample
        for name, sample in samples.values():
            families[name].samples.append(sample)
        return list(families.values())

    def _read(self) -> Iterator[Metric]:
        """Families of all files, oldest file first.

        A newer file's samples hold over an older's: the process id of a dead engine may have come
        to belong to something else, and a scrape with a sample twice is refused as a whole.
        """
        for path in sorted(filter(is_alive, self._directory.glob("engine-*.prom")), key=_age):
            try:
                families = list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
            except Exception as error:  # whatever it is, vLLM's own metrics must be served
                if path not in self._unreadable:
                    self._unreadable.add(path)
                    logger.warning("%s: no metrics of this engine: %s", path, error)
                continue
            # When a counter began is nothing that the text format has a place for.
            yield from (family for family in families if not family.name.endswith("_created"))


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
