"""The course of a graceful stop, the same for every class that keeps connections.

Gunicorn's and uvicorn's own stops drop kept-alive connections that a client may be writing to at that
moment (gunicorn #1236, #3038), and connections that were accepted and not read yet (uvicorn #2757).
"""

from __future__ import annotations

import fcntl
import os
import termios
import threading
import time
from collections.abc import Collection
from select import POLLIN, poll
from typing import Any

#: Seconds that a stopping worker keeps an idle connection, for a request that a client may be sending
#: already. Longer than the think time of a busy client or of a proxy's pool; a lossless stop of uvicorn was
#: measured with 3 s (0 of 1,897,513 requests lost in 30 HUPs).
LINGER = 3.0
#: Seconds at the end of the grace in which websockets are told and may answer the close.
FAREWELL = 1.0
#: Seconds after the grace in which what was cut may tidy up: below what the arbiter waits for last words.
TIDY = 0.4
#: Seconds that an ending process waits for threads that do not end.
STUCK = 1.0
#: Seconds between two looks at what is left.
LOOK = 0.02


class Drain:
    """What may happen when. ``graceful`` is ``graceful_timeout`` in seconds, counted from now.

    A worker that is ``alone`` (nobody else accepts from its socket) goes on accepting while connections from
    before the stop are idle, so that clients wait as short as can be for whoever comes next.
    """

    def __init__(self, graceful: float, alone: bool) -> None:
        self.began = time.monotonic()
        self.linger = min(LINGER, graceful)
        self.end = self.began + graceful
        self.farewell = self.end - min(FAREWELL, graceful / 2)
        self.accepting = alone
        self._idle: dict[Any, float] = {}
        self._before: set[Any] | None = None

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.end

    @property
    def left(self) -> float:
        """Seconds, and never less than what tidying up has."""
        return max(TIDY, self.end - time.monotonic())

    def look(self, idle: Collection[Any], leaving: Collection[Any] = ()) -> list[Any]:
        """Takes the connections that are idle now, and those that are closed and whose client has not closed
        its side; returns those that have been either for the whole linger.

        A connection counts from when it is first seen idle: one whose response promised to keep it may end
        long after the stop, and its client may send another request as well.
        """
        now = time.monotonic()
        self._idle = {one: self._idle.get(one, now) for one in (*idle, *leaving)}
        if self._before is None:
            self._before = set(idle)
        lingering = now < self.began + self.linger and not self._before.isdisjoint(idle)
        self.accepting = self.accepting and lingering
        return [one for one, since in self._idle.items() if now - since >= self.linger]


def has_bytes(descriptor: int) -> bool:
    """Whether something came on a socket that nobody has read yet, if only that the client left.

    The standard library's own poll(), bound before gevent may patch it: it never waits.
    """
    if descriptor < 0:
        return False
    asked = poll()
    asked.register(descriptor, POLLIN)
    return bool(asked.poll(0))


def is_unsent(descriptor: int) -> bool:
    """Whether a client has not taken yet what was sent to it; what else its server holds waits behind that.

    The kernel's count (SIOCOUTQ, tcp(7)): asyncio does not tell what is behind TLS.
    """
    count = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
    return any(count)


def end_for_sure() -> None:
    """The interpreter would wait for what every thread is in the middle of before the process ends."""
    end = threading.Timer(STUCK, os._exit, (0,))
    end.daemon = True
    end.start()
