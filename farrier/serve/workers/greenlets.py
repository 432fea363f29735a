"""Accepting, and connections, for the gevent worker. Imports gevent: for the worker's process only."""

from __future__ import annotations

import socket
import ssl
import traceback
from collections.abc import Callable, Collection
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
from gunicorn.http.errors import NoMoreData

from farrier.serve.workers.accepting import Acceptor
from farrier.serve.workers.drain import has_bytes
from farrier.serve.workers.share import Connections, Share

#: Seconds that a client may take to agree on TLS, as in asyncio.
HANDSHAKE = 60.0


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

    def end(self, behind: bool = False) -> None:
        """``behind``: some of the next request came with this one."""
        self.busy, self.heard = False, behind
        self.answered += 1

    def hang_up(self) -> None:
        """End it, if it is idle still when gevent's hub comes to it, between two greenlets."""
        gevent.get_hub().loop.run_callback(self._hang_up)

    def _hang_up(self) -> None:
        if self.idle and not has_bytes(self.client.fileno()) and not self.greenlet.dead:
            # Where it waits for a request, as if the client had left.
            self.greenlet.throw(NoMoreData())

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


class GreenletAcceptor(Acceptor):
    """``serve`` is called in a greenlet for each connection, with its listener and its address."""

    def __init__(
        self,
        worker: Any,
        serve: Callable[[Connection, socket.socket, Any], None],
    ) -> None:
        sockets = [listener.sock for listener in worker.sockets]
        most = worker.worker_connections
        super().__init__(sockets, most, lambda: len(worker.in_hand), Share(worker.slot, sockets, most))
        self.loop = gevent.get_hub().loop
        self.serve = serve
        self.connections = Connections()
        self.connections.told = lambda _one: self.tell()
        self.watchers: list[Any] = []

    def watch(self) -> None:
        for listener in self.sockets:
            watcher = self.loop.io(listener.fileno(), 1)
            # In gevent's hub, where nothing may wait.
            watcher.start(self.accept, listener)
            self.watchers.append(watcher)

    def unwatch(self) -> None:
        for watcher in self.watchers:
            watcher.stop()
            watcher.close()
        self.watchers.clear()

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        gevent.spawn_later(seconds, call)

    def held(self) -> int:
        return len(self.connections)

    def kept(self) -> Collection[Any]:
        return [one for one in self.connections if one.idle and one.answered > 0]

    def see_off(self, one: Connection) -> None:
        one.hang_up()

    def hand_over(self, accepted: socket.socket, listener: socket.socket, address: Any) -> None:
        client = Plain(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        # Whatever the app's socket.setdefaulttimeout() says.
        client.settimeout(None)
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
