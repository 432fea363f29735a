"""Whose the next connection is: that of the worker which holds the fewest.

The kernel gives a newcomer to whoever asks first. Clients keep their connections, so those of a burst would
stay with the worker that woke first and wait for its threads and for its one interpreter, while another one
idles: of 100 clients two workers had 101 and 1, and answered two thirds of what they answer with 50 each
(docs/serving.md, "Who takes a connection").
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from select import POLLIN, poll  # the system's own: gevent's would wait in its hub
from typing import Any

from farrier.serve.board import DRAINING, Slot
from farrier.serve.workers.room import AT_ONCE

#: Seconds after which a worker that has left a newcomer to a sibling looks again.
AGAIN = 0.005
#: Seconds for which a newcomer is left. Its worker may be busy, or be full: then whoever sees it takes it.
PATIENCE = 0.05
#: A worker takes newcomers while it holds so many connections more than a sibling: one, and this part.
UNEVEN = 1 / 8


class Share:
    """One worker's. Without a slot, under plain ``gunicorn``, it takes whoever comes."""

    def __init__(self, slot: Slot | None, workers: int, sockets: Iterable[socket.socket]) -> None:
        self._slot = slot
        # Those that drain have slots as well, and so have their replacements.
        self._slots = 2 * workers + 2
        self._poll = poll()
        for listener in sockets:
            self._poll.register(listener.fileno(), POLLIN)
        self._since: float | None = None
        self._taking = 0

    def leaves(self, held: int) -> bool:
        """Whether a newcomer is for a sibling; ``held`` are this worker's connections.

        The worker then looks away for ``AGAIN`` seconds, and calls look() before it looks again.
        """
        slot = self._slot
        if slot is None or slot.stage == DRAINING:
            # It still accepts in its end only where nobody else does.
            return False
        slot.connections = held
        fewest = slot.fewest_connections(self._slots)
        if fewest is None or held <= fewest + 1 + int(UNEVEN * fewest):
            self._forget()
            return False
        now = time.monotonic()
        if self._taking and self._since is not None and now - self._since < AGAIN:
            self._taking -= 1
            return False
        if self._since is None:
            self._since = now
        if now - self._since < PATIENCE:
            return True
        self._since, self._taking = now, AT_ONCE - 1
        return False

    def look(self) -> None:
        """Whoever waits now has waited since the first was left; nobody there: a sibling took them all."""
        if not self._poll.poll(0):
            self._forget()

    def _forget(self) -> None:
        self._since, self._taking = None, 0


class Connections(set[Any]):
    """Those that a worker holds: their number is on the board."""

    def __init__(self, worker: Any) -> None:
        super().__init__()
        self._worker = worker

    def _tell(self) -> None:
        slot = self._worker.slot
        if slot is not None:
            slot.connections = len(self)

    def add(self, one: Any) -> None:
        super().add(one)
        self._tell()

    def discard(self, one: Any) -> None:
        super().discard(one)
        self._tell()

    def remove(self, one: Any) -> None:
        super().remove(one)
        self._tell()
