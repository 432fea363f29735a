"""A bar with an estimate on a terminal (rich), plain lines in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


class Progress:
    """Counts seconds of work, not runs: a sustained one takes fifty times as long as a start."""

    def __init__(self, seconds: float, runs: int) -> None:
        self.total, self.runs = max(1.0, seconds), runs
        self.began = time.monotonic()
        self.gone = 0.0
        self.finished = 0
        self.running: dict[str, float] = {}
        self.lock = threading.Lock()
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.bar = Bar(
            TextColumn("{task.fields[count]}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(), TextColumn("{task.fields[left]}  {task.fields[now]}"), console=self.console,
            disable=not self.console.is_terminal,
        )  # fmt: skip

    def __enter__(self) -> Progress:
        self.task = self.bar.add_task("", total=self.total, count=f"0/{self.runs}", left="", now="")
        self.bar.start()
        self.say(f"{self.runs} runs, about {self.total / 60:.0f} minutes")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def left(self) -> str:
        """The estimate: what is planned, at the pace so far."""
        passed = time.monotonic() - self.began
        pace = passed / self.gone if self.gone > 60 else 1.0
        return f"about {max(0.0, self.total - self.gone) * pace / 60:.0f} min to go"

    def _show(self) -> None:
        self.bar.update(
            self.task, completed=self.gone, count=f"{self.finished}/{self.runs}", left=self.left(),
            now=", ".join(self.running),
        )  # fmt: skip

    def say(self, text: str) -> None:
        passed = int(time.monotonic() - self.began)
        # Whoever listened may have gone: hours of measuring do not end for that.
        with contextlib.suppress(OSError):
            self.console.print(f"[{passed // 60}:{passed % 60:02d}] {text}", markup=False)

    @contextmanager
    def doing(self, name: str) -> Iterator[None]:
        """Something under way, named beside the bar."""
        with self.lock:
            self.running[name] = time.monotonic()
            self._show()
        try:
            yield
        finally:
            with self.lock:
                self.running.pop(name, None)
                self._show()

    def done(self, text: str) -> None:
        with self.lock:
            self.finished += 1
            self._show()
            self.say(f"{self.finished}/{self.runs} {text}")

    def spent(self, cost: float) -> None:
        """Planned seconds that are over."""
        with self.lock:
            self.gone += cost
            self._show()
            if not self.console.is_terminal:
                self.say(self.left())

    def skip(self, runs: int, cost: float) -> None:
        """What the time does not allow."""
        with self.lock:
            self.total -= cost
            self.runs -= runs
            self._show()
