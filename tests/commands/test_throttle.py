"""`flyball throttle`: what can be set, and commands that run under settings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import DRIVER_NOT_LOADED, NO_PERMISSION, State

from flyball.commands.throttle_trials import Run, best_of

Flyball = Callable[..., Any]

REMEMBERS = "import os, sys; open(sys.argv[1], 'w').write(os.environ['OMP_NUM_THREADS'])"


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests may govern the same fake GPU at the same time."""
    monkeypatch.setenv("FLYBALL_LOCK_DIR", str(tmp_path))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\nthrottle: {policy: sweep}\n")
    return path


def test_it_shows_knobs_readings_and_meter_and_sets_nothing(
    flyball: Flyball, gpu_state: State
) -> None:
    done = flyball("throttle", "--actuator", "nvml")
    assert (done.code, done.err) == (0, "")
    for words in ("nvml GPU-fake-0", "510, 1005, 1500, 1965, 1980", "power_w: 350.5"):
        assert words in done.out
    assert "meter: joules by NVML" in done.out
    assert gpu_state.num_sets == 0


def test_json_holds_the_same(flyball: Flyball, gpu_state: State) -> None:
    found = json.loads(flyball("throttle", "--actuator", "nvml", "--json").out)
    assert found["dry_run"] is True
    assert [knob["name"] for knob in found["knobs"]] == [
        "graphics_clock_mhz",
        "memory_clock_mhz",
        "power_limit_w",
    ]
    assert found["readings"]["power_limit_w"] == 600.0
    assert found["start"]["power_limit_w"] == 600.0


def test_a_dry_run_says_where_the_policy_and_the_command_begin(
    flyball: Flyball, gpu_state: State, policy: Path
) -> None:
    options = ("--actuator", "nvml", "--policy", policy, "--set", "graphics_clock_mhz=1500")
    done = flyball("throttle", *options, "--", "false")
    assert done.code == 0
    assert "the policy begins with: graphics_clock_mhz=1980" in done.out
    assert "with --apply, false starts with: graphics_clock_mhz=1500" in done.out
    assert gpu_state.num_sets == 0


def test_a_command_runs_under_a_setting_which_is_put_back(
    flyball: Flyball, gpu_state: State, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    options = ("--actuator", "nvml", "--set", "power_limit_w=200", "--apply", "--")
    done = flyball("throttle", *options, "cp", os.environ["FAKE_NVML_STATE"], seen)
    assert (done.code, done.err) == (0, "")
    assert State.from_buffer_copy(seen.read_bytes()).power_limit == 200_000
    assert gpu_state.power_limit == 600_000
    assert "least: graphics_clock_mhz=1980 memory_clock_mhz=2619 power_limit_w=200" in done.out


def test_a_policy_tunes_the_runs_of_a_command(
    flyball: Flyball, gpu_state: State, policy: Path
) -> None:
    options = ("--actuator", "nvml", "--policy", policy, "--apply", "--runs", 4, "--json")
    done = flyball("throttle", *options, "--", "true")
    limits = [run["setting"]["power_limit_w"] for run in json.loads(done.out)["runs"]]
    assert limits[0] == 600.0
    assert len(set(limits)) > 1
    assert gpu_state.power_limit == 600_000


def test_threads_reach_the_command(flyball: Flyball, tmp_path: Path) -> None:
    options = ("--set", "num_threads=1", "--apply", "--")
    done = flyball("throttle", *options, sys.executable, "-c", REMEMBERS, tmp_path / "seen")
    assert done.code == 0
    assert (tmp_path / "seen").read_text() == "1"
    assert "CPU seconds, for want of a meter" in done.out


def test_runs_over_the_limit_are_marked(flyball: Flyball) -> None:
    done = flyball("throttle", "--apply", "--slo-s", 0.0, "--", "true")
    assert "(over the limit)" in done.out
    assert "no run kept the limits" in done.out


def test_a_killed_command_line_leaves_nothing_behind(gpu_state: State) -> None:
    path = os.pathsep.join(filter(None, sys.path))
    options = ["--actuator", "nvml", "--set", "power_limit_w=200", "--apply", "--"]
    code = "from flyball.commands.main import main; main()"
    waits = "import sys; print('runs', file=sys.stderr, flush=True); sys.stdin.read()"
    governor = subprocess.Popen(
        [sys.executable, "-c", code, "throttle", *options, sys.executable, "-c", waits],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert governor.stderr is not None
    assert governor.stderr.readline() == "runs\n"
    assert gpu_state.power_limit == 200_000
    governor.send_signal(signal.SIGTERM)
    # Its standard error ends when the watchdog has, who inherited it, and so has the command.
    governor.communicate(timeout=60)
    assert governor.returncode == -signal.SIGTERM
    assert gpu_state.power_limit == 600_000


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--set", "fan=3"], "--set fan=3: expected a knob of num_threads, num_cpus"),
        (["--set", "num_cpus=0.5"], "--set num_cpus=0.5: expected for num_cpus one of 1"),
        (["--apply", "--", "false"], "false: expected a command that succeeds"),
        (["--apply", "--", "no-such-command"], "no-such-command: No such file or directory"),
        (["--policy", "none.yaml"], "none.yaml: cannot read the policy file"),
    ],
)
def test_mistakes_are_one_line(flyball: Flyball, arguments: list[str], complaint: str) -> None:
    done = flyball("throttle", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("flyball: ")
    assert complaint in done.err
    assert done.err.count("\n") == 1


def test_a_policy_file_without_a_throttle_section_is_refused(
    flyball: Flyball, tmp_path: Path
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\n")
    done = flyball("throttle", "--policy", path)
    assert done.code == 2
    assert "expected a section throttle" in done.err


def test_no_driver_and_no_permission_are_one_line(flyball: Flyball, gpu_state: State) -> None:
    options = ("throttle", "--actuator", "nvml", "--set", "power_limit_w=200", "--apply", "--")
    gpu_state.set_error = NO_PERMISSION
    done = flyball(*options, "true")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "CAP_SYS_ADMIN" in done.err
    gpu_state.init_error = DRIVER_NOT_LOADED
    done = flyball(*options, "true")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "no NVIDIA driver is here" in done.err


@pytest.mark.parametrize("device", ["A100", "H100", "Orin", "TX2"])
def test_a_policy_saves_energy_on_a_simulated_device(
    flyball: Flyball, policy: Path, device: str
) -> None:
    options = ("--actuator", "simulated", "--device", device, "--policy", policy)
    done = flyball("throttle", *options, "--runs", 25, "--json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert len(found["runs"]) == 25
    assert found["best"]["energy_j"] < 0.95 * found["runs"][0]["energy_j"]


def test_a_simulated_device_repeats_itself_by_seed(flyball: Flyball) -> None:
    options = ("throttle", "--actuator", "simulated", "--seed", 3, "--runs", 2)
    assert flyball(*options).out == flyball(*options).out


def test_an_unknown_device_is_refused_with_those_that_are_known(flyball: Flyball) -> None:
    done = flyball("throttle", "--actuator", "simulated", "--device", "B200")
    assert done.code == 2
    assert done.err == "flyball: --device B200: expected one of A100, H100, Orin, TX2\n"


def test_a_policy_that_cannot_use_the_knobs_is_refused(flyball: Flyball, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\nthrottle: {policy: lowest_feasible, knob: fan}\n")
    done = flyball("throttle", "--policy", path)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "fan" in done.err


def test_runs_whose_energy_is_unknown_are_never_the_best() -> None:
    runs = [Run({}, 1.0, float("nan"), True), Run({}, 1.0, 2.0, True), Run({}, 1.0, 1.0, False)]
    assert best_of(runs) is runs[1]
    assert best_of(runs[:1]) is None
