"""Accepting and draining for workers with an event loop.

Farrier accepts by itself instead of asking the loop for a server, because a server listens again with a
backlog of its own (100 for Gunicorn's asgi worker, 2048 for uvicorn) on the socket that all workers
share, cannot be held back when a worker is full, and closes its sockets when it stops.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

from farrier.serve.workers.room import AT_ONCE, LINGER, OUT_OF_FILES, Room, room


class Acceptor:
    """Takes connections from shared listening sockets while a worker has room.

    ``most`` is ``worker_connections``: what may be in hand at once, planned by the memory that it takes;
    see room(). A worker that has room later leaves new connections to others for a tenth of a second, then
    takes them as well: they wait their turn behind its semaphore.
    """

    def __init__(
        self,
        sockets: Iterable[socket.socket],
        protocol: Callable[[], asyncio.BaseProtocol],
        context: ssl.SSLContext | None,
        most: int,
        *,
        count: Callable[[], int],
        idle: Callable[[], int],
        asking: Callable[[], int],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.sockets = list(sockets)
        self.protocol = protocol
        self.context = context
        self.most = most
        self.count = count
        self.idle = idle
        self.asking = asking
        self.handshaking: set[asyncio.Task[Any]] = set()
        self.open = False
        self.closed = False

    def start(self) -> None:
        for listener in self.sockets:
            listener.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        if not self.open and not self.closed:
            self.open = True
            for listener in self.sockets:
                self.loop.add_reader(listener.fileno(), self._accept, listener)

    def _pause(self) -> None:
        if self.open:
            self.open = False
            for listener in self.sockets:
                self.loop.remove_reader(listener.fileno())

    def close(self) -> None:
        """Take no more. The sockets stay open: they belong to the other workers as well."""
        self._pause()
        self.closed = True

    def room(self) -> Room:
        return room(self.most, self.count() + len(self.handshaking), self.idle, self.asking)

    def resume(self) -> None:
        """Something ended: go on at once if that made room."""
        if not self.open and self.room() is Room.PLENTY:
            self._listen()

    def balance(self) -> None:
        """Called about ten times a second: pause, go on, or take what nobody else took meanwhile."""
        room = self.room()
        if room is Room.PLENTY:
            self._listen()
            return
        self._pause()
        if room is Room.LATER and not self.closed:
            for listener in self.sockets:
                self._take(listener)

    def _accept(self, listener: socket.socket) -> None:
        if self.room() is Room.PLENTY:
            self._take(listener)
        else:
            self._pause()

    def _take(self, listener: socket.socket) -> None:
        """Up to ``AT_ONCE`` connections, and no more than there is room for."""
        for _ in range(min(AT_ONCE, self.most)):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # Out of file descriptors: the queue holds the connection until there is room.
                self._pause()
                self.loop.call_later(OUT_OF_FILES, self._listen)
                return
            connection.setblocking(False)
            task = self.loop.create_task(self._hand_over(connection))
            self.handshaking.add(task)
            task.add_done_callback(self.handshaking.discard)

    async def _hand_over(self, connection: socket.socket) -> None:
        try:
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self.loop.connect_accepted_socket(self.protocol, connection, ssl=self.context)
        except (OSError, ssl.SSLError, asyncio.CancelledError):
            # The client left, or does not speak TLS.
            connection.close()


async def drain(
    connections: Callable[[], Collection[Any]],
    close_idle: Callable[[], None],
    alive: Callable[[], None],
    hurry: Callable[[], bool],
    graceful: float,
    linger: float = LINGER,
) -> bool:
    """Wait until no connection is left; True when all ended by themselves.

    For ``linger`` seconds idle connections may still bring a request (its response says ``Connection:
    close``); then ``close_idle()`` ends them, and those with a request in hand have until ``graceful``.
    """
    began = time.monotonic()
    while connections() and not hurry():
        waited = time.monotonic() - began
        if waited >= graceful:
            return False
        if waited >= min(linger, graceful):
            close_idle()
        alive()
        await asyncio.sleep(0.02)
    return not connections()
