"""Whose the next connection is: that of the worker which holds the fewest.

The kernel gives a newcomer to whoever asks first. Clients keep their connections, so those of a burst would
stay with the worker that woke first and wait for its threads and for its one interpreter, while another one
idles: of 100 clients two workers had 99 and 1, and answered two thirds of what they answer with 50 each
(docs/serving.md, "Who takes a connection").
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from farrier.serve.board import NOT_TAKING, Slot

#: Seconds after which a worker that has left a newcomer to a sibling looks again.
AGAIN = 0.005
#: Seconds for which newcomers are left to a sibling whose number stays as it is: it is stopped, or blocked.
PATIENCE = 0.05
#: Seconds for which nobody is left to such a one then, unless its number changes.
SHUNNED = 1.0
#: A sibling is preferred with so many connections less: more than one, and this part of its own.
UNEVEN = 8


class Share:
    """One worker's. Without a slot, under plain ``gunicorn``, it takes whoever comes; so it does with
    ``reuse_port``, where what waits in its own queue is nobody else's."""

    def __init__(self, slot: Slot | None, cfg: Any, at_once: int) -> None:
        self._slot = None if cfg.reuse_port else slot
        #: Requests that a worker serves at once.
        self._at_once = at_once
        #: The sibling that newcomers are left to and its number; since when, and when the last one was.
        self._left: tuple[int, int] | None = None
        self._since = self._last = 0.0
        #: Index -> the number at which nobody is left to it, and until when.
        self._shunned: dict[int, tuple[int, float]] = {}

    def tell(self, held: int | None) -> None:
        """The connections that this worker holds, to its siblings; None where it takes none for now."""
        if self._slot is not None:
            self._slot.connections = NOT_TAKING if held is None else held

    def end(self) -> bool:
        """This worker drains: it takes newcomers only where nobody else does.

        Whether it has left some a moment ago: its siblings may end as well, and the queue with them.
        """
        owes = self._left is not None and time.monotonic() - self._last < PATIENCE
        self.tell(None)
        self._slot = None
        return owes

    def prefers(self, held: int) -> tuple[int, int] | None:
        """The sibling for a newcomer and its number, if it is not for this worker, which holds so many.

        It holds fewer connections, and is not fully at work while this one is not: idle ones are no load.
        """
        slot = self._slot
        if slot is None:
            return None
        numbers, busy = slot.board_numbers()
        fewest = min(numbers)
        if fewest + 1 + fewest // UNEVEN >= held:
            return None
        mine, now = busy[slot.index], time.monotonic()
        found = [
            (number, index)
            for index, number in enumerate(numbers)
            if number + 1 + number // UNEVEN < held
            and not busy[index] >= self._at_once > mine
            and index != slot.index
            and not self._shuns(index, number, now)
        ]
        if not found:
            return None
        number, index = min(found)
        return index, number

    def leaves(self, held: int) -> bool:
        """Whether somebody who waits is left to a sibling; this worker then looks away for ``AGAIN``."""
        preferred = self.prefers(held)
        if preferred is None:
            self._left = None
            return False
        now = time.monotonic()
        if preferred != self._left or now - self._last > 2 * PATIENCE:
            self._left, self._since = preferred, now
        self._last = now
        if now - self._since < PATIENCE:
            return True
        index, number = preferred
        self._shunned[index] = number, now + SHUNNED
        self._left = None
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
    """Those that a worker holds; ``told`` hears of each that comes (True) or goes."""

    told: Callable[[bool], None] | None = None

    def _tell(self, came: bool) -> None:
        if self.told is not None:
            self.told(came)

    def add(self, one: Any) -> None:
        super().add(one)
        self._tell(True)

    def discard(self, one: Any) -> None:
        super().discard(one)
        self._tell(False)

    def remove(self, one: Any) -> None:
        super().remove(one)
        self._tell(False)
