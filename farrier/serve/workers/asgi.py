"""Gunicorn's own asgi worker, with a stop that loses nothing and the planned backlog and limit."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from typing import Any

from gunicorn import sock
from gunicorn.asgi.lifespan import LifespanManager, LifespanStartupFailed
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers.gasgi import ASGIWorker as GunicornASGIWorker

from farrier.serve.endings import WORKER_BOOT_ERROR
from farrier.serve.workers.drain import Drain
from farrier.serve.workers.loop import LoopAcceptor, LoopWorker
from farrier.serve.workers.response import UNREAD_MOST
from farrier.serve.workers.share import Connections

#: The highest number of a stream (RFC 9113, section 5.1.1).
MOST_STREAMS = 2**31 - 1
#: Seconds to wait for the rest of a body that the app does not read.
UNREAD_WAIT = 2.0


class Protocol(ASGIProtocol):
    """Gunicorn's protocol; while its worker drains, the last response on a connection announces the close.

    Of a request that the app answers without reading its body (401, 404), Gunicorn's closes the connection
    that it has just promised to keep when the body comes a moment after the headers, and resets the client
    that is sending it. Here the rest is waited for, as in its own gthread.
    """

    #: Bytes of a request have come, and not all of it.
    begun = False

    def connection_made(self, transport: Any) -> None:
        self.worker.connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.connections.discard(self)
        super().connection_lost(exc)

    def _feed_callback_parser(self, data: bytes) -> Any:
        self.begun = True
        return super()._feed_callback_parser(data)

    def _on_message_complete(self) -> None:
        self.begun = False
        super()._on_message_complete()

    def _will_close(self, request: Any, response_requires_close: bool) -> bool:
        if super()._will_close(request, response_requires_close):
            return True
        if self._unread > UNREAD_MOST:
            return True
        # A request that came behind this one is answered as well.
        parser = self._callback_parser
        return bool(self.worker.announces and not (parser is not None and parser.remaining()))

    @property
    def _unread(self) -> float:
        """Bytes of the request's body at most, where it has not come as a whole: 0 if it has."""
        receiver = self._body_receiver
        # What speaks uwsgi reads a body only as the app asks for it, and Gunicorn discards the rest.
        if receiver is None or receiver._complete or receiver._source is not None:
            return 0
        request = receiver.request
        if getattr(request, "_expect_100_continue", False):
            # It may never come: its client waits to be asked for it.
            return math.inf
        return UNREAD_MOST if request.chunked else request.content_length or 0

    async def _serve_http_request(self, request: Any, sockname: Any, peername: Any) -> Any:
        kept = await super()._serve_http_request(request, sockname, peername)
        if 0 < self._unread < math.inf:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._discard(self._body_receiver), UNREAD_WAIT)
        return kept

    async def _discard(self, receiver: Any) -> None:
        while not receiver._complete:
            if (await receiver.receive())["type"] == "http.disconnect":
                return

    @property
    def idle(self) -> bool:
        """No request has begun."""
        return bool(self._awaiting_request and not self.begun)


class Lifespan(LifespanManager):
    """Gunicorn's gives up after 30 s, and its worker then takes requests for an app that has not started."""

    async def startup(self) -> None:
        await self._receive_queue.put({"type": "lifespan.startup"})
        asgi = {"version": "3.0", "spec_version": "2.4"}
        self._task = asyncio.create_task(
            self._run_lifespan({"type": "lifespan", "asgi": asgi, "state": self.state})
        )
        await self._startup_complete.wait()
        if self._startup_failed:
            self._task.cancel()
            kind = LifespanStartupFailed if self._startup_reported else RuntimeError
            raise kind(f"Lifespan startup failed: {self._startup_error or 'Unknown error'}")


class ASGIWorker(LoopWorker, GunicornASGIWorker):
    """``worker_class`` asgi."""

    lifespan: Lifespan | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connections = Connections()
        # Gunicorn's protocol would drop kept-alive connections at the limit: see due().
        self.max_requests = sys.maxsize

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.asgi = self.wsgi

    def init_signals(self) -> None:
        self.watch_signals(self.loop)

    def run(self) -> None:
        try:
            self.loop.run_until_complete(self._serve())
        finally:
            self._quick_shutdown = self.quick
            self._cleanup()

    async def _serve(self) -> None:
        await self._start_app()
        grace = self.cfg.graceful_timeout
        if await self.wait_ready_async():
            acceptor = self.acceptor = self._acceptor()
            acceptor.start()
            self.mark_ready()
            while await self.tick():
                acceptor.balance()
            grace = (await self.drain(acceptor)).left
        if self.lifespan is not None and not self.quick:
            try:
                await asyncio.wait_for(self.lifespan.shutdown(), grace)
            except Exception as error:  # noqa: BLE001 - the app's shutdown must not keep the worker
                self.log.error("The app's shutdown failed: %s", error or type(error).__name__)
        self.alive = False

    async def _start_app(self) -> None:
        if self.cfg.asgi_lifespan == "off":
            return
        self.lifespan = Lifespan(self.asgi, self.log, self.state)
        try:
            if not await self.starts(self.lifespan.startup()):
                self.lifespan = None
        except Exception as error:  # noqa: BLE001 - whatever the app raises means "no lifespan"
            self.lifespan = None
            if self.cfg.asgi_lifespan == "on" or isinstance(error, LifespanStartupFailed):
                self.refuse(f"the app's startup failed: {error}", WORKER_BOOT_ERROR)
            # Many apps know nothing of lifespan, which is no mistake.
            self.log.debug("The app does not speak lifespan: %s", error)

    def _acceptor(self) -> LoopAcceptor:
        context = sock.ssl_context(self.cfg) if self.cfg.is_ssl else None
        return LoopAcceptor(
            self, [listener.sock for listener in self.sockets], lambda: Protocol(self), context
        )

    async def drain(self, acceptor: LoopAcceptor) -> Drain:
        for connection in self.connections:
            # HTTP/2: as if the client had said that it will ask no more. GOAWAY follows what is in hand.
            http2 = getattr(connection, "_h2_conn", None)
            if http2 is not None:
                http2.draining, http2.peer_last_stream_id = True, MOST_STREAMS
        return await super().drain(acceptor)

    def is_idle(self, connection: Any) -> bool:
        return bool(connection.idle)

    def is_kept(self, connection: Any) -> bool:
        return bool(connection.idle and connection.req_count > 1)
