"""Accepting, for the classes that take many connections at once.

Farrier accepts by itself instead of asking the loop for a server, because a server listens again with a
backlog of its own (100 for Gunicorn's asgi worker, 2048 for uvicorn, whose #544 is about it) on the socket
that all workers share, counts idle kept-alive connections against the limit (gevent), cannot be held back
when a worker is full, and closes its sockets when it stops.
"""

from __future__ import annotations

import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from typing import Any

from farrier.serve.workers.drain import LINGER
from farrier.serve.workers.room import AT_ONCE, CROWDED, IDLE_EACH, OUT_OF_FILES, Room, descriptors, room
from farrier.serve.workers.share import AGAIN, Share


def accept(listener: Any) -> tuple[socket.socket, Any]:
    """A connection and its address; never waits: BlockingIOError where none is there any more.

    Whether accept() waits is a mark of the socket itself, and its processes share it. systemd takes it away
    from all of them when it starts the other colour (``NonBlocking=`` of systemd.service(5) is off by
    default), and a gate, or a candidate that hangs in its import, never puts it back. A worker that loses a
    connection to another one would then wait here for the next one, with its kept-alive clients. So it is set
    anew each time, which costs 0.3 microseconds.
    """
    listener.setblocking(False)
    client, address = listener.accept()
    return client, address


class Acceptor(ABC):
    """Takes connections from shared listening sockets while a worker has room.

    ``most`` is ``worker_connections``: what may be in hand at once, planned by the memory that it takes;
    ``asking`` counts the requests in hand; see room(). A worker that has room later leaves new connections
    to others for a tenth of a second, then takes them as well: they wait their turn behind its semaphore.
    One that holds more than a sibling leaves them to that one, see Share.
    """

    def __init__(
        self, sockets: Iterable[socket.socket], most: int, asking: Callable[[], int], share: Share
    ) -> None:
        self.sockets = list(sockets)
        self.share = share
        #: It looks away from somebody who is a sibling's; it has no room.
        self._aside = self._full = False
        files = descriptors()
        self.most = min(max(1, most), files)
        self.places = min(self.most * (1 + IDLE_EACH), files)
        self.asking = asking
        self.open = False
        self.closed = False
        #: So many connections are held that a response announces the close.
        self.crowded = False
        self._kept_since: dict[Any, float] = {}

    @abstractmethod
    def watch(self) -> None:
        """Have accept() called whenever a connection waits."""

    @abstractmethod
    def unwatch(self) -> None: ...

    @abstractmethod
    def later(self, seconds: float, call: Callable[[], None]) -> None: ...

    @abstractmethod
    def hand_over(self, client: socket.socket, listener: socket.socket, address: Any) -> None:
        """Serve a connection; must not wait."""

    @abstractmethod
    def held(self) -> int:
        """Connections that the worker has."""

    @abstractmethod
    def kept(self) -> Collection[Any]:
        """Those of them that are kept alive between two requests."""

    @abstractmethod
    def see_off(self, one: Any) -> None:
        """End a connection, if it is idle still."""

    def start(self) -> None:
        for listener in self.sockets:
            listener.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        if not self.open and not self.closed:
            self.open, self._full = True, False
            self.tell()
            self.watch()

    def _pause(self) -> None:
        if self.open:
            self.open = False
            self.unwatch()

    def _wait_for_room(self) -> None:
        self._full = True
        self.tell()
        self._pause()

    def _look_away(self) -> None:
        self._aside = True
        self._pause()
        self.later(AGAIN, self._look_again)

    def _look_again(self) -> None:
        self._aside = False
        self.resume()

    def tell(self) -> None:
        """Siblings see how many connections are held here; called whenever that changes."""
        self.share.tell(None if self._full else self.held())

    def last_look(self) -> None:
        """The worker begins to drain: it takes whom it has just left to siblings, which may end too."""
        if self.share.end():
            for listener in self.sockets:
                self._take(listener)

    def close(self) -> None:
        """Take no more. The sockets stay open: they belong to the other workers as well."""
        self._pause()
        self.closed = True

    def room(self) -> Room:
        return room(self.most, self.places, self.held(), lambda: len(self.kept()), self.asking)

    def resume(self) -> None:
        """Something ended: go on at once if that made room."""
        if not (self.open or self.closed or self._aside) and self.room() is Room.PLENTY:
            self._listen()

    def balance(self) -> None:
        """Called about ten times a second: pause, go on, or take what nobody else took meanwhile."""
        self._thin_out()
        found = self.room()
        if found is Room.PLENTY:
            if not self._aside:
                self._listen()
            return
        self._wait_for_room()
        if found is Room.LATER and not self.closed:
            for listener in self.sockets:
                self._take(listener)

    def _thin_out(self) -> None:
        """Where idle connections take half of what may be held, those end that nobody used for the linger."""
        self.crowded = self.held() >= self.most + CROWDED * (self.places - self.most)
        if not self.crowded:
            self._kept_since = {}
            return
        now = time.monotonic()
        self._kept_since = {one: self._kept_since.get(one, now) for one in self.kept()}
        for one, since in self._kept_since.items():
            if now - since >= LINGER:
                self.see_off(one)

    def accept(self, listener: socket.socket) -> None:
        if self.room() is not Room.PLENTY:
            self._wait_for_room()
        elif self.share.leaves(self.held()):
            self._look_away()
        else:
            self._take(listener)

    def _take(self, listener: socket.socket) -> None:
        """Up to ``AT_ONCE`` connections, and no more than there is room for."""
        for number in range(min(AT_ONCE, self.most)):
            if number and self.open and self.share.preferred(self.held()):
                # If anybody else waits, the loop says so.
                return
            try:
                client, address = accept(listener)
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # Out of file descriptors: the queue holds the connection until there is room.
                self._wait_for_room()
                self.later(OUT_OF_FILES, self._listen)
                return
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.hand_over(client, listener, address)
