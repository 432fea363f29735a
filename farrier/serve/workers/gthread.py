"""Gunicorn's threaded worker, with a stop that loses nothing.

Gunicorn's own keeps a thread busy for up to 5 s with a connection that has not sent a byte (with TLS for as
long as the client likes) and drops it when that time ends during a stop; its main loop waits up to 2 s for
each client whose connection it ends; and it resets connections at ``max_requests`` (gunicorn #3038).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import time
from functools import partial
from itertools import takewhile
from selectors import EVENT_READ
from typing import Any

from gunicorn.workers.gthread import DEFAULT_WORKER_DATA_TIMEOUT, TConn
from gunicorn.workers.gthread import ThreadWorker as GunicornThreadWorker

from farrier.serve.board import DRAINING
from farrier.serve.workers.accepting import accept
from farrier.serve.workers.base import FarrierWorker
from farrier.serve.workers.drain import LINGER, LOOK, TIDY, Drain, end_for_sure, has_bytes
from farrier.serve.workers.response import UNREAD_MOST, decide_late
from farrier.serve.workers.room import AT_ONCE, CROWDED, OUT_OF_FILES, descriptors
from farrier.serve.workers.share import AGAIN, Share

#: Seconds that a client has to close its side, once it has been told to; during a stop those without a word.
PARTING, SILENCE = 2.0, 0.5
#: What handle() returns of a connection that has no request yet.
WAITS = object()


class ThreadWorker(FarrierWorker, GunicornThreadWorker):
    """``worker_class`` gthread."""

    interface = "wsgi"

    worker_connections: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Connections that a thread has, and those of them with an HTTP/2 request in hand.
        self.serving: set[Any] = set()
        self.streaming: set[Any] = set()
        self.parting: set[Any] = set()
        self.drain: Drain | None = None
        #: When to try again: the process was out of file descriptors, or a newcomer was left to a sibling.
        self.accept_again = self.look_again = 0.0
        self.share: Share
        self._thinned = 0.0

    def handle_request(self, req: Any, conn: Any) -> Any:
        token = self.take_up(req.method, req.uri)
        try:
            return super().handle_request(req, conn)
        finally:
            self.count_wsgi(req, self.put_down(token))

    def handle_http2_request(self, req: Any, conn: Any, h2_conn: Any) -> None:
        token = self.take_up(req.method, req.uri)
        self.streaming.add(conn)
        try:
            super().handle_http2_request(req, conn, h2_conn)
        finally:
            self.streaming.discard(conn)
            self.count_wsgi(req, self.put_down(token))

    # --- connections ------------------------------------------------------------------------------

    def accept(self, listener: Any) -> None:
        """Gunicorn's would have a thread wait for the first byte; the poller waits for it here."""
        if self.share.leaves(self.nr_conns):
            self.set_accept_enabled(False)
            self.look_again = time.monotonic() + AGAIN
            return
        try:
            client, address = accept(listener)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                # Out of file descriptors: the queue holds the connection until there is room.
                self.set_accept_enabled(False)
                self.accept_again = time.monotonic() + OUT_OF_FILES
            return
        self.nr_conns += 1
        self._await_request(TConn(self.cfg, client, address, listener.getsockname()))

    def _has_room(self) -> bool:
        full = self.nr_conns >= self.worker_connections
        return not full and time.monotonic() >= self.accept_again

    def _look_for_newcomers(self) -> float:
        """Listens if they are welcome; seconds until that is to be asked again."""
        has_room = self._has_room()
        self.share.tell(self.nr_conns if has_room else None)
        aside = self.look_again - time.monotonic()
        self.set_accept_enabled(has_room and aside <= 0)
        return max(0.0, aside) if has_room and aside > 0 else 1.0

    def _last_look(self) -> None:
        """Those who were just left to siblings, which may drain as well, are taken."""
        if self.share.end():
            for listener in self.sockets:
                for _ in range(AT_ONCE):
                    before = self.nr_conns
                    if self._has_room():
                        self.accept(listener)
                    if self.nr_conns == before:
                        break

    def _await_request(self, conn: Any) -> None:
        """A connection without a request: the poller waits for its first byte."""
        seconds = DEFAULT_WORKER_DATA_TIMEOUT + self.cfg.keepalive
        conn.timeout = time.monotonic() + (seconds if self.drain is None else min(seconds, self.drain.linger))
        conn.sock.setblocking(False)
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def handle(self, conn: Any) -> Any:
        """A TLS handshake is no request yet: its thread is free again until one begins to arrive."""
        if self.cfg.is_ssl and not conn.initialized:
            try:
                conn.sock.setblocking(True)
                conn.init()
            except OSError as error:
                if isinstance(error, ssl.SSLError) and error.args[0] != ssl.SSL_ERROR_EOF:
                    self.handle_error(None, conn.sock, conn.client, error)
                return False
            if not (conn.is_http2 or conn.sock.pending() or has_bytes(conn.sock.fileno())):
                return WAITS
        try:
            return super().handle(conn)
        except SystemExit as error:
            # The app's sys.exit() ends this request, and neither the thread nor the worker.
            self.handle_error(None, conn.sock, conn.client, error)
            return False

    def enqueue_req(self, conn: Any) -> None:
        self.serving.add(conn)
        super().enqueue_req(conn)

    def finish_request(self, conn: Any, fs: Any) -> None:
        self.serving.discard(conn)
        found = None if fs.cancelled() or fs.exception() else fs.result()
        if found is False:
            self.part(conn)
            return
        if found is WAITS:
            self._await_request(conn)
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
        conn.timeout = time.monotonic() + (PARTING if self.drain is None else SILENCE)
        self.parting.add(conn)

    def _hear_out(self, conn: Any, client: Any) -> None:
        try:
            # The bare socket's: of TLS nothing is to be understood any more.
            more = socket.socket.recv(client, 65536)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        if not more:
            self.parting.discard(conn)
            self._forget(conn)
        elif self.drain is not None:
            conn.timeout = time.monotonic() + SILENCE

    def _forget(self, conn: Any) -> None:
        with contextlib.suppress(OSError, KeyError, ValueError):
            self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def murder_expired(self) -> None:
        """Those that have been idle, silent or parting for too long."""
        now = time.monotonic()
        for conns in (self.keepalived_conns, self.pending_conns):
            for conn in takewhile(lambda one: one.timeout <= now, conns):
                if has_bytes(conn.sock.fileno()):
                    # Just in time: the poller comes to it next.
                    conn.timeout = now + LOOK
        self.murder_keepalived()
        self.murder_pending()
        for conn in [one for one in self.parting if one.timeout <= time.monotonic()]:
            self.parting.discard(conn)
            self._forget(conn)

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> None:
        if not self.wait_ready():
            return
        decide_late(self, UNREAD_MOST)
        self.worker_connections = min(self.worker_connections, descriptors())
        self.share = Share(self.slot, [listener.sock for listener in self.sockets], self.cfg.threads)
        self.poller.register(self.method_queue.fileno(), EVENT_READ, self.method_queue.run_callbacks)
        self.set_accept_enabled(True)
        self.mark_ready()
        while self.alive and self.is_parent_alive():
            self.notify()
            self.wait_for_and_dispatch_events(self._look_for_newcomers())
            if self.crowded:
                self._thin_out()
            self.murder_expired()
        self.alive = False
        self._drain()
        self.tpool.shutdown(wait=False)
        if self.serving:
            end_for_sure()

    @property
    def crowded(self) -> bool:  # type: ignore[override]
        return bool(self.nr_conns >= CROWDED * self.worker_connections)

    def _thin_out(self) -> None:
        """Idle connections end after the linger instead of ``keepalive``: newcomers need their places."""
        now = time.monotonic()
        if now - self._thinned >= 1.0:
            self._thinned = now
            self._cap_keepalive(now + LINGER)

    def handle_quit(self, sig: int, frame: Any) -> None:
        end_for_sure()
        super().handle_quit(sig, frame)

    def _drain(self) -> None:
        drain = self.drain = Drain(self.cfg.graceful_timeout, self.slot is not None and self.slot.alone)
        if self.slot is not None:
            self.slot.stage = DRAINING
        self._last_look()
        for conn in (*self.keepalived_conns, *self.pending_conns):
            conn.timeout = min(conn.timeout, drain.began + drain.linger)
        for conn in self.parting:
            conn.timeout = min(conn.timeout, drain.began + SILENCE)
        while not drain.over:
            drain.look([*self.keepalived_conns, *self.pending_conns])
            self.set_accept_enabled(drain.accepting and self._has_room())
            if not (drain.accepting or self.nr_conns):
                return
            self.notify()
            self.wait_for_and_dispatch_events(self._pause(drain))
            self.murder_expired()
            if time.monotonic() >= drain.began + drain.linger:
                self._end_idle_http2()
        self._cut()

    def _end_idle_http2(self) -> None:
        """Its thread waits in a read, and sees the end of it. What came before that is still answered."""
        for conn in self.serving:
            if conn.is_http2 and conn not in self.streaming:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(conn.sock, socket.SHUT_RD)

    def _pause(self, drain: Drain) -> float:
        """Seconds until something is due, at most 1."""
        due: list[float] = [
            conns[0].timeout for conns in (self.keepalived_conns, self.pending_conns) if conns
        ]
        due += [conn.timeout for conn in self.parting]
        now = time.monotonic()
        return max(0.0, min(*due, drain.end, now + 1.0) - now)

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
