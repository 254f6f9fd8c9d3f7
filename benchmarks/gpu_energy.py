"""Measures joules a token on a GPU, as a function of draft length and batch size.

python -m benchmarks.gpu_energy [--quick] [--seed-base N] [--json FILE]

The demo's models in transformers on a GPU, greedy, at constant draft lengths and batch sizes. All
settings take turns, in an order shuffled anew for every repetition, with the same prompts for all
lengths of a batch: a queue of four a row, so that the batch stays full but for the end. Each runs
for some seconds, since NVML's energy counter may be updated ten times a second only. Length 0 is
the same loop without a draft model. The GPU must do nothing else meanwhile.

NVML is read and nothing else: clocks and limits stay as they are, and no right is needed.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks import report
from flyball.controller.errors import HardwareError, NotSupportedError
from flyball.controller.hardware import Meter
from flyball.integrations.hardware.nvml_library import Gpu
from flyball.integrations.hardware.nvml_meter import nvml_meter

LENGTHS = (0, 1, 2, 4, 8)
BATCHES = (1, 4, 16, 64)
PACKAGES = (*report.PACKAGES, "nvidia-ml-py")
COLUMNS = (
    "batch", "draft_len", "j_per_token", "to_length_0", "tokens_per_s", "speed_to_length_0",
    "watts", "graphics_mhz", "memory_mhz", "acceptance",
)  # fmt: skip
_WAVES = 4  # prompts for each row of a batch
_READINGS = {
    "graphics_mhz": ("nvmlDeviceGetClockInfo", "NVML_CLOCK_GRAPHICS"),
    "memory_mhz": ("nvmlDeviceGetClockInfo", "NVML_CLOCK_MEM"),
    "temperature_c": ("nvmlDeviceGetTemperature", "NVML_TEMPERATURE_GPU"),
}


@dataclass(frozen=True)
class Done:
    """What a call generated, and what of it was drafted and accepted."""

    num_tokens: int
    num_drafted: int
    num_accepted: int


Decode = Callable[[Sequence[int], int], Done]  # numbers of prompts, and how many at a time


def main() -> int:
    """Measure, print, write.

    Returns:
        Exit status: 2 where no GPU shows its energy.
    """
    parser = report.argument_parser("gpu_energy", __doc__, "a minute; says little")
    report.add_seed_base(parser, "prompts and orders")
    arguments = parser.parse_args()
    num_repetitions, window_s, new_tokens = (2, 1.0, 32) if arguments.quick else (7, 4.0, 128)
    try:
        gpu, meter = open_gpu()
    except HardwareError as error:
        print(f"gpu_energy: {error}", file=sys.stderr)
        return 2
    decoders, num_prompts = make_decoders("cuda", new_tokens)
    rows = measure(
        decoders, gpu, meter, num_prompts, num_repetitions, window_s, arguments.seed_base
    )
    table = medians(rows)
    report.print_table(f"{gpu.name}, {meter.kind}", table, COLUMNS)
    summary = {"gpu": gpu.name, "meter": meter.kind, "settings": table, **least(table)}
    report.print_summary({name: summary[name] for name in summary if name != "settings"})
    known = [{name: _known(value) for name, value in row.items()} for row in rows]
    report.write("gpu_energy", vars(arguments), known, summary, arguments.json, PACKAGES)
    return 0


def open_gpu() -> tuple[Gpu, Meter]:
    """The GPU that torch uses, and its meter.

    Raises:
        HardwareError: there is none, or it shows no energy; in one line.
    """
    import torch

    if not torch.cuda.is_available():
        raise HardwareError("expected an NVIDIA GPU that torch can use, but there is none here")
    # NVML counts all GPUs of the machine, torch those that it may use.
    gpu = Gpu(torch.cuda._get_nvml_device_index(0))
    meter = nvml_meter(gpu)
    if math.isnan(meter.energy_j()):
        raise HardwareError(f"{gpu.name}: expected energy or power by NVML, but it shows none")
    return gpu, meter


def make_decoders(device: str, new_tokens: int) -> tuple[dict[int, Decode], int]:
    """What decodes prompts of the demo, by draft length, and how many prompts there are.

    Args:
        device: for torch.
        new_tokens: of each text.
    """
    import torch
    from transformers.utils import logging

    from flyball.controller.policy_file import static_policy
    from flyball.demo.loader import load_demo
    from flyball.integrations.hf import govern

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    models = load_demo()
    target, draft = models.target.to(device), models.draft.to(device)
    texts = [text for domain in models.prompts.values() for text in domain]
    prompts = models.tokenizer(texts)["input_ids"]

    def decoder(length: int) -> Decode:
        gov = govern(target, [draft] if length else [], policy=static_policy(length))

        def decode(numbers: Sequence[int], batch_size: int) -> Done:
            rows, before = [prompts[k] for k in numbers], gov.stats
            gov.generate_many(
                rows, batch_size=batch_size, max_new_tokens=new_tokens, do_sample=False
            )
            if device == "cuda":
                torch.cuda.synchronize()
            names = ("num_tokens", "num_drafted", "num_accepted")
            return Done(*(getattr(gov.stats, name) - getattr(before, name) for name in names))

        return decode

    return {length: decoder(length) for length in LENGTHS}, len(texts)


def measure(
    decoders: dict[int, Decode],
    gpu: Gpu,
    meter: Meter,
    num_prompts: int,
    num_repetitions: int,
    window_s: float,
    seed: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    """A row for every setting and repetition.

    Args:
        decoders: by draft length.
        gpu: that decodes.
        meter: of its energy.
        num_prompts: to choose from.
        num_repetitions: of all settings.
        window_s: seconds that a setting runs for, at least.
        seed: chooses prompts and orders.
        clock: seconds.
    """
    rng = np.random.default_rng(seed)
    settings = [(batch, length) for batch in BATCHES for length in decoders]
    rows: list[dict[str, Any]] = []
    with report.progress() as bar:
        task = bar.add_task("", total=len(settings) * (1 + num_repetitions))
        for repetition in range(-1, num_repetitions):  # the first warms up
            prompts = {b: rng.integers(0, num_prompts, _WAVES * b).tolist() for b in BATCHES}
            for number in rng.permutation(len(settings)).tolist():
                batch, length = settings[number]
                bar.update(task, description=f"batch {batch}, draft length {length}")
                least_s = 0.0 if repetition < 0 else window_s
                decode = partial(decoders[length], prompts[batch], batch)
                row = _window(decode, gpu, meter, least_s, clock)
                if repetition >= 0:
                    frame = {"repetition": repetition, "batch": batch, "draft_len": length}
                    rows.append({**frame, **row})
                bar.advance(task)
    return rows


def _window(
    decode: Callable[[], Done],
    gpu: Gpu,
    meter: Meter,
    least_s: float,
    clock: Callable[[], float],
) -> dict[str, float]:
    """What decoding the same prompts again and again took, and what the GPU showed meanwhile."""
    done: list[Done] = []
    readings: list[dict[str, float]] = []
    began_j, began_s = meter.energy_j(), clock()
    while not done or clock() - began_s < least_s:
        done.append(decode())
        readings.append(read_gpu(gpu))
    energy_j, seconds = meter.energy_j() - began_j, clock() - began_s
    num_tokens = sum(one.num_tokens for one in done)
    num_drafted = sum(one.num_drafted for one in done)
    num_accepted = sum(one.num_accepted for one in done)
    return {
        "tokens": num_tokens,
        "seconds": seconds,
        "energy_j": energy_j,
        "j_per_token": energy_j / num_tokens,
        "tokens_per_s": num_tokens / seconds,
        "watts": energy_j / seconds,
        "acceptance": num_accepted / num_drafted if num_drafted else math.nan,
        **{name: float(np.median([shown[name] for shown in readings])) for name in _READINGS},
    }


def read_gpu(gpu: Gpu) -> dict[str, float]:
    """Clocks and temperature at this moment; NaN where the GPU does not show them."""
    shown = {}
    for name, (function, which) in _READINGS.items():
        try:
            shown[name] = float(gpu.call(function, getattr(gpu.nvml, which)))
        except NotSupportedError:
            shown[name] = math.nan
    return shown


def medians(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every setting: medians over repetitions; ratios are medians of each repetition's own.

    A window whose energy broke off is left out of energies alone.
    """
    table = []
    plain = {(r["repetition"], r["batch"]): r for r in rows if r["draft_len"] == 0}
    for batch, length in sorted({(row["batch"], row["draft_len"]) for row in rows}):
        own = [r for r in rows if (r["batch"], r["draft_len"]) == (batch, length)]
        base = [plain[row["repetition"], batch] for row in own]
        table.append(
            {
                "batch": batch,
                "draft_len": length,
                **{
                    name: _median([row[name] for row in own])
                    for name in own[0]
                    if name not in ("repetition", "batch", "draft_len")
                },
                "to_length_0": _ratio("j_per_token", own, base),
                "speed_to_length_0": _ratio("tokens_per_s", own, base),
            }
        )
    return table


def _ratio(
    name: str, own: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]
) -> float | None:
    return _median([one[name] / other[name] for one, other in zip(own, base, strict=True)])


def _median(values: Sequence[float]) -> float | None:
    """Of those that are known; None where none is."""
    known = [value for value in values if math.isfinite(value)]
    return float(np.median(known)) if known else None


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def least(table: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For every batch, the lengths of least energy and of most speed, and what they bring."""
    found: dict[str, Any] = {}
    for batch in dict.fromkeys(row["batch"] for row in table):
        own = [row for row in table if row["batch"] == batch and row["j_per_token"] is not None]
        if own:
            saver = min(own, key=lambda row: row["j_per_token"])
            fastest = max(own, key=lambda row: row["tokens_per_s"])
            found[f"batch_{batch}"] = {
                "draft_len_of_least_energy": saver["draft_len"],
                "its_energy_to_length_0": saver["to_length_0"],
                "draft_len_of_most_speed": fastest["draft_len"],
                "its_speed_to_length_0": fastest["speed_to_length_0"],
                "its_energy_to_least": fastest["j_per_token"] / saver["j_per_token"],
            }
    return found


if __name__ == "__main__":
    sys.exit(main())
