"""How much a worker answered, how badly and how slowly: counters in its slot on the board.

One writer per slot, the worker itself; the master adds up those that live and keeps those that ended.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

#: Upper bounds of the latency histogram in seconds: three to a decade, from what a cache answers to what a
#: client no longer waits for.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_REQUESTS, _ERRORS, _SECONDS, _COUNTS = 0, 1, 2, 3
_SHAPE = struct.Struct(f"@QQd{len(BOUNDS) + 1}Q")
#: Bytes of a slot that the counters take.
SIZE = _SHAPE.size


class Counters:
    """A worker's own. Costs 0.4 microseconds a request (``tests/serve/test_traffic.py`` prints it)."""

    def __init__(self, memory: memoryview) -> None:
        self._whole, self._real = memory.cast("Q"), memory.cast("d")
        # gthread's threads count at the same time; uncontended it costs a twentieth of a microsecond.
        self._lock = Lock()

    def add(self, seconds: float, failed: bool) -> None:
        whole = self._whole
        with self._lock:
            whole[_REQUESTS] += 1
            if failed:
                whole[_ERRORS] += 1
            self._real[_SECONDS] += seconds
            whole[_COUNTS + bisect_left(BOUNDS, seconds)] += 1


#: Looks, one a second, over which a pace is told; and the least seconds that say anything.
PACE_LOOKS, PACE_LEAST = 30, 2.0


class Pace:
    """Responses a second of late, by looks at how many there were in all."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=PACE_LOOKS)

    def add(self, clock: float, requests: int) -> float:
        """The pace since the oldest look; 0 until there was time enough."""
        self._seen.append((clock, requests))
        began, before = self._seen[0]
        return (requests - before) / (clock - began) if clock - began >= PACE_LEAST else 0.0


@dataclass
class Traffic:
    """Sums over workers. ``errors``: answered with 500 or above, or not at all; ``counts``: one more than
    ``BOUNDS``, each of the requests that took no longer than its bound and longer than the one before."""

    requests: int = 0
    errors: int = 0
    seconds: float = 0.0
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    @classmethod
    def read(cls, memory: memoryview) -> Traffic:
        requests, errors, seconds, *counts = _SHAPE.unpack(memory)
        return cls(requests, errors, seconds, counts)

    def add(self, other: Traffic) -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.seconds += other.seconds
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]

    def plus(self, others: Iterable[Traffic]) -> Traffic:
        found = Traffic(self.requests, self.errors, self.seconds, list(self.counts))
        for one in others:
            found.add(one)
        return found

    def lost(self, count: int) -> None:
        """Requests that a worker had in hand when it died: nobody knows how long they took."""
        self.requests += count
        self.errors += count

    def shown(self) -> dict[str, Any]:
        """As the state file has it."""
        return {
            "requests": self.requests,
            "errors": self.errors,
            "seconds": round(self.seconds, 6),
            "latency": {"bounds": list(BOUNDS), "counts": self.counts},
        }
