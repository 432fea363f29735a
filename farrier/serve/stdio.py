"""The app's own text on stdout and stderr as JSON lines, so that a production log holds nothing else.

Only what goes through ``sys.stdout`` and ``sys.stderr`` (print, warnings, tracebacks, handlers of logging,
``wsgi.errors``): what C code writes to the file descriptors, or Python to ``sys.stderr.buffer``, stays text.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from farrier.serve.events import identity, timestamp

#: Characters of one unfinished group: more is let out as it is, so that nothing piles up.
MOST = 65536
TRACEBACK = "Traceback (most recent call last):"
#: Lines after which a traceback follows, or goes on.
HERALDS = (
    "Exception in thread",
    "Exception ignored in",
    "During handling of the above exception",
    "The above exception was the direct cause",
)
LEVEL = re.compile(r"\b(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")


class JsonStream:
    """In place of a text stream; every line, or traceback as a whole, becomes one object on ``raw``.

    Each thread has its own unfinished group, so that two that print at once do not mix. Not of io's classes:
    these are closed when the process ends, in Python code that a signal could break into.
    """

    def __init__(self, raw: Any, name: str) -> None:
        self.raw = raw
        self.label = name
        self._renew()
        _streams.add(self)

    def _renew(self) -> None:
        """Also after a fork: no thread is left to give back the lock, and the text is the parent's."""
        self._lock = threading.RLock()
        self._mine = threading.local()

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() takes text, not {type(text).__name__}")
        group = getattr(self._mine, "text", "") + text
        if whole(group) or len(group) > MOST:
            self._mine.text = ""
            self._let_out(group)
        else:
            self._mine.text = group
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Lets out what has come to the end of a line, be it an unfinished traceback."""
        group = getattr(self._mine, "text", "")
        if group.endswith("\n"):
            self._mine.text = ""
            self._let_out(group)
        with contextlib.suppress(OSError, ValueError):
            self.raw.flush()

    def finish(self) -> None:
        """Lets out everything of this thread."""
        group, self._mine.text = getattr(self._mine, "text", ""), ""
        self._let_out(group)

    def _let_out(self, group: str) -> None:
        if not group.strip():
            return
        lines = "".join(f"{line}\n" for line in _lines(group, self.label))
        # As logging: a log that nobody takes must not end the app's request.
        # RuntimeError: a signal handler that prints while a print is under way.
        with contextlib.suppress(OSError, ValueError, RuntimeError), self._lock:
            self.raw.write(lines)
            self.raw.flush()

    # What else a text stream has is the one's beneath.

    def __getattr__(self, name: str) -> Any:
        if name == "raw":
            raise AttributeError(name)
        return getattr(self.raw, name)

    @property
    def encoding(self) -> str:
        return str(self.raw.encoding)

    @property
    def errors(self) -> str | None:
        return self.raw.errors  # type: ignore[no-any-return]

    def fileno(self) -> int:
        return int(self.raw.fileno())

    def isatty(self) -> bool:
        return bool(self.raw.isatty())

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Never: the log's own handlers write to the same."""
        self.flush()


_streams: weakref.WeakSet[JsonStream] = weakref.WeakSet()


def _after_fork() -> None:
    for stream in list(_streams):
        stream._renew()


os.register_at_fork(after_in_child=_after_fork)


def whole(group: str) -> bool:
    """Whether a group has come to its end: at that of a line, in a traceback at that of the exception's."""
    if not group.endswith("\n"):
        return False
    begun = group.rfind(TRACEBACK)
    herald = max((group.rfind(one) for one in HERALDS), default=-1)
    if herald > begun:
        return False
    if begun < 0:
        return True
    last = group.rstrip("\n").rsplit("\n", 1)[-1]
    return not last.startswith((" ", TRACEBACK))


def _lines(group: str, label: str) -> list[str]:
    """JSON: one object for a traceback or for what logging wrote at once, else one for each line."""
    text = group.strip("\n")
    if TRACEBACK in text:
        first, _, rest = text.partition("\n")
        bare = first.startswith((TRACEBACK, *HERALDS))
        message = text.rsplit("\n", 1)[-1] if bare else first
        return [_entry(message, _severity(first, "ERROR"), label, stack=text if bare else rest)]
    return [
        line if _is_object(line) else _entry(line, _severity(line, "INFO"), label)
        for line in text.split("\n")
        if line.strip()
    ]


def _severity(line: str, otherwise: str) -> str:
    """What the first line says itself, as most formats of logging do."""
    found = LEVEL.search(line[:120])
    return found[1] if found else otherwise


def _is_object(line: str) -> bool:
    """Whether the app writes JSON lines of its own: they are as they should be."""
    if not line.startswith("{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _entry(message: str, severity: str, label: str, **more: str) -> str:
    entry = {"time": timestamp(time.time()), "severity": severity, "message": message, **identity()}
    return json.dumps({**entry, "stream": label, **more}, ensure_ascii=False)


def take_over() -> None:
    """Put JsonStreams in place of sys.stdout and sys.stderr; handlers that exist keep what they have."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, JsonStream):
            setattr(sys, name, JsonStream(stream, name))
            # Registered before the app's own handlers, so run after them.
            atexit.register(_put_back)


def _put_back() -> None:
    """The interpreter flushes what it finds at its end: let that be its own, where no signal breaks in."""
    let_go()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, JsonStream):
            setattr(sys, name, stream.raw)


@contextlib.contextmanager
def taken_over(wanted: bool) -> Iterator[None]:
    """While a master loads the app: what the app keeps hold of writes JSON lines ever after."""
    before = sys.stdout, sys.stderr
    if wanted:
        take_over()
    try:
        yield
    finally:
        let_go()
        sys.stdout, sys.stderr = before


def let_go() -> None:
    """Everything out, at the end of a process."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, JsonStream):
            stream.finish()
