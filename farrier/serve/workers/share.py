"""Whose the next connection is: that of the worker which holds the fewest.

The kernel gives a newcomer to whoever asks first. Clients keep their connections, so those of a burst would
stay with the worker that woke first and wait for its threads and for its one interpreter, while another one
idles: of 100 clients two workers had 99 and 1, and answered two thirds of what they answer with 50 each
(docs/serving.md, "Who takes a connection").
"""

from __future__ import annotations

import os
import socket
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any

from farrier.serve.board import NOT_TAKING, Slot

#: Seconds after which a worker that has left a newcomer to a sibling looks again.
AGAIN = 0.005
#: Seconds for which a newcomer is left to siblings none of whose numbers changes: stopped, or blocked.
PATIENCE = 0.05
#: Seconds for which nobody is left to those then, unless the number of one changes.
SHUNNED = 1.0
#: A sibling is preferred that holds fewer connections, by more than one and an eighth of its own.
UNEVEN = 8
#: Not one that has so many requests more in hand than twice this worker's: idle connections are no load.
BUSIER = 8


class Share:
    """One worker's, which serves ``at_once`` requests at once and listens on ``sockets``.

    Without a slot, under plain ``gunicorn``, it takes whoever comes.
    """

    def __init__(self, slot: Slot | None, sockets: Iterable[socket.socket], at_once: int) -> None:
        self._slot = slot
        self._at_once = at_once
        if slot is not None:
            # Not those that listen elsewhere: with reuse_port each has a queue of its own, and at a HUP that
            # changes `bind` the old workers have the old address.
            slot.queue = zlib.crc32(repr([os.fstat(one.fileno()).st_ino for one in sockets]).encode())
        #: The siblings that newcomers are left to, with their numbers: since when, and when the last one was.
        self._left: dict[int, int] = {}
        self._since = self._last = 0.0
        #: Index -> the number at which nobody is left to it, and until when.
        self._shunned: dict[int, tuple[int, float]] = {}

    def tell(self, held: int | None) -> None:
        """The connections that this worker holds, to its siblings; None where it takes none for now."""
        if self._slot is not None:
            self._slot.connections = NOT_TAKING if held is None else held

    def end(self) -> bool:
        """This worker drains: it takes newcomers only where nobody else does.

        Whether somebody may wait whom it has left: its siblings may end as well, and the queue with them.
        """
        self.tell(None)
        self._slot = None
        return bool(self._left)

    def preferred(self, held: int) -> dict[int, int]:
        """The siblings that a newcomer is for, not for this worker, which holds so many; their numbers.

        They hold fewer, and are not much busier.
        """
        slot = self._slot
        if slot is None:
            return {}
        numbers, busy = slot.board.numbers()
        fewest = min(numbers)
        if fewest + 1 + fewest // UNEVEN >= held:
            return {}
        mine, now = busy[slot.index], time.monotonic()
        return {
            index: number
            for index, number in enumerate(numbers)
            if number + 1 + number // UNEVEN < held
            and index != slot.index
            and not busy[index] >= self._at_once > mine
            and busy[index] <= 2 * mine + BUSIER
            and slot.board.queue_of(index) == slot.queue
            and not self._shuns(index, number, now)
        }

    def leaves(self, held: int) -> bool:
        """Whether somebody who waits is left to siblings; this worker then looks away for ``AGAIN``."""
        preferred = self.preferred(held)
        if not preferred:
            self._left = {}
            return False
        now = time.monotonic()
        still = bool(self._left) and all(
            preferred.get(index) == number for index, number in self._left.items()
        )
        if not still or now - self._last > SHUNNED:
            # The first one, or one of them took some meanwhile.
            self._left, self._since = preferred, now
        self._last = now
        if now - self._since < PATIENCE:
            return True
        self._shunned |= {index: (number, now + SHUNNED) for index, number in self._left.items()}
        self._left = {}
        return False

    def _shuns(self, index: int, number: int, now: float) -> bool:
        found = self._shunned.get(index)
        if found is None:
            return False
        if found[0] == number and now < found[1]:
            return True
        del self._shunned[index]
        return False


class Connections(set[Any]):
    """Those that a worker holds; ``told`` hears of each that comes or goes."""

    told: Callable[[Any], None] | None = None

    def _tell(self, one: Any) -> None:
        if self.told is not None:
            self.told(one)

    def add(self, one: Any) -> None:
        super().add(one)
        self._tell(one)

    def discard(self, one: Any) -> None:
        super().discard(one)
        self._tell(one)

    def remove(self, one: Any) -> None:
        super().remove(one)
        self._tell(one)
