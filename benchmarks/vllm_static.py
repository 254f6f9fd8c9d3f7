"""vLLM's own table of draft lengths by batch size, changed from outside while nothing runs.

One server thus stands for every constant length and every table, and they can take turns. The
lookup is the one that vLLM builds from `num_speculative_tokens_per_batch_size`, and only its
content changes, so a step costs what it costs without this class.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup

from benchmarks.vllm_variants import TABLE_VARIABLE


class StaticScheduler(Scheduler):
    """Reads the table again when its file changed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table_file = Path(os.environ[TABLE_VARIABLE])
        self._table_time_ns = 0

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Schedule as ever; only a step that finds nothing running looks at the file."""
        if not self.running:
            self._refresh()
        return super().schedule(*args, **kwargs)

    def _refresh(self) -> None:
        changed_ns = self._table_file.stat().st_mtime_ns
        if changed_ns != self._table_time_ns:
            self._table_time_ns = changed_ns
            self.dynamic_sd_lookup = build_dynamic_sd_schedule_lookup(
                json.loads(self._table_file.read_text(encoding="utf-8")),
                self.max_num_running_reqs,
                self.num_spec_tokens,
            )
