"""A policy file that changes while it is in force."""

from __future__ import annotations

import logging
import threading
from collections import deque
from pathlib import Path

from flyball.controller.errors import PolicyFileError
from flyball.controller.policy_file import PolicyFile, load_policy

logger = logging.getLogger(__name__)


class PolicyWatch:
    """Looks at a policy file from a thread of its own and keeps what is new until it is taken.

    A file that became unusable is reported, and the running policy stays. Traces go on where they
    were: a changed `trace` section takes effect at the next start.

    Args:
        path: of the policy file.
        policy: what it says now.
        interval_s: seconds between two looks.
    """

    def __init__(self, path: Path, policy: PolicyFile, interval_s: float = 1.0) -> None:
        self._path = path
        self._policy = policy
        self._interval_s = interval_s
        self._stamp = self._look()
        self._news: deque[PolicyFile] = deque(maxlen=1)  # both threads use it
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flyball-policy", daemon=True)
        self._thread.start()

    def take(self) -> PolicyFile | None:
        """The newest policy, if it changed since it was last taken; costs next to nothing."""
        return self._news.pop() if self._news else None

    def close(self) -> None:
        """Stop looking."""
        self._closed.set()
        self._thread.join(timeout=5.0)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _run(self) -> None:
        while not self._closed.wait(self._interval_s):
            stamp = self._look()
            if stamp == self._stamp:
                continue
            self._stamp = stamp
            try:
                policy = load_policy(self._path)
            except PolicyFileError as error:
                logger.error("the running policy stays: %s", error)
                continue
            if policy != self._policy:
                self._policy = policy
                self._news.append(policy)
                logger.info("%s: new policy %s", self._path, policy.length.policy)
