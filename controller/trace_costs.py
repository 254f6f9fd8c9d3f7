"""The cost table of an ordinary trace: what its own steps took."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.optimize import least_squares

from flyball.controller.cost_table import CostTable
from flyball.controller.errors import TraceError
from flyball.controller.trace_format import codes, first_of_steps
from flyball.estimators.cost import size_bucket

Floats = NDArray[np.float64]

_LEAST_STEPS = 8  # of a batch size
_WIDTHS = (1, 2, 3, 5, 9, 17, 33)
_PARTS = ("batch_size", "verify_len", "num_draft_steps", "num_prefill", "step_s")


def costs_of_trace(table: pa.Table) -> CostTable:
    """Fit verification, draft steps and prompts to the steps of a trace.

    For every batch size, rounded to a power of two, a line in verified tokens, draft steps and
    tokens of prompts, by least absolute residuals in the large: an interrupted step moves its
    shape little. Where the host measured draft and verification apart, each is fitted to its own.
    Interrupted steps count for the level, which is that of their sum: they take their time of
    whatever is predicted, too.

    Raises:
        TraceError: too few steps were measured, or too few different ones to tell what each part
            costs.
    """
    first = first_of_steps(
        codes(table["run"]), table["step"].to_numpy(), table["step_s"].to_numpy()
    )
    column = {name: table[name].to_numpy()[first].astype(np.float64) for name in _PARTS}
    for name in ("draft_s", "verify_s"):
        column[name] = table[name].to_numpy(zero_copy_only=False)[first].astype(np.float64)
    good = np.isfinite(column["step_s"])
    column = {name: values[good] for name, values in column.items()}
    bucket = np.array([size_bucket(int(size)) for size in column["batch_size"]], np.int64)
    sizes, rows = [], []
    for size in np.unique(bucket).tolist():
        mine = {name: values[bucket == size] for name, values in column.items()}
        found = _fit(mine) if len(mine["step_s"]) >= _LEAST_STEPS else None
        if found is not None:
            sizes.append(2**size)
            rows.append(_at_level(found, mine))
    if not sizes:
        raise TraceError(
            f"expected steps of different draft lengths, {_LEAST_STEPS} or more at a batch size, "
            f"to tell what drafting and verifying cost, but the {len(column['step_s'])} measured "
            "ones do not; pass --costs"
        )
    parts = np.array(rows)
    widths = np.array(_WIDTHS)
    verify_s = parts[:, :1] + parts[:, 1:2] * (widths - 1)
    draft = next((name for name in table["draft"].unique().to_pylist() if name), "")
    return CostTable(
        version=1,
        target="",
        draft=draft,
        machine="the one that the trace was recorded on",
        source="steps of the trace",
        batch_sizes=sizes,
        verify_lens=list(_WIDTHS),
        verify_s=verify_s.tolist(),
        draft_step_s=parts[:, 2].tolist(),
        host_s=parts[:, 4].tolist(),
        prompt_token_s=float(np.median(parts[:, 3])),
    )


def _fit(column: dict[str, Floats]) -> list[float] | None:
    """Seconds of a step over one token, of a further one, a draft step, a prompt's; the rest.

    None where these steps do not tell.
    """
    further, steps = column["verify_len"] - 1.0, column["num_draft_steps"]
    ones, prefill = np.ones(len(steps)), column["num_prefill"]
    if np.isfinite(column["verify_s"]).all() and np.isfinite(column["draft_s"]).all():
        line = _line([ones, further], column["verify_s"])
        drafted = steps > 0
        if line is None or not drafted.any():
            return None
        step_s = float(np.median(column["draft_s"][drafted] / steps[drafted]))
        rest = column["step_s"] - column["verify_s"] - column["draft_s"]
        return [*line, step_s, 0.0, max(0.0, float(np.median(rest)))]
    # Where all that is drafted is verified, the two need not be told apart.
    parts = {0: ones, 2: steps}
    if not np.array_equal(further, steps):
        parts[1] = further
    if prefill.any():
        parts[3] = prefill
    line = _line(list(parts.values()), column["step_s"])
    if line is None:
        return None
    found = [0.0] * 5
    for place, value in zip(parts, line, strict=True):
        found[place] = value
    return found


def _at_level(found: list[float], column: dict[str, Floats]) -> list[float]:
    """The same shape, with as many seconds in all as the steps took."""
    first, further, step_s, prompt_s, rest = found
    expected = (
        first
        + further * (column["verify_len"] - 1.0)
        + step_s * column["num_draft_steps"]
        + prompt_s * column["num_prefill"]
        + rest
    )
    level = float(column["step_s"].sum() / expected.sum())
    return [level * part for part in found]


def _line(columns: list[Floats], seconds: Floats) -> list[float] | None:
    """Coefficients, none negative and the first above 0; None where columns go together."""
    design = np.column_stack(columns)
    scaled = design / np.maximum(np.abs(design).max(axis=0), 1e-300)
    if np.linalg.matrix_rank(scaled, tol=1e-3 * np.sqrt(len(scaled))) < design.shape[1]:
        return None
    scale = float(np.median(seconds))
    found = least_squares(
        lambda x: (design @ x - seconds) / scale,
        np.maximum(np.linalg.lstsq(design, seconds, rcond=None)[0], 1e-9),
        bounds=(1e-12, np.inf),
        loss="soft_l1",
        f_scale=0.05,
        x_scale=scale / np.maximum(np.abs(design).max(axis=0), 1e-300),
    )
    result: list[float] = found.x.tolist()
    return result
