"""A server under test: farrier or plain Gunicorn, with the same settings, on a port of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
FARRIER, GUNICORN = "farrier", "gunicorn"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def cpus() -> tuple[set[int], set[int]]:
    """Where the server runs and where its clients do: apart, if there are two."""
    found = sorted(os.sched_getaffinity(0))
    return ({found[0]}, set(found[1:])) if len(found) > 1 else (set(found), set(found))


class Server:
    """Started at once, ended by stop(); ``argv`` follows what both are given."""

    def __init__(self, kind: str, argv: list[str], folder: str, **environ: str) -> None:
        self.port = free_port()
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GUNICORN_", "FARRIER_", "WORKER", "WEB_CONCURRENCY"))
        }
        command = [str(BIN / "farrier"), "serve"] if kind == FARRIER else [str(BIN / "gunicorn")]
        self.log = (Path(folder) / f"{kind}.log").open("wb")
        self.process = subprocess.Popen(
            [*command, "--bind", f"127.0.0.1:{self.port}", "--no-control-socket", *argv],
            cwd=HERE,
            env={**kept, "PYTHONDONTWRITEBYTECODE": "1", **environ},
            stdout=self.log,
            stderr=self.log,
        )
        self.kind = kind

    def pids(self) -> list[int]:
        """The master and its workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]

    def await_answer(self, path: str = "/", workers: int = 1) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5):
                    break
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise SystemExit(f"{self.kind} did not come up: see {self.log.name}") from None
                time.sleep(0.05)
        while len(self.pids()) < workers + 1 and time.monotonic() < deadline:
            time.sleep(0.05)

    def pin(self, where: set[int]) -> None:
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), where)

    def cpu_seconds(self) -> float:
        """Of all its processes, threads included, as the kernel accounts them, to the nanosecond.

        The clock of another process, numbered as clock_getcpuclockid(3) does.
        """
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in self.pids())

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
