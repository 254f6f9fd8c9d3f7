"""What vLLM runs in each of its processes: the entry point `vllm.general_plugins`.

The first process, which parses the command line and becomes the API server, gets it before the
engine core exists; the environment that is set here is the engine core's too.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

POLICY = "FLYBALL_POLICY"

logger = logging.getLogger(__name__)


def register() -> None:
    """Refuse a broken policy file, and make the governor's metrics show in `/metrics`.

    Raises:
        PolicyFileError: FLYBALL_POLICY names a file that cannot be used. vLLM does not catch it,
            so a server that was to be governed does not start ungoverned.
    """
    _check_policy()
    try:
        _serve_metrics(_metrics_dir())
    except Exception as error:
        logger.warning("no flyball metrics: %s", error)


def _check_policy() -> None:
    policy = os.environ.get(POLICY)
    if policy:
        from flyball.controller.errors import PolicyFileError
        from flyball.controller.policy_file import load_policy

        try:
            load_policy(policy)
        except PolicyFileError as error:
            raise error from None  # its one line says it all; the parser's own pages would hide it


def _metrics_dir() -> str:
    """Where engine cores write their metrics, made if need be."""
    from flyball.integrations.vllm.metrics_files import METRICS_DIR

    directory = os.environ.get(METRICS_DIR)
    if directory:
        os.makedirs(directory, exist_ok=True)
        return directory
    directory = tempfile.mkdtemp(prefix="flyball-metrics-")
    os.environ[METRICS_DIR] = directory
    atexit.register(_remove, directory, os.getpid())
    return directory


def _remove(directory: str, owner: int) -> None:
    """At exit; a forked process inherits the call but not the folder."""
    if os.getpid() == owner:
        shutil.rmtree(directory, ignore_errors=True)


@cache  # vLLM may run plugins twice in a process, a registry takes a collector once
def _serve_metrics(directory: str) -> None:
    from prometheus_client import REGISTRY

    from flyball.integrations.vllm.metrics_files import FileCollector

    REGISTRY.register(FileCollector(Path(directory)))
