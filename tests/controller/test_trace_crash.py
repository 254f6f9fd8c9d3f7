import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flyball.controller.trace import TraceRecorder, read_trace

COMMON = """
import sys, numpy as np
from flyball.controller import trace
from flyball.controller.trace import TraceRecorder, TraceRound
def make(step):
    one = np.ones(1, np.int32)
    return TraceRound(1.7e9, step, "static/1", 1, 0, np.zeros(1, np.int64), step * one,
                      one, 0 * one, one, one, one, one, np.ones((1, 1)), np.ones(1), 2, 1, 0.1)
"""


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMON + code, *arguments], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("num_written", [1, 40, 41, 97])
def test_a_killed_process_leaves_a_readable_trace(tmp_path: Path, num_written: int) -> None:
    code = """
recorder = TraceRecorder(sys.argv[1], "engine", ("draft",), segment_rows=1, max_pending=4)
step, told = 0, False
while True:
    before = recorder.dropped
    recorder.add(make(step))
    step += recorder.dropped == before
    if recorder.written >= int(sys.argv[2]) and not told:
        told = print("written", flush=True) is None
"""
    process = child(code, str(tmp_path), str(num_written))
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    steps = read_trace(tmp_path)["step"].to_pylist()
    assert len(steps) >= num_written
    assert steps == list(range(len(steps)))
    TraceRecorder(tmp_path, "engine", ("draft",)).close()
    assert not list(tmp_path.glob(".*"))


def test_a_process_that_ends_without_close_loses_nothing(tmp_path: Path) -> None:
    code = """
recorder = TraceRecorder(sys.argv[1], "engine", ("draft",))
for step in range(7):
    recorder.add(make(step))
"""
    process = child(code, str(tmp_path))
    process.communicate()
    assert process.returncode == 0
    assert len(read_trace(tmp_path)) == 7


def test_a_full_disk_costs_nothing_once_there_is_room_again(tmp_path: Path) -> None:
    code = """
import resource, threading
trace.FIRST_RETRY_S = 1e-3
full = threading.Event()
complain = TraceRecorder._complain
def noticed(self, reason):
    complain(self, reason)
    print(reason)
    full.set()
TraceRecorder._complain = noticed
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
recorder = TraceRecorder(sys.argv[1], "engine", ("draft",), segment_rows=2)
for step in range(2):
    recorder.add(make(step))
assert full.wait(60)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
for step in range(2, 6):
    recorder.add(make(step))
recorder.close()
assert (recorder.written, recorder.dropped) == (6, 0)
"""
    process = child(code, str(tmp_path))
    output, _ = process.communicate()
    assert process.returncode == 0
    assert "File too large" in output
    assert read_trace(tmp_path)["step"].to_pylist() == list(range(6))
    assert not list(tmp_path.glob(".*"))
