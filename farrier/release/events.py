"""What a run says while it works: one JSON object a line, written by the unit, followed by whoever asked."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

# Above this the file of old runs is cut to its newer half.
LIMIT = 1 << 20


@dataclass
class Step:
    """One step of a run as it is reported."""

    name: str
    changed: bool = False
    seconds: float = 0.0
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "changed": self.changed,
            "seconds": round(self.seconds, 3),
            "detail": self.detail,
        }


# Shorter values are words like "true" or "info", which would make holes in every line.
SECRET_LEAST = 8


def bare(text: str) -> str:
    """`text` without the name and password of any http address in it."""
    return re.sub(r"(https?://)[^/@\s]+@", r"\1", text)


class Hidden:
    """What must not be told: values of the environment, and credentials in addresses."""

    def __init__(self) -> None:
        self.values: list[str] = []

    def add(self, values: Iterable[str]) -> None:
        lines = {part.strip() for value in values for part in (value, *value.splitlines())}
        known = {*self.values, *(part for part in lines if len(part) >= SECRET_LEAST)}
        # The longest first: one value may hold another.
        self.values = sorted(known, key=len, reverse=True)

    def clean(self, text: str) -> str:
        for value in self.values:
            text = text.replace(value, "***")
        return bare(text)


@dataclass
class Journal:
    """Collects the steps of one run and writes each event as it happens."""

    path: Path | None
    run: str
    steps: list[Step] = field(default_factory=list)
    hidden: Hidden = field(default_factory=Hidden)

    def __post_init__(self) -> None:
        # Opened once: a failed first deploy removes the file, and its follower must still hear the end.
        self._stream = None if self.path is None else self.path.open("a", encoding="utf-8")
        # What a command says to stdout and to stderr is told by a thread each.
        self._lock = Lock()

    def emit(self, event: str, **more: Any) -> None:
        if self._stream is None:
            return
        line = json.dumps({"t": round(time.time(), 3), "run": self.run, "event": event, **more})
        try:
            with self._lock:
                self._stream.write(line + "\n")
                self._stream.flush()
        except OSError:
            # A full disk must not end a run that is about to clean up after it.
            return

    def say(self, line: str) -> None:
        """A line of detail inside a step."""
        self.emit("line", detail=self.clean(line))

    def hide(self, values: Iterable[str]) -> None:
        """From now on these values are told as ``***``."""
        self.hidden.add(values)

    def clean(self, text: str) -> str:
        """`text` as it may be told and kept."""
        return self.hidden.clean(text)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        step = Step(name)
        began = time.monotonic()
        self.emit("start", step=name)
        try:
            yield step
        except BaseException as error:
            self.emit("failed", step=name, detail=self.clean(str(error)))
            raise
        finally:
            step.seconds = time.monotonic() - began
            step.detail = self.clean(step.detail)
            self.steps.append(step)
        # A step that found nothing to do is nothing to tell.
        if step.changed or step.detail:
            self.emit("done", **{"step": name, **step.to_dict()})

    def end(self, result: dict[str, Any]) -> None:
        self.emit("end", result=result)


def trim(path: Path) -> None:
    """Cuts the record of old runs to its newer half once it is over 1 MiB."""
    try:
        if path.stat().st_size <= LIMIT:
            return
        kept = path.read_bytes()[-LIMIT // 2 :].partition(b"\n")[2]
        path.write_bytes(kept)
    except OSError:
        return


def last_step(path: Path, run: str) -> str:
    """The step that `run` was at when it was heard of last; empty where nothing is known of it.

    What came after it to put things right tells its own step under the same name.
    """
    found = ""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                # A kill may have cut a line short.
                if f'"run": "{run}"' in line and '"event": "start"' in line and line.endswith("}\n"):
                    step = str(json.loads(line).get("step", ""))
                    found = found if step == "recover" else step
    except (OSError, ValueError):
        pass
    return found


def _event(line: bytes) -> dict[str, Any]:
    """One line; empty for one that a kill or a power cut has cut short."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def follow(descriptor: int, offset: int, run: str, alive: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """The events of `run` from `offset` on, as they come, until its end; ends too when `alive` says no."""
    buffer = b""
    os.lseek(descriptor, offset, os.SEEK_SET)
    asked = time.monotonic()
    while True:
        block = os.read(descriptor, 65536)
        buffer += block
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            event = _event(line)
            if event.get("run") == run:
                yield event
                if event["event"] == "end":
                    return
        if block:
            continue
        # A regular file has no event to wait for that survives its removal.
        time.sleep(0.05)
        if time.monotonic() - asked > 1:
            # One more read after it is gone: the end may have been written in between.
            if not alive() and os.fstat(descriptor).st_size <= os.lseek(descriptor, 0, os.SEEK_CUR):
                return
            asked = time.monotonic()
