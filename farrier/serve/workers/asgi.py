"""Gunicorn's own asgi worker, with a stop that loses nothing and the planned backlog and limit."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from gunicorn import sock
from gunicorn.asgi.lifespan import LifespanManager, LifespanStartupFailed
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers.gasgi import ASGIWorker as GunicornASGIWorker

from farrier.serve.endings import WORKER_BOOT_ERROR
from farrier.serve.workers.drain import Acceptor, drain
from farrier.serve.workers.loop import LoopWorker


class Protocol(ASGIProtocol):
    """Gunicorn's protocol; while its worker drains, every response announces the close."""

    def connection_made(self, transport: Any) -> None:
        self.worker.connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.connections.discard(self)
        super().connection_lost(exc)

    def _will_close(self, request: Any, response_requires_close: bool) -> bool:
        return bool(self.worker.draining or super()._will_close(request, response_requires_close))

    @property
    def idle(self) -> bool:
        """Kept alive, with no request begun."""
        return bool(self._awaiting_request)


class ASGIWorker(LoopWorker, GunicornASGIWorker):
    """``worker_class`` asgi."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connections: set[Protocol] = set()
        self.draining = False
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
        if await self.wait_ready_async():
            acceptor = self.acceptor = self._acceptor()
            acceptor.start()
            self.mark_ready()
            while await self.tick():
                self.notify()
                acceptor.balance()
            await self._drain(acceptor)
        if self.lifespan is not None and not self.quick:
            try:
                await asyncio.wait_for(self.lifespan.shutdown(), self.cfg.graceful_timeout)
            except Exception as error:  # noqa: BLE001 - the app's shutdown must not keep the worker
                self.log.error("The app's shutdown failed: %s", error or type(error).__name__)
        self.alive = False

    async def _start_app(self) -> None:
        if self.cfg.asgi_lifespan == "off":
            return
        self.lifespan = LifespanManager(self.asgi, self.log, self.state)
        try:
            await self.lifespan.startup()
        except Exception as error:  # noqa: BLE001 - whatever the app raises means "no lifespan"
            self.lifespan = None
            if self.cfg.asgi_lifespan == "on" or isinstance(error, LifespanStartupFailed):
                self.refuse(f"the app's startup failed: {error}", WORKER_BOOT_ERROR)
            # Many apps know nothing of lifespan, which is no mistake.
            self.log.debug("The app does not speak lifespan: %s", error)

    def _acceptor(self) -> Acceptor:
        context = sock.ssl_context(self.cfg) if self.cfg.is_ssl else None
        return Acceptor(
            [listener.sock for listener in self.sockets],
            lambda: Protocol(self),
            context,
            self.worker_connections,
            count=lambda: len(self.connections),
            idle=lambda: sum(one.idle and one.req_count > 1 for one in self.connections),
            asking=lambda: len(self.in_hand),
        )

    async def _drain(self, acceptor: Acceptor) -> None:
        acceptor.close()
        self.start_draining()
        # Not ``alive``: Gunicorn's protocol would break its promise to keep a connection.
        self.draining = True

        def close_idle() -> None:
            for protocol in list(self.connections):
                if protocol.idle and protocol.transport is not None:
                    protocol.transport.close()

        done = await drain(
            lambda: self.connections or acceptor.handshaking,
            close_idle,
            self.notify,
            lambda: self.quick,
            self.cfg.graceful_timeout,
        )
        if not done and not self.quick:
            self.say_cut()
