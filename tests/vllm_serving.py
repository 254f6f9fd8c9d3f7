"""A vLLM server for tests, asked over HTTP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

ROOT = Path(__file__).parents[1]
LIMIT_S = 300.0  # for what would hang otherwise


class Server:
    """A server that is ready.

    Attributes:
        lines: what it has logged so far.
    """

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._port = port
        self._url = f"http://127.0.0.1:{port}"
        self._process = process
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
            if "Application startup complete" in line:
                self._ready.set()
        self._ready.set()

    def wait(self) -> None:
        """Wait until it is ready."""
        assert self._ready.wait(LIMIT_S), "".join(self.lines)
        while not self._listens():  # its socket starts to listen only after that line
            assert self._process.poll() is None, "".join(self.lines)

    def _listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0

    def logged(self, text: str, count: int) -> list[str]:
        """Lines with a text, once so many are read: an answer may be here before they are."""

        def found() -> list[str]:
            return [line for line in self.lines if text in line]

        with self._news:
            assert self._news.wait_for(lambda: len(found()) >= count, LIMIT_S), "".join(self.lines)
            return found()

    def end(self) -> None:
        """Wait until it has ended, and all its lines are read."""
        self._process.terminate()
        self._process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)

    def complete(self, **body: Any) -> Any:
        """The answer to a request for completions."""
        with self._post("completions", body) as answer:
            return json.load(answer)

    def stream(self, kind: str, **body: Any) -> list[Any]:
        """All chunks of a streamed answer; it has to end as it should."""
        with self._post(kind, {**body, "stream": True}) as answer:
            rows = [line.decode().strip() for line in answer]
        chunks = [row.removeprefix("data: ") for row in rows if row]
        assert chunks.pop() == "[DONE]"
        return [json.loads(chunk) for chunk in chunks]

    def _post(self, kind: str, body: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        data = json.dumps(body).encode()
        return urlopen(Request(f"{self._url}/v1/{kind}", data, headers), timeout=LIMIT_S)


@contextmanager
def serving(model: Path, *flags: str, policy: Path) -> Iterator[Server]:
    """A governed server with engine core and scheduler in a process of their own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--host", "127.0.0.1", "--port", str(port), "--model", str(model),
        "--dtype", "float32", "--enforce-eager", "--disable-uvicorn-access-log",
        "--scheduler-cls", "flyball.integrations.vllm.GovernedScheduler", *flags,
    ]  # fmt: skip
    own = {
        "FLYBALL_POLICY": str(policy),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_LOGGING_LEVEL": "INFO",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
    }
    process = subprocess.Popen(
        command,
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    server = Server(process, port)
    try:
        server.wait()
        yield server
    finally:
        server.end()
