"""The benchmark of joules a token, against a fake GPU and invented seconds."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from benchmarks import gpu_energy
from benchmarks.gpu_energy import BATCHES, LENGTHS, Done, least, make_decoders, measure, medians
from fake_nvml import DRIVER_NOT_LOADED, State

from flyball.integrations.hardware.nvml_library import Gpu
from flyball.integrations.hardware.nvml_meter import NvmlMeter

CALL_S = 0.5


class Bench:
    """A GPU whose joules and seconds a call are known.

    Attributes:
        calls: what was decoded: draft length, batch size and prompts.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self.now_s = 0.0
        self.calls: list[tuple[int, int, tuple[int, ...]]] = []
        self.decoders = {length: partial(self.decode, length) for length in LENGTHS}

    def decode(self, length: int, numbers: Sequence[int], batch: int) -> Done:
        self.calls.append((length, batch, tuple(numbers)))
        self.now_s += CALL_S
        # A batch shares 100 J, a drafted token adds 10 J, and half of the tokens are drafted.
        self.state.energy += 100_000 + 10_000 * length
        num_tokens = 10 * batch * (1 + (length > 0))
        return Done(num_tokens, length * num_tokens, num_tokens // 2 if length else 0)

    def run(self, repetitions: int = 3, window_s: float = 1.2) -> list[dict[str, Any]]:
        gpu = Gpu()
        meter = NvmlMeter(gpu)
        return measure(self.decoders, gpu, meter, 40, repetitions, window_s, 7, self.clock)

    def clock(self) -> float:
        return self.now_s


@pytest.fixture
def bench(gpu_state: State) -> Bench:
    return Bench(gpu_state)


def test_joules_seconds_and_clocks_are_those_of_each_window(bench: Bench) -> None:
    rows = bench.run()
    assert len(rows) == 3 * len(BATCHES) * len(LENGTHS)
    for row in rows:
        assert row["seconds"] == pytest.approx(3 * CALL_S)  # the first that reaches 1.2 s
        assert row["energy_j"] == pytest.approx(3 * (100 + 10 * row["draft_len"]))
        assert row["watts"] == pytest.approx(row["energy_j"] / row["seconds"])
        assert (row["graphics_mhz"], row["memory_mhz"]) == (1980, 2619)
        assert row["temperature_c"] == 51
    assert bench.state.num_sets == 0


def test_settings_take_turns_in_an_order_of_their_own_with_the_same_prompts(bench: Bench) -> None:
    bench.run(repetitions=2, window_s=0.0)
    size = len(BATCHES) * len(LENGTHS)
    passes = [bench.calls[first : first + size] for first in range(0, 3 * size, size)]
    orders = [[call[:2] for call in calls] for calls in passes]
    assert all(len(set(order)) == size for order in orders)
    assert len(set(map(tuple, orders))) == 3
    for calls in passes:
        for batch in BATCHES:
            (numbers,) = {call[2] for call in calls if call[1] == batch}
            assert len(numbers) == 4 * batch
            assert max(numbers) < 40


def test_medians_and_ratios_of_what_is_known(bench: Bench) -> None:
    table = medians(bench.run())
    assert [(row["batch"], row["draft_len"]) for row in table] == list(
        itertools.product(BATCHES, LENGTHS)
    )
    for row in table:
        length = row["draft_len"]
        each_j = (100 + 10 * length) / (10 * row["batch"] * (1 + (length > 0)))
        assert row["j_per_token"] == pytest.approx(each_j)
        assert row["to_length_0"] == pytest.approx(each_j * row["batch"] / 10)
        assert row["speed_to_length_0"] == pytest.approx(1 + (length > 0))
        assert row["acceptance"] == (pytest.approx(0.5 / length) if length else None)
    found = least(table)
    assert found["batch_16"]["draft_len_of_least_energy"] == 1
    assert found["batch_16"]["its_energy_to_length_0"] == pytest.approx(0.55)


def test_a_window_whose_energy_broke_off_is_left_out(bench: Bench) -> None:
    rows = bench.run()
    whole = [row["j_per_token"] for row in medians(rows)]
    for row in rows:
        if row["repetition"] == 0:
            row["energy_j"] = row["j_per_token"] = row["watts"] = math.nan
    assert [row["j_per_token"] for row in medians(rows)] == pytest.approx(whole)
    for row in rows:
        row["j_per_token"] = math.nan
    assert all(row["j_per_token"] is row["to_length_0"] is None for row in medians(rows))
    assert least(medians(rows)) == {}


def test_what_a_gpu_does_not_show_is_unknown_and_stops_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {"temperature_c": ("nvmlDeviceGetFanSpeed", "NVML_TEMPERATURE_GPU")}
    monkeypatch.setattr(gpu_energy, "_READINGS", shown)

    def not_supported(self: Gpu, function: str, *args: Any) -> Any:
        if function == "nvmlDeviceGetFanSpeed":
            raise gpu_energy.NotSupportedError("no fan")
        return call(self, function, *args)

    call = Gpu.call
    monkeypatch.setattr(Gpu, "call", not_supported)
    assert all(row["temperature_c"] is None for row in medians(bench.run(1)))


def test_the_demo_is_decoded_at_every_length_with_the_same_number_of_tokens() -> None:
    decoders, num_prompts = make_decoders("cpu", new_tokens=6)
    assert num_prompts > 40
    done = {length: decode([0, 1, 20, 40], 2) for length, decode in decoders.items()}
    assert {one.num_tokens for one in done.values()} == {24}
    assert done[0].num_drafted == 0
    assert done[4].num_drafted > done[4].num_accepted > 0


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu_energy", *map(str, arguments)])
    return gpu_energy.main()


def test_without_a_gpu_it_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run_main(monkeypatch, "--quick") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert (
        told.err
        == "gpu_energy: expected an NVIDIA GPU that torch can use, but there is none here\n"
    )


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ({"init_error": DRIVER_NOT_LOADED}, "no NVIDIA driver is here"),
        ({"energy_supported": 0, "power_supported": 0}, "expected energy or power by NVML"),
    ],
)
def test_a_gpu_without_driver_or_energy_is_one_line(
    gpu_state: State,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trouble: dict[str, int],
    words: str,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda._get_nvml_device_index", lambda device: 0)
    for name, value in trouble.items():
        setattr(gpu_state, name, value)
    assert run_main(monkeypatch, "--quick") == 2
    told = capsys.readouterr()
    assert words in told.err
    assert told.err.count("\n") == 1


def test_the_result_is_a_table_and_json_and_nothing_was_set(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    gpu = Gpu()
    monkeypatch.setattr(gpu_energy, "open_gpu", lambda: (gpu, NvmlMeter(gpu)))
    monkeypatch.setattr(gpu_energy, "make_decoders", lambda *args: (bench.decoders, 40))
    monkeypatch.setattr(gpu_energy, "measure", partial(_by, bench, measure))
    path = tmp_path / "result.json"
    assert run_main(monkeypatch, "--quick", "--json", path) == 0
    assert "joules by NVML" in capsys.readouterr().out
    result = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert len(result["rows"]) == 2 * len(BATCHES) * len(LENGTHS)
    assert result["summary"]["batch_1"]["draft_len_of_least_energy"] == 1
    assert bench.state.num_sets == 0


def _by(bench: Bench, measured: Callable[..., Any], *args: Any) -> Any:
    return measured(*args, clock=lambda: bench.now_s)
