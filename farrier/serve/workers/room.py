"""What a worker that takes many requests at once has room for."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable

#: Connections taken from the queue at one wake-up: more would pile up on the worker that woke first.
AT_ONCE = 16
#: Idle kept-alive connections that a worker holds for each request that it may have in hand. A browser keeps
#: six, for as long as ``keepalive`` says; they cost a protocol object each, not the memory of a request:
#: 9 KiB (asgi), 7 (uvicorn), 13 (gevent), measured with 800 of them.
IDLE_EACH = 64
#: Share of those from which a worker makes room: a response announces the close, and a connection that has
#: been idle for the linger is ended. Nobody who comes new may wait for as long as somebody else keeps one.
CROWDED = 0.5
#: Share of the file descriptors that connections may take: the app opens as many again for what it asks of
#: others (the unit's LimitNOFILE= is planned so too), and a bare shell gives 1024.
OF_FILES = 0.5
#: Seconds to wait when the process is out of file descriptors.
OUT_OF_FILES = 0.5


class Room(enum.Enum):
    """For new connections."""

    NONE = enum.auto()
    LATER = enum.auto()
    PLENTY = enum.auto()


def descriptors() -> int:
    """File descriptors that connections may take in this process."""
    import resource  # in the worker: the master needs it not

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if files == resource.RLIM_INFINITY else max(1, int(OF_FILES * files))


def room(most: int, places: int, held: int, idle: Callable[[], int], asking: Callable[[], int]) -> Room:
    """Of a worker that may have ``most`` requests in hand and holds ``held`` connections of ``places``.

    Idle kept-alive connections (``idle()``) do not count as long as there are places. A worker with
    ``most`` requests (``asking()``) has room later: its newcomers wait their turn behind its requests and
    not behind its kept-alive clients. One that holds ``most`` websockets has none, because a turn there
    may never come.
    """
    if held < most:
        return Room.PLENTY
    if held >= places:
        return Room.NONE
    # Counted one by one, so only where it decides.
    busy = held - idle()
    if busy < most:
        return Room.PLENTY
    return Room.LATER if busy - asking() < most else Room.NONE
