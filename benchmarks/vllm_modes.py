"""One engine for all that is compared: what decides its draft lengths changes from outside.

Two engines of the same model differ in speed by some percent for as long as they live, by where
their memory came to lie. So constant lengths, vLLM's own table and the governor take turns in one
engine. As long as a table is in force the governor is out of the way (4 us a step), and vLLM looks
lengths up as ever.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup

from benchmarks.vllm_variants import MAX_DRAFT_LEN, MODE_VARIABLE, constant
from flyball.integrations.vllm import GovernedScheduler


class _Switched:
    """Mixed into a governed scheduler: looks at the file, in steps that find nothing running."""

    pilot: Any

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Schedule as ever."""
        if not self.running:
            self._refresh()
        return super().schedule(*args, **kwargs)

    def _refresh(self) -> None:
        file = Path(os.environ[MODE_VARIABLE])
        changed_ns = file.stat().st_mtime_ns
        if changed_ns == self._changed_ns:
            return
        self._changed_ns = changed_ns
        table = json.loads(file.read_text(encoding="utf-8"))
        self.pilot.governing = table is None
        table = table or [list(entry) for entry in constant(MAX_DRAFT_LEN)]
        self.dynamic_sd_lookup = build_dynamic_sd_schedule_lookup(
            table, self.max_num_running_reqs, self.num_spec_tokens
        )


class SwitchedScheduler:
    """The value of `--scheduler-cls`."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A governed scheduler that may be told to use a table instead."""
        scheduler = GovernedScheduler(*args, **kwargs)
        scheduler.__class__ = type("Switched", (_Switched, type(scheduler)), {})
        scheduler._changed_ns = 0
        return scheduler
