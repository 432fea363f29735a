"""Accepting, and connections, for the gevent worker. Imports gevent: for the worker's process only.

Farrier accepts by itself instead of through gevent's server, which counts idle kept-alive connections
against ``worker_connections`` and closes the sockets that all workers share when it stops.
"""

from __future__ import annotations

import socket
import ssl
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
from gevent import monkey
from gunicorn.http.errors import NoMoreData

from farrier.serve.workers.room import AT_ONCE, OUT_OF_FILES, Room, room

#: Seconds that a client may take to agree on TLS, as in asyncio.
HANDSHAKE = 60.0

#: The standard library's, whatever is patched.
PlainSocket: Any = monkey.get_original("socket", "socket")


class Connection:
    """One client, from accept to close, and what it is in the middle of."""

    def __init__(self, client: Any) -> None:
        self.client = client
        client.connection = self
        self.greenlet: Any = None
        self.busy = False
        """A request of it is in hand."""
        self.doing = ""
        self.heard = False
        """Bytes came since its last request: another one has begun to arrive."""
        self.answered = 0
        self.frames = False
        """It speaks HTTP/2, where bytes need not be a request."""
        self.response: Any = None

    def stack(self) -> str | None:
        """Where its request waits; None for one that runs at this moment, which the thread's stack shows."""
        frame = self.greenlet.gr_frame if self.busy else None
        return None if frame is None else f"{self.doing}:\n{''.join(traceback.format_stack(frame))}"

    @property
    def idle(self) -> bool:
        """No request is in hand and none has begun to arrive."""
        return not self.busy and (self.frames or not self.heard)

    def begin(self, doing: str) -> None:
        self.busy, self.doing = True, doing

    def end(self) -> None:
        self.busy = self.heard = False
        self.answered += 1
        self.response = None

    def announce_close(self) -> None:
        """The response in hand says that it is the last one, unless its headers are gone already."""
        response = self.response
        if response is not None and not response.headers_sent:
            response.force_close()

    def hang_up(self) -> None:
        """End it, if it is idle still when gevent's hub comes to it, between two greenlets."""
        gevent.get_hub().loop.run_callback(self._hang_up)

    def _hang_up(self) -> None:
        if self.idle and not self._has_bytes() and not self.greenlet.dead:
            # Where it waits for a request, as if the client had left.
            self.greenlet.throw(NoMoreData())

    def _has_bytes(self) -> bool:
        """Whether something arrived that its greenlet has not read yet, if only that the client left."""
        try:
            raw = PlainSocket(fileno=self.client.fileno())
        except (OSError, ValueError):
            return True
        try:
            raw.setblocking(False)
            raw.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            raw.detach()
        return True

    def secure(self, context: Any) -> None:
        """The TLS handshake. Raises OSError when the client does not speak TLS, or not in time."""
        # In two steps, so that hang_up() finds the socket on which the handshake waits.
        self.client = context.wrap_socket(self.client, server_side=True, do_handshake_on_connect=False)
        self.client.connection = self
        with gevent.Timeout(HANDSHAKE, TimeoutError("no TLS handshake")):
            self.client.do_handshake()


class Plain(gevent.socket.socket):
    """A client's socket that notes when bytes come."""

    connection: Connection

    def recv(self, *args: Any) -> bytes:
        data: bytes = super().recv(*args)
        if data:
            self.connection.heard = True
        return data


class Secure(gevent.ssl.SSLSocket):
    """The same with TLS."""

    connection: Connection

    def recv(self, *args: Any) -> bytes:
        data: bytes = super().recv(*args)
        if data:
            self.connection.heard = True
        return data


def tls(context: Any) -> Any:
    """Let a context make sockets that note when bytes come."""
    context.sslsocket_class = Secure
    return context


class Acceptor:
    """Takes connections from shared listening sockets while a worker has room: see room().

    ``serve`` is called in a greenlet for each, with the connection, its listener and its address.
    """

    def __init__(
        self,
        sockets: Iterable[socket.socket],
        most: int,
        serve: Callable[[Connection, socket.socket, Any], None],
        asking: Callable[[], int],
    ) -> None:
        self.loop = gevent.get_hub().loop
        self.sockets = list(sockets)
        self.most = most
        self.serve = serve
        self.asking = asking
        self.connections: set[Connection] = set()
        self.watchers: list[Any] = []
        self.closed = False

    @property
    def open(self) -> bool:
        return bool(self.watchers)

    def start(self) -> None:
        for listener in self.sockets:
            listener.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        if self.open or self.closed:
            return
        for listener in self.sockets:
            watcher = self.loop.io(listener.fileno(), 1)
            watcher.start(self._accept, listener)
            self.watchers.append(watcher)

    def _pause(self) -> None:
        for watcher in self.watchers:
            watcher.stop()
            watcher.close()
        self.watchers.clear()

    def close(self) -> None:
        """Take no more. The sockets stay open: they belong to the other workers as well."""
        self._pause()
        self.closed = True

    def room(self) -> Room:
        return room(self.most, len(self.connections), self._kept, self.asking)

    def _kept(self) -> int:
        return sum(one.idle and one.answered > 0 for one in self.connections)

    def resume(self) -> None:
        """Something ended: go on at once if that made room."""
        if not self.open and not self.closed and self.room() is Room.PLENTY:
            self._listen()

    def balance(self) -> None:
        """Called about ten times a second: pause, go on, or take what nobody else took meanwhile."""
        found = self.room()
        if found is Room.PLENTY:
            self._listen()
            return
        self._pause()
        if found is Room.LATER and not self.closed:
            for listener in self.sockets:
                self._take(listener)

    def _accept(self, listener: socket.socket) -> None:
        """In gevent's hub, where nothing may wait."""
        if self.room() is Room.PLENTY:
            self._take(listener)
        else:
            self._pause()

    def _take(self, listener: socket.socket) -> None:
        """Up to ``AT_ONCE`` connections, and no more than there is room for."""
        for _ in range(min(AT_ONCE, self.most)):
            try:
                accepted, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # Out of file descriptors: the queue holds the connection until there is room.
                self._pause()
                gevent.spawn_later(OUT_OF_FILES, self._listen)
                return
            self._hand_over(accepted, listener, address)

    def _hand_over(self, accepted: socket.socket, listener: socket.socket, address: Any) -> None:
        client = Plain(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        # Whatever the app's socket.setdefaulttimeout() says.
        client.settimeout(None)
        if client.family != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(client)
        self.connections.add(connection)
        connection.greenlet = gevent.spawn(self._serve, connection, listener, address)

    def _serve(self, connection: Connection, listener: socket.socket, address: Any) -> None:
        try:
            self.serve(connection, listener, address)
        except (OSError, ssl.SSLError):
            # The client left, or does not speak TLS.
            pass
        finally:
            connection.client.close()
            self.connections.discard(connection)
            self.resume()
