"""WSGI in greenlets: Gunicorn's async worker with farrier's accepting and a stop that loses nothing.

Built on the class below Gunicorn's own gevent worker, because that one's module imports gevent, and the
master imports this. Gevent is imported, and the standard library patched, in the worker after the fork
and before the app is loaded; so nothing may be preloaded (sizing sees to it).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gunicorn import sock
from gunicorn.workers.base_async import AsyncWorker

from farrier.health.wsgi import HealthMiddleware
from farrier.serve import apps, diagnosis
from farrier.serve.board import DRAINING
from farrier.serve.endings import WORKER_BOOT_ERROR
from farrier.serve.workers.base import FarrierWorker
from farrier.serve.workers.drain import LOOK, TIDY, Drain
from farrier.serve.workers.response import decide_late

if TYPE_CHECKING:
    from farrier.serve.workers.greenlets import Connection

if find_spec("gevent") is None:
    raise ImportError("worker_class gevent needs the package gevent: add it to the app's requirements")

#: As Gunicorn's own gevent worker has it.
LEAST_GEVENT = (24, 10, 1)


class GeventWorker(FarrierWorker, AsyncWorker):
    """``worker_class`` gevent."""

    interface = "wsgi"

    worker_connections: int
    sockets: list[Any]
    acceptor: Any = None
    health: HealthMiddleware
    quick = False
    _tls: Any = None
    _turns: Any = None

    def init_process(self) -> None:
        import gevent
        from gevent import hub, monkey

        if _release(gevent.__version__) < LEAST_GEVENT:
            least = ".".join(map(str, LEAST_GEVENT))
            message = f"worker_class gevent needs gevent {least} or newer, not {gevent.__version__}"
            self.refuse(message, WORKER_BOOT_ERROR)
        monkey.patch_all()
        hub.reinit()
        super().init_process()

    def around(self, app: Any) -> Any:
        self.health = HealthMiddleware(apps.WSGIRequest(app))
        return self.health

    def timeout_ctx(self) -> Any:
        import gevent

        return gevent.Timeout(self.cfg.keepalive, False)

    # --- serving ----------------------------------------------------------------------------------

    def run(self) -> None:
        if not self.wait_ready():
            return
        import gevent
        from gevent.lock import Semaphore

        from farrier.serve.workers import greenlets

        if self.cfg.is_ssl:
            self._tls = greenlets.tls(sock.ssl_context(self.cfg))
        decide_late(self)
        # One for each request that the plan has memory for; further ones wait, first come, first served.
        self._turns = Semaphore(max(1, self.worker_connections))
        self.acceptor = greenlets.GreenletAcceptor(self, self._serve)
        self.acceptor.start()
        self.mark_ready()
        while self._goes_on():
            self.notify()
            self.acceptor.balance()
            gevent.sleep(0.1)
        if self.quick:
            self.cfg.worker_int(self)
        else:
            self._drain()

    def _goes_on(self) -> bool:
        if self.alive and self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            self.alive = False
        return self.alive

    def _serve(self, connection: Connection, listener: Any, address: Any) -> None:
        if self._tls is not None:
            connection.secure(self._tls)
        self.handle(listener, connection.client, address)

    def handle_request(self, listener_name: Any, req: Any, client: Any, addr: Any) -> Any:
        from gevent import GreenletExit

        try:
            with self._in_hand(req, client.connection):
                super().handle_request(listener_name, req, client, addr)
            if self.cfg.keepalive:
                self._discard(req)
            return True
        except GreenletExit:
            # Not done within the grace: see _drain().
            raise StopIteration from None
        except StopIteration:
            # The last one on this connection: bytes left unread would make the kernel reset it.
            self._discard(req)
            raise
        finally:
            client.connection.end(bool(req.unreader.buf.getvalue()))

    def _discard(self, req: Any) -> None:
        """A body that the app left unread, here already, so that it is not taken for another request."""
        with self.timeout_ctx():
            while not getattr(req.body, "failed", False) and req.body.read(8192):
                pass

    def handle_http2(self, listener: Any, client: Any, addr: Any, **more: Any) -> None:
        client.connection.frames = True
        super().handle_http2(listener, client, addr, **more)

    def handle_http2_request(self, listener_name: Any, req: Any, client: Any, addr: Any, h2: Any) -> None:
        try:
            with self._in_hand(req, client.connection):
                super().handle_http2_request(listener_name, req, client, addr, h2)
        finally:
            client.connection.end()

    @contextlib.contextmanager
    def _in_hand(self, req: Any, connection: Connection) -> Iterator[None]:
        connection.begin(f"{req.method} {req.uri}")
        token = self.take_up(req.method, req.uri)
        # Whether it is alive must be answered by a full worker too.
        turn = contextlib.nullcontext() if req.path in self.health.answers else self._turns
        try:
            with turn:
                yield
        finally:
            self.count_wsgi(req, self.put_down(token))
            self.acceptor.resume()

    # --- the end ----------------------------------------------------------------------------------

    @property
    def crowded(self) -> bool:  # type: ignore[override]
        return self.acceptor is not None and self.acceptor.crowded

    def handle_quit(self, sig: int, frame: Any) -> None:
        """QUIT and INT: what is in hand is dropped. The main loop says so, where logging may wait."""
        self.quick, self.alive = True, False

    def handle_abort(self, sig: int, frame: Any) -> None:
        """The greenlet that hangs would take SystemExit as its app's error: say it, then really end."""
        try:
            super().handle_abort(sig, frame)
        finally:
            os._exit(1)

    def stacks(self) -> str:
        """For the diagnosis: requests that wait, then the threads, whose innermost call is what hangs."""
        connections = self.acceptor.connections if self.acceptor is not None else ()
        waiting = "\n".join(filter(None, (one.stack() for one in connections)))
        return f"{waiting[: diagnosis.MOST_TEXT // 2]}\n{diagnosis.stacks()}"

    def _drain(self) -> None:
        """A graceful stop, until no connection is left or the grace is over. Gunicorn's own class waits for
        idle connections as for requests (gunicorn #3227)."""
        import gevent

        connections = self.acceptor.connections
        drain = Drain(self.cfg.graceful_timeout, self.slot is not None and self.slot.alone)
        if self.slot is not None:
            self.slot.stage = DRAINING
        self.acceptor.last_look()
        while not (self.quick or drain.over):
            for connection in drain.look([one for one in connections if one.idle]):
                connection.hang_up()
            if drain.accepting:
                self.acceptor.balance()
            else:
                self.acceptor.close()
                if not connections:
                    return
            self.notify()
            gevent.sleep(LOOK)
        self.acceptor.close()
        if self.quick:
            self.cfg.worker_int(self)
            return
        if self.in_hand:
            self.say_cut()
        # So that the app's own finally blocks run.
        gevent.killall([one.greenlet for one in connections if one.busy], timeout=TIDY)


def _release(version: str) -> tuple[int, ...]:
    """``26.9.0rc1`` as (26, 9, 0)."""
    return tuple(int(part) for part in re.findall(r"(?:^|\.)(\d+)", version))
