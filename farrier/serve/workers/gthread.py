"""Gunicorn's threaded worker, with a stop that loses nothing.

Gunicorn's own keeps a thread busy for up to 5 s with a connection that has not sent a byte, and drops it when
that time ends during a stop; it decides in the middle of the main loop, waiting up to 2 s for each client,
that a connection is closed; and it resets connections at ``max_requests`` (gunicorn #3038).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections import deque
from functools import partial
from selectors import EVENT_READ
from typing import Any

from gunicorn.workers.gthread import DEFAULT_WORKER_DATA_TIMEOUT, TConn
from gunicorn.workers.gthread import ThreadWorker as GunicornThreadWorker

from farrier.serve.board import DRAINING
from farrier.serve.workers.base import FarrierWorker
from farrier.serve.workers.drain import LOOK, TIDY, Drain, has_bytes
from farrier.serve.workers.response import decide_late

#: Seconds that a client has to close its side, once it has been told to.
PARTING = 2.0


class ThreadWorker(FarrierWorker, GunicornThreadWorker):
    """``worker_class`` gthread."""

    interface = "wsgi"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.serving: set[Any] = set()
        self.parting: deque[Any] = deque()
        self.drain: Drain | None = None

    def handle_request(self, req: Any, conn: Any) -> Any:
        token = self.take_up(req.method, req.uri)
        try:
            return super().handle_request(req, conn)
        finally:
            self.count_wsgi(req, self.put_down(token))

    # --- connections ------------------------------------------------------------------------------

    def accept(self, listener: Any) -> None:
        """Gunicorn's would have a thread wait for the first byte; the poller waits for it here."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                raise
            return
        self.nr_conns += 1
        conn = TConn(self.cfg, client, address, listener.getsockname())
        conn.timeout = time.monotonic() + DEFAULT_WORKER_DATA_TIMEOUT + self.cfg.keepalive
        if self.drain is not None:
            conn.timeout = min(conn.timeout, time.monotonic() + self.drain.linger)
        self.pending_conns.append(conn)
        self.poller.register(client, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def enqueue_req(self, conn: Any) -> None:
        self.serving.add(conn)
        super().enqueue_req(conn)

    def finish_request(self, conn: Any, fs: Any) -> None:
        self.serving.discard(conn)
        if not fs.cancelled() and fs.exception() is None and not fs.result():
            self.part(conn)
            return
        super().finish_request(conn, fs)
        if self.drain is not None and self.keepalived_conns and self.keepalived_conns[-1] is conn:
            conn.timeout = time.monotonic() + min(self.drain.linger, self.cfg.keepalive)

    def part(self, conn: Any) -> None:
        """FIN now, and the end when the client has closed its side: ending it with bytes unread would reset
        it, and the client might lose the end of its response (RFC 9112, section 9.6)."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, EVENT_READ, partial(self._hear_out, conn))
        except (OSError, ValueError):
            self._forget(conn)
            return
        conn.timeout = time.monotonic() + PARTING
        self.parting.append(conn)

    def _hear_out(self, conn: Any, client: Any) -> None:
        with contextlib.suppress(BlockingIOError):
            # The bare socket's: of TLS nothing is to be understood any more.
            if not socket.socket.recv(client, 65536):
                self.parting.remove(conn)
                self._forget(conn)

    def _forget(self, conn: Any) -> None:
        with contextlib.suppress(OSError, KeyError, ValueError):
            self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def murder_expired(self) -> None:
        """Those that have been idle, silent or parting for too long."""
        for conns in (self.keepalived_conns, self.pending_conns):
            if conns and conns[0].timeout <= time.monotonic() and has_bytes(conns[0].sock.fileno()):
                # Just in time: the poller comes to it next.
                conns[0].timeout += LOOK
        self.murder_keepalived()
        self.murder_pending()
        while self.parting and self.parting[0].timeout <= time.monotonic():
            self._forget(self.parting.popleft())

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> None:
        if not self.wait_ready():
            return
        decide_late(self)
        self.poller.register(self.method_queue.fileno(), EVENT_READ, self.method_queue.run_callbacks)
        self.set_accept_enabled(True)
        self.mark_ready()
        while self.alive and self.is_parent_alive():
            self.notify()
            self.set_accept_enabled(self.nr_conns < self.worker_connections)
            self.wait_for_and_dispatch_events(1.0)
            self.murder_expired()
        self.alive = False
        self._drain()
        self.tpool.shutdown(wait=False)

    def _drain(self) -> None:
        drain = self.drain = Drain(self.cfg.graceful_timeout, self.slot is not None and self.slot.alone)
        if self.slot is not None:
            self.slot.stage = DRAINING
        for conn in (*self.keepalived_conns, *self.pending_conns):
            conn.timeout = min(conn.timeout, drain.began + drain.linger)
        while not drain.over:
            drain.look([*self.keepalived_conns, *self.pending_conns])
            self.set_accept_enabled(drain.accepting and self.nr_conns < self.worker_connections)
            if not (drain.accepting or self.nr_conns):
                return
            self.notify()
            self.wait_for_and_dispatch_events(self._pause(drain))
            self.murder_expired()
        self._cut()

    def _pause(self, drain: Drain) -> float:
        """Seconds until something is due, at most 1."""
        waiting = [
            conns[0].timeout for conns in (self.keepalived_conns, self.pending_conns, self.parting) if conns
        ]
        return max(
            0.0, min(min(waiting, default=drain.end), drain.end, time.monotonic() + 1.0) - time.monotonic()
        )

    def _cut(self) -> None:
        """End what the grace did not. A thread cannot be cancelled: its next write fails, so that the app's
        ``finally`` blocks run, and the client sees the end without a last chunk."""
        if self.in_hand:
            self.say_cut()
        for conn in self.serving:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(conn.sock, socket.SHUT_RDWR)
        until = time.monotonic() + TIDY
        while self.serving and time.monotonic() < until:
            self.wait_for_and_dispatch_events(until - time.monotonic())
