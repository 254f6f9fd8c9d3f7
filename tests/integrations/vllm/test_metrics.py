"""Metrics cross from one process to another as they do between engine core and API server."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from flyball.controller.metrics import Status
from flyball.integrations.vllm import metrics as publishing
from flyball.integrations.vllm.metrics import MULTIPROC_DIR, Publisher
from flyball.integrations.vllm.metrics_files import METRICS_DIR, FileCollector

SOURCE = Path(__file__).parents[3] / "src"
ENGINE = """
import sys
import prometheus_client  # as vLLM does, before it sets the variable for several API servers
{before}
from flyball.controller.metrics import Status
from flyball.integrations.vllm.metrics import Publisher

engine, num_rounds = sys.argv[1], int(sys.argv[2])
publisher = Publisher(engine)
publisher.publish(Status("governing", "goodput/1", 2.5, 70.0, num_rounds, 8, 6, 4, 0.01, {{}}))
publisher.close()
print("published", flush=True)
sys.stdin.read()
"""


def status(num_rounds: int) -> Status:
    return Status("governing", "goodput/1", 2.5, 70.0, num_rounds, 8, 6, 4, 0.01, {"stop": 1})


@contextmanager
def running_engine(
    engine: str, num_rounds: int, env: dict[str, str], before: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """A process that has published and lives on, as an idle engine core does."""
    code = ENGINE.format(before=before)
    with subprocess.Popen(
        [sys.executable, "-c", code, engine, str(num_rounds)],
        env={**os.environ, "PYTHONPATH": str(SOURCE), **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "published\n"
        yield process


def file_registry(directory: Path) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(FileCollector(directory))
    return registry


def rounds(registry: CollectorRegistry, engine: str) -> float | None:
    return registry.get_sample_value("flyball_rounds_total", {"engine": engine})


def test_engines_in_other_processes_show_while_they_live(tmp_path: Path) -> None:
    registry = file_registry(tmp_path)
    env = {METRICS_DIR: str(tmp_path)}
    with running_engine("0", 11, env), running_engine("1", 22, env):
        assert (rounds(registry, "0"), rounds(registry, "1")) == (11, 22)
        text = generate_latest(registry).decode()
        assert text.count("# TYPE flyball_rounds_total counter") == 1
        assert "_created" not in text
    assert (rounds(registry, "0"), rounds(registry, "1")) == (None, None)


def test_a_restarted_engine_clears_away_its_dead_predecessor(tmp_path: Path) -> None:
    env = {METRICS_DIR: str(tmp_path)}
    with running_engine("0", 1, env), running_engine("1", 2, env):
        pass
    with running_engine("0", 3, env):
        assert len(list(tmp_path.glob("engine-0-*.prom"))) == 1
        assert len(list(tmp_path.glob("engine-1-*.prom"))) == 1  # another engine's affair
        assert rounds(file_registry(tmp_path), "0") == 3


def test_of_two_files_of_an_engine_the_newer_one_holds(tmp_path: Path) -> None:
    with running_engine("0", 5, {METRICS_DIR: str(tmp_path)}):
        (written,) = tmp_path.iterdir()
        # The id of a dead engine's process now belongs to this live one.
        old = tmp_path / f"engine-0-{os.getpid()}.prom"
        old.write_text(written.read_text().replace("5.0", "999.0"))
        os.utime(old, (1.0, 1.0))
        registry = file_registry(tmp_path)
        assert rounds(registry, "0") == 5
        lines = generate_latest(registry).decode().splitlines()
        assert sum(line.startswith("flyball_rounds_total{") for line in lines) == 1


@pytest.mark.parametrize(
    "before",
    ["", "import os; os.environ['PROMETHEUS_MULTIPROC_DIR'] = os.environ.pop('LATER')"],
    ids=["spawned", "forked"],
)
def test_with_several_api_servers_prometheus_own_files_are_used(
    tmp_path: Path, before: str
) -> None:
    variable = "LATER" if before else MULTIPROC_DIR
    files = tmp_path / "files"
    files.mkdir()
    shared = tmp_path / "shared"
    shared.mkdir()
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(shared))
    env = {variable: str(shared), METRICS_DIR: str(files)}
    with running_engine("0", 11, env, before), running_engine("1", 22, env, before):
        assert (rounds(registry, "0"), rounds(registry, "1")) == (11, 22)
        # No label `pid`: every API server shows one series an engine.
        assert registry.get_sample_value("flyball_draft_len", {"engine": "1"}) == 2.5
        labels = {"engine": "0", "mode": "governing"}
        assert registry.get_sample_value("flyball_mode", labels) == 1
    assert list(files.iterdir()) == []


def test_at_most_one_write_an_interval_and_the_last_status_is_never_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(METRICS_DIR, str(tmp_path))
    monkeypatch.delenv(MULTIPROC_DIR, raising=False)
    wrote = threading.Event()
    write: Callable[..., None] = publishing.write_to_textfile
    num_writes = 0

    def counting(*arguments: Any) -> None:
        nonlocal num_writes
        num_writes += 1
        write(*arguments)
        wrote.set()

    monkeypatch.setattr(publishing, "write_to_textfile", counting)
    publisher = Publisher("0", interval_s=3600.0)
    assert publisher.wanted
    publisher.publish(status(1))
    assert wrote.wait(timeout=60.0)
    assert not publisher.wanted
    assert rounds(file_registry(tmp_path), "0") == 1
    for num_rounds in range(2, 1000):
        publisher.publish(status(num_rounds))
    publisher.close()
    assert num_writes == 2
    assert rounds(file_registry(tmp_path), "0") == 999


@pytest.mark.parametrize("variable", [METRICS_DIR, MULTIPROC_DIR, None])
def test_a_folder_that_cannot_be_written_costs_the_metrics_alone(
    variable: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in (METRICS_DIR, MULTIPROC_DIR):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(publishing.values, "ValueClass", publishing.values.ValueClass)
    if variable is not None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv(variable, str(tmp_path / "file" / "folder"))
    publisher = Publisher("0", interval_s=0.0)
    for num_rounds in range(1000):
        publisher.publish(status(num_rounds))
    publisher.close()
    (record,) = caplog.records
    assert "no flyball metrics of engine 0" in record.getMessage()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"flyball_rounds_total{engine=", b"a b c d\n"])
def test_a_broken_file_costs_its_own_engine_alone(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / f"engine-0-{os.getpid()}.prom").write_bytes(content)
    (tmp_path / "engine-0-none.prom").write_bytes(content)
    with running_engine("1", 4, {METRICS_DIR: str(tmp_path)}):
        registry = file_registry(tmp_path)
        assert [rounds(registry, "1"), rounds(registry, "1")] == [4, 4]
    assert len(caplog.records) == 1


def test_a_folder_that_is_gone_shows_nothing(tmp_path: Path) -> None:
    assert list(FileCollector(tmp_path / "gone").collect()) == []
