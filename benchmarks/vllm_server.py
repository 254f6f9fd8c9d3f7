"""vLLM servers for `benchmarks.vllm_serving`: started together, pinned, asked over HTTP, stopped.

An engine (scheduler and worker, which take turns) has one core to itself; the API servers and the
clients share the others, so that no variant gains from a client that happens to be elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.vllm_load import Job, Phase
from benchmarks.vllm_summary import read_metrics

ROOT = Path(__file__).parents[1]
MAX_NUM_SEQS = 32
MAX_MODEL_LEN = 1024
START_S = 300
STOP_S = 20
ENGINE_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
    # The n-gram drafter sets torch's threads to numba's, which would wait busily.
    "NUMBA_NUM_THREADS": "1",
}
FLAGS = (
    "--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager",
    "--max-num-seqs", str(MAX_NUM_SEQS), "--max-model-len", str(MAX_MODEL_LEN),
    # Variants get the same prompts, so the second to come would find the first one's prefixes.
    "--no-enable-prefix-caching",
    "--disable-uvicorn-access-log",
    # Scheduler and worker in one process: as two they would wait busily for each other, and a
    # server that was asked last would go on waiting so for a second, on the core of them all.
    "--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor",
)  # fmt: skip


def stay_on_one_core() -> None:
    """Keep this process and an engine in it, whose settings these are, to the lowest core."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, [core])
    os.environ.update(
        ENGINE_ENVIRONMENT,
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_LOGGING_LEVEL="ERROR",
        VLLM_CPU_OMP_THREADS_BIND=str(core),
    )


class ServerError(RuntimeError):
    """A server did not start, or ended by itself."""


@dataclass(frozen=True)
class Done:
    """One answered request; times are those of the client's monotonic clock."""

    start_s: float
    end_s: float
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Answers:
    """A phase's answers, in the order of its jobs.

    Attributes:
        start_s: when the first clients began.
        steady_end_s: when a client first found no job left; every client was busy until then.
        end_s: when the last answer came.
    """

    done: tuple[Done, ...]
    start_s: float
    steady_end_s: float
    end_s: float

    def whole(self) -> tuple[float, float]:
        """Tokens and seconds of all of it."""
        return float(sum(len(done.tokens) for done in self.done)), self.end_s - self.start_s

    def steady(self) -> tuple[float, float]:
        """Tokens and seconds while every client was busy.

        A request that goes on afterwards counts by the share of its time.
        """
        tokens = 0.0
        for done in self.done:
            inside_s = max(0.0, min(done.end_s, self.steady_end_s) - done.start_s)
            tokens += len(done.tokens) * inside_s / (done.end_s - done.start_s)
        return tokens, self.steady_end_s - self.start_s


class Server:
    """One `vllm serve`; use it inside `async with`, which stops it.

    Attributes:
        engine_core: the core of the engine's processes, once it is ready.
        host_cores: those of the API server, and of the clients.
        engine_processes: scheduler, worker and their helpers.
        api_processes: what answers HTTP.
    """

    def __init__(
        self, name: str, flags: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self.engine_core, *self.host_cores = sorted(os.sched_getaffinity(0))
        self.engine_processes: list[int] = []
        self.api_processes: list[int] = []
        self._log = folder / f"{name.replace(' ', '-')}.log"
        self._metrics = folder / f"{name.replace(' ', '-')}-metrics"
        self._metrics.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server",
            "--port", str(port), *FLAGS, *flags,
        ]  # fmt: skip
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **self._environment(), **environment},
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._url = f"http://127.0.0.1:{port}"
        # Servers close connections that were idle for 5 s, which may cross with a request.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=1.0)
        self._session = aiohttp.ClientSession(connector=connector)

    def _environment(self) -> dict[str, str]:
        paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
        return {
            **ENGINE_ENVIRONMENT,
            "VLLM_CPU_OMP_THREADS_BIND": str(self.engine_core),
            "FLYBALL_METRICS_DIR": str(self._metrics),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }

    async def ready(self) -> None:
        """Wait until the server answers, then give its processes their cores."""
        limit = time.monotonic() + START_S
        while not await self._healthy():
            if self._process.poll() is not None or time.monotonic() > limit:
                tail = self._log.read_text(encoding="utf-8", errors="replace")[-3000:]
                raise ServerError(f"the server {self.name!r} did not start:\n{tail}")
            await asyncio.sleep(0.5)
        for process in self._processes():
            engine = process != self._process.pid
            (self.engine_processes if engine else self.api_processes).append(process)
            for thread in Path(f"/proc/{process}/task").iterdir():
                os.sched_setaffinity(
                    int(thread.name), [self.engine_core] if engine else self.host_cores
                )

    async def _healthy(self) -> bool:
        try:
            async with self._session.get(f"{self._url}/health") as response:
                return bool(response.status == 200)
        except aiohttp.ClientConnectionError:
            return False

    def _processes(self) -> list[int]:
        """Every process of the server's session."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                session = int(stat.read_text().rpartition(")")[2].split()[3])
            except OSError:
                continue
            if session == self._process.pid:
                found.append(int(stat.parent.name))
        return found

    async def run(self, phase: Phase) -> Answers:
        """Answer all of a phase's jobs with `phase.load` clients."""
        waiting = iter(enumerate(phase.jobs))
        done: dict[int, Done] = {}
        idle_s: list[float] = []

        async def client() -> None:
            for number, job in waiting:
                done[number] = await self._complete(job)
            idle_s.append(time.monotonic())

        start_s = time.monotonic()
        await asyncio.gather(*(client() for _ in range(phase.load)))
        answers = tuple(done[number] for number in range(len(phase.jobs)))
        return Answers(answers, start_s, min(idle_s), max(idle_s))

    async def _complete(self, job: Job) -> Done:
        body = {
            "prompt": list(job.prompt),
            "max_tokens": job.max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        start_s = time.monotonic()
        async with self._session.post(f"{self._url}/v1/completions", json=body) as response:
            answer = await response.json()
        if response.status != 200:
            raise ServerError(f"the server {self.name!r} answered {answer}")
        return Done(start_s, time.monotonic(), tuple(answer["choices"][0]["token_ids"]))

    async def counters(self) -> dict[str, float]:
        """The counters of interest; the governor's may be a second old."""
        async with self._session.get(f"{self._url}/metrics") as response:
            texts = [await response.text()]
        # Where Flyball's plugin is not installed, nothing carries these files into /metrics.
        files = self._metrics.glob("*.prom")
        texts += [file.read_text(encoding="utf-8") for file in files]
        return read_metrics("\n".join(texts))

    async def __aenter__(self) -> Server:
        """The server, which may still be starting."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the server; what does not end by itself is killed."""
        await self._session.close()
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for process in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()
