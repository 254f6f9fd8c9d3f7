"""What a trace holds, in a few numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flyball.controller.trace_format import SCHEMA, codes, first_of_steps, read_trace, segments

_COLUMNS = [name for name in SCHEMA.names if name not in ("confidence", "propensity")]


def summarise(directory: str | Path) -> dict[str, Any]:
    """Counts, names and means of a trace, ready for JSON.

    `acceptance[j]` is the share of the rounds that observed position j + 1 in which it was
    accepted; `observed_rounds[j]` is their number. Steps and requests are counted by run, for
    every run numbers them from its start. Means are None where there is nothing to average.

    Raises:
        TraceError: the folder is no trace.
    """
    files = segments(directory)
    table = read_trace(directory, _COLUMNS)
    column = {
        name: table[name].to_numpy()
        for name in SCHEMA.names
        if name in _COLUMNS and not pa.types.is_dictionary(SCHEMA.field(name).type)
    }
    run = codes(table["run"])
    steps = first_of_steps(run, column["step"], column["step_s"])
    accepted, observed = column["accepted"], column["observed"]
    step_s = column["step_s"][steps]
    size = column["batch_size"][steps]
    seen = _rows_beyond(observed)
    hit = _rows_beyond(np.minimum(accepted, observed))
    return {
        "segments": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "rows": len(table),
        "requests": len(np.unique(np.stack([run, column["request"]]), axis=1).T),
        "steps": len(steps),
        "start_s": _or_none(np.nanmin, column["time_s"]),
        "end_s": _or_none(np.nanmax, column["time_s"]),
        **{f"{name}s": _used(table[name]) for name in ("engine", "draft")},
        "policies": _used(table["policy"]),
        "planned_tokens": int(column["planned"].sum()),
        "proposed_tokens": int(column["proposed"].sum()),
        "accepted_tokens": int(accepted.sum()),
        "acceptance": [float(h / s) for h, s in zip(_pad(hit, len(seen)), seen, strict=True)],
        "observed_rounds": seen.tolist(),
        "mean_accepted": _or_none(np.mean, accepted),
        "mean_step_s": _or_none(np.nanmean, step_s),
        "batch_size": {
            "min": _or_none(np.min, size),
            "mean": _or_none(np.mean, size),
            "max": _or_none(np.max, size),
        },
    }


def _used(names: pa.ChunkedArray) -> list[str]:
    return sorted(name for name in names.unique().to_pylist() if name is not None)


def _rows_beyond(count: NDArray[np.int32]) -> NDArray[np.int64]:
    """For each j from 0 below the largest count, the number of rows whose count exceeds j."""
    return np.bincount(count)[::-1].cumsum()[::-1][1:]


def _pad(values: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    return np.concatenate([values, np.zeros(length - len(values), np.int64)])


def _or_none(mean: Any, values: NDArray[Any]) -> float | None:
    """A statistic of the values that are numbers, None where there is none."""
    known = values[~np.isnan(values)]
    return float(mean(known)) if len(known) else None
