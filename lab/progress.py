"""Progress that a person can follow: a line per step with its time, and a moving part while a step lasts.

On a terminal the last line moves; in a log a line every ten seconds says that the step still runs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from lab.errors import LabError
from lab.privilege import needs_terminal

_FRAMES = "|/-\\"
_LOG_EVERY = 10.0
_ANYTHING = re.compile(r".+")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Steps:
    """The steps of one command, with the time since it began at the start of every line."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._lock = threading.Lock()
        self._running: dict[str, tuple[float, str]] = {}
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None
        self._tty = sys.stdout.isatty()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._cancelled = False

    def __enter__(self) -> Steps:
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._ticker:
            self._ticker.join()
        self._erase()

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self.began

    def say(self, text: str) -> None:
        """One finished line."""
        with self._lock:
            self._erase()
            print(f"[{_clock(self.elapsed)}] {text}", flush=True)

    def detail(self, name: str, text: str) -> None:
        """What a running step does just now; shown in its moving line."""
        with self._lock:
            if name in self._running:
                self._running[name] = (self._running[name][0], text)

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """A step. What the body appends to the list is told in the step's closing line."""
        outcome: list[str] = []
        began = time.monotonic()
        with self._lock:
            self._running[name] = (began, "")
        try:
            yield outcome
        except BaseException as error:
            self._finish(name)
            ended = "failed" if isinstance(error, Exception) else "interrupted"
            self.say(f"{name}: {ended} after {time.monotonic() - began:.1f} s")
            raise
        self._finish(name)
        told = f"{name}: {', '.join(outcome)}" if outcome else name
        self.say(f"{told} ({time.monotonic() - began:.1f} s)")

    def stream(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        env: dict[str, str] | None = None,
        shield: bool = False,
        cwd: Path | None = None,
        tell: re.Pattern[str] = _ANYTHING,
    ) -> None:
        """Run a command inside a step: all it says goes to `log`, its last line moves on the terminal.

        tell: what of a line is worth showing. shield: an interrupt lets it finish, as apt has to. LabError
        with the last lines of its output where it fails.
        """
        shield = shield and not needs_terminal()
        self._stop_if_cancelled()
        with log.open("ab") as sink:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=shield,
            )
            tail: list[str] = []
            if not shield:
                self._processes.add(process)
            try:
                assert process.stdout is not None  # noqa: S101 (a pipe was asked for)
                for raw in process.stdout:
                    sink.write(raw)
                    line = raw.decode(errors="replace").rstrip()
                    if line:
                        tail = [*tail[-4:], line]
                    if found := tell.search(line):
                        self.detail(name, found[0])
                status = process.wait()
            except BaseException:
                if not shield:
                    process.terminate()
                process.communicate()
                raise
            finally:
                self._processes.discard(process)
        self._stop_if_cancelled()
        if status:
            raise LabError(f"{name}: {' | '.join(tail[-2:])} (whole output: {log})")

    def cancel(self) -> None:
        """End what the steps run and begin nothing new: only the main thread hears an interrupt."""
        self._cancelled = True
        for process in tuple(self._processes):
            process.terminate()

    def _stop_if_cancelled(self) -> None:
        if self._cancelled:
            raise KeyboardInterrupt

    def _finish(self, name: str) -> None:
        with self._lock:
            self._running.pop(name, None)

    def _erase(self) -> None:
        if self._tty:
            print("\r\033[K", end="", flush=True)

    def _tick(self) -> None:
        turn, told = 0, time.monotonic()
        while not self._stop.wait(0.2 if self._tty else 1.0):
            with self._lock:
                if not self._running:
                    continue
                turn += 1
                if self._tty:
                    self._draw(_FRAMES[turn % len(_FRAMES)])
                elif time.monotonic() - told >= _LOG_EVERY:
                    told = time.monotonic()
                    print(f"[{_clock(self.elapsed)}] ... {self._now()}", flush=True)

    def _now(self) -> str:
        return "; ".join(
            f"{name} {time.monotonic() - began:.0f} s" + (f": {detail}" if detail else "")
            for name, (began, detail) in self._running.items()
        )

    def _draw(self, frame: str) -> None:
        width = shutil.get_terminal_size().columns
        line = f"[{_clock(self.elapsed)}] {frame} {self._now()}"
        print("\r\033[K" + line[: width - 1], end="", flush=True)
