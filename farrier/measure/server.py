"""``farrier serve`` with the app, as it will serve, in a folder and a process group of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import site
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farrier.errors import FarrierError
from farrier.measure import processes

#: Seconds between two looks at the state file, which the arbiter replaces at each change.
LOOK = 0.01
#: Seconds in which the arbiter's own turn shows what has happened: a difference below says nothing.
TURN = 0.1
#: Seconds for a quick stop, before KILL.
STOP = 1.0
#: Of the caller's environment: what steers the caller itself, or would steer this server past its arguments.
LEFT_OUT = (
    *("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC"),
    *("GUNICORN_CMD_ARGS", "PRELOAD_APP", "GUNICORN_PRELOAD_APP", "GUNICORN_PID"),
)
#: Lines of the app's log that are shown with a failure.
TAIL = 12


class AppFailed(FarrierError):
    """The app, not the question: one line, and the end of what it logged."""

    def __init__(self, message: str, log: Sequence[str] = ()) -> None:
        super().__init__(message, 1)
        self.log = tuple(log)


def environment(given: Mapping[str, str], token: str) -> dict[str, str]:
    """The app's own variables, and this run's mark."""
    found = {
        name: value
        for name, value in given.items()
        if not name.startswith("FARRIER_") and name not in LEFT_OUT
    }
    found[processes.MARK] = token
    root = str(Path(__file__).resolve().parents[2])
    if root not in site.getsitepackages():
        # A checkout or an unpacked wheel, which another interpreter would not find by itself.
        found["PYTHONPATH"] = os.pathsep.join(one for one in (found.get("PYTHONPATH"), root) if one)
    return found


def start(argv: Sequence[str], environ: Mapping[str, str], folder: str, log: Path) -> subprocess.Popen[bytes]:
    """A Python process in a session of its own, which ends when this one is killed (prctl(2), PDEATHSIG)."""
    guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    with open(log, "ab") as out:
        return subprocess.Popen(
            [*guard, sys.executable, *argv],
            env=dict(environ),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


@dataclass(frozen=True)
class Launch:
    """What every boot of one measurement has in common."""

    app: str
    worker_class: str
    threads: int
    environ: Mapping[str, str]
    chdir: str
    pythonpath: str | None
    folder: Path
    """For its files alone."""

    def arguments(self, workers: int, files: Path) -> list[str]:
        found = [
            *("-m", "farrier", "serve", self.app, "--worker-class", self.worker_class),
            *("--workers", str(workers), "--threads", str(self.threads), "--worker-connections", "1000"),
            *("--bind", "127.0.0.1:0", "--max-requests", "0", "--timeout", "300", "--keep-alive", "75"),
            *("--graceful-timeout", "1", "--log-level", "info", "--error-logfile", "-"),
            *("--pid", str(files / "pid")),
        ]
        return found + (["--pythonpath", self.pythonpath] if self.pythonpath else [])


class Server:
    """One boot. A context manager: at its end nothing of it runs any more."""

    def __init__(self, launch: Launch, workers: int, preload: bool, deadline: float) -> None:
        self.app, self.deadline = launch.app, deadline
        self.files = launch.folder / ("preloaded" if preload else "alone")
        self.files.mkdir()
        self.log = self.files / "log"
        environ = dict(launch.environ)
        environ.update(
            FARRIER_RUN_DIR=str(self.files), FARRIER_LOG="json", PRELOAD_APP="1" if preload else "0"
        )
        self.process = start(launch.arguments(workers, self.files), environ, launch.chdir, self.log)
        self.workers_wanted = workers

    def __enter__(self) -> Server:
        try:
            self.until_ready(self.workers_wanted)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def state(self) -> dict[str, Any]:
        """What the arbiter says; empty before its first word."""
        try:
            found: dict[str, Any] = json.loads((self.files / "app.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = str(self.state["listeners"][0]).rpartition("//")[2].rpartition(":")
        return host, int(port)

    @property
    def workers(self) -> list[int]:
        """Those that are ready, the oldest first."""
        ready = [one for one in self.state.get("workers", ()) if one.get("ready")]
        return [int(one["pid"]) for one in sorted(ready, key=lambda one: int(one["age"]))]

    @property
    def killed(self) -> int:
        """Workers that the kernel took for memory."""
        return int(self.state.get("endings", {}).get("killed for memory", 0))

    def until_ready(self, count: int) -> float:
        """Waits for so many ready workers; the seconds that the newest took. Raises AppFailed."""
        late = f"{self.app}: not ready in the time that was left; give it more with --seconds"
        self.until(lambda: len(self.workers) >= count, late)
        newest = max(self.state["workers"], key=lambda one: int(one["age"]))
        seconds = time.time() - float(newest["started"])
        for one in reversed(self.events("worker_booted")):
            if one.get("worker") == newest["pid"]:
                # To within the arbiter's turn the worker knows it best.
                loaded = float(one["seconds"])
                return loaded if seconds - loaded < TURN else seconds
        return seconds

    def until(self, seen: Callable[[], bool], otherwise: str) -> None:
        while not seen():
            if self.process.poll() is not None:
                raise AppFailed(self.why(), self.tail())
            if time.monotonic() > self.deadline:
                raise AppFailed(self.why(otherwise), self.tail())
            time.sleep(LOOK)

    def add_worker(self) -> int:
        """One more, as the arbiter itself adds one; its pid. Raises AppFailed."""
        before = set(self.workers)
        self.process.send_signal(signal.SIGTTIN)
        self.until_ready(len(before) + 1)
        return next(pid for pid in self.workers if pid not in before)

    def remove_worker(self) -> None:
        """One less. Raises AppFailed."""
        count = len(self.workers)
        self.process.send_signal(signal.SIGTTOU)
        self.until(lambda: len(self.state.get("workers", ())) < count, "a worker does not end")

    def replace(self, pid: int) -> int:
        """Kills a worker that is stuck; the pid of the one that the arbiter starts instead."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.until(lambda: any(one != pid for one in self.workers), "no worker took the place of a stuck one")
        return next(one for one in self.workers if one != pid)

    @contextlib.contextmanager
    def only(self, pid: int) -> Iterator[None]:
        """Meanwhile no other worker accepts, so that each request goes to this one."""
        others = [one for one in self.workers if one != pid]
        try:
            for one in others:
                os.kill(one, signal.SIGSTOP)
            yield
        finally:
            for one in others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGCONT)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Its log's lines of one event."""
        found = []
        for line in self._lines():
            if f'"event": "{name}"' in line:
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return found

    def ended(self, pid: int) -> str | None:
        """Why a worker ended, one line; None: it did not, or was stopped here."""
        for one in reversed(self.events("worker_ended")):
            if one.get("worker") == pid and one.get("reason") != "stopped":
                return str(one["message"])
        return None

    def why(self, otherwise: str = "it ended while it booted") -> str:
        """One line: why it does not boot."""
        refused = self.events("boot_failed")
        if refused:
            return str(refused[-1]["message"])
        for one in reversed(self.events("worker_ended")):
            if one.get("reason") != "stopped":
                return str(one["message"])
        last = [line for line in self._lines() if line.startswith("farrier")]
        return last[-1].partition(": ")[2] if last else otherwise

    def tail(self) -> list[str]:
        """The last lines of the log; of farrier's own only what they say."""
        found = []
        for line in self._lines()[-TAIL:]:
            try:
                found.append(str(json.loads(line)["message"]))
            except (ValueError, KeyError, TypeError):
                found.append(line)
        return found

    def _lines(self) -> list[str]:
        """Of the last MiB: an app may log much."""
        try:
            with open(self.log, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - (1 << 20)))
                return file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return []

    def stop(self) -> None:
        """The quick stop, then KILL for its whole group."""
        workers = self.workers
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        # Whoever boots next counts on their memory.
        until = time.monotonic() + STOP
        while any(processes.alive(pid) for pid in workers) and time.monotonic() < until:
            time.sleep(LOOK)
