"""Uvicorn under Gunicorn, with a stop that loses nothing. Needs the package uvicorn, nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from datetime import timedelta
from email.utils import formatdate
from typing import Any

from gunicorn.workers.base import Worker

from farrier.serve.endings import WORKER_BOOT_ERROR
from farrier.serve.workers.drain import Acceptor, drain
from farrier.serve.workers.loop import LoopWorker

try:
    import uvicorn
except ImportError as error:
    raise ImportError(
        "worker_class uvicorn needs the package uvicorn: add it to the app's requirements"
    ) from error

CLOSE = (b"connection", b"close")


class Server(uvicorn.Server):
    """Uvicorn's server without its own signals, sockets and clock: the worker has these."""

    def __init__(self, config: Any, worker: UvicornWorker) -> None:
        super().__init__(config)
        self.worker = worker
        self.servers: list[Any] = []
        self._asked: set[Any] = set()

    @property
    def connections(self) -> Collection[Any]:
        return self.server_state.connections  # type: ignore[no-any-return]

    async def run_worker(self) -> None:
        """From the app's startup to its shutdown."""
        worker = self.worker
        if not self.config.loaded:
            self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            worker.refuse("the app's startup failed (its own message is above)", WORKER_BOOT_ERROR)
        if await worker.wait_ready_async():
            self.set_headers()
            acceptor = worker.acceptor = self.acceptor()
            acceptor.start()
            self.started = True
            worker.mark_ready()
            tick = 0
            while await worker.tick():
                tick += 1
                if tick % 10 == 0:
                    self.set_headers()
                    worker.notify()
                acceptor.balance()
            await self.drain(acceptor)
        if not worker.quick:
            await self.finish()

    def acceptor(self) -> Acceptor:
        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = self.config.http_protocol_class(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        return Acceptor(
            [listener.sock for listener in self.worker.sockets],
            protocol,
            self.config.ssl,
            self.worker.cfg.worker_connections,
            count=lambda: len(self.connections),
            idle=lambda: sum(map(_is_idle, self.connections)),
            asking=lambda: len(self.worker.in_hand),
        )

    def set_headers(self, *more: tuple[bytes, bytes]) -> None:
        """The headers of every response, in place: requests in hand hold this very list."""
        date = [(b"date", formatdate(usegmt=True).encode())] if self.config.date_header else []
        self.server_state.default_headers[:] = [*date, *self.config.encoded_headers, *more]

    async def drain(self, acceptor: Acceptor) -> None:
        acceptor.close()
        self.worker.start_draining()
        # Responses that have not begun announce the close; those that have end as they promised.
        self.set_headers(CLOSE)
        graceful = self.worker.cfg.graceful_timeout
        await drain(
            lambda: self.connections or acceptor.handshaking,
            self.close_idle,
            self.worker.notify,
            lambda: self.worker.quick,
            graceful,
        )
        if self.connections and not self.worker.quick:
            self.worker.say_cut()

    def close_idle(self) -> None:
        for connection in [one for one in self.connections if one not in self._asked]:
            self._asked.add(connection)
            # Uvicorn's own: closes an idle connection, lets one with a request finish, ends a websocket.
            connection.shutdown()

    async def finish(self) -> None:
        """Background tasks of the app, then its shutdown, within what is left of the grace."""
        tasks = list(self.server_state.tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self.worker.cfg.graceful_timeout)
            for task in late:
                task.cancel()
        try:
            await asyncio.wait_for(self.lifespan.shutdown(), self.worker.cfg.graceful_timeout)
        except asyncio.TimeoutError:
            self.worker.log.error(
                "The app's shutdown did not end within %s s", self.worker.cfg.graceful_timeout
            )


class UvicornWorker(LoopWorker, Worker):
    """``worker_class`` uvicorn. Event loop and parser are uvicorn's ``auto``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server: Server | None = None

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        if cfg.threads > 1:
            log.warning("worker_class uvicorn has no threads of its own: threads=%d is not used", cfg.threads)

    def init_signals(self) -> None:
        """Until the loop runs a signal ends the worker: it has nothing in hand yet."""
        import signal

        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGABRT, self.handle_abort)
        signal.signal(signal.SIGUSR1, self.handle_usr1)

    @property
    def served(self) -> int:
        return self.nr if self.server is None else int(self.server.server_state.total_requests)

    def run(self) -> None:
        self._share_log()
        config = self._config()
        self.server = Server(config, self)
        make = _loop_factory(config)
        loop = make() if make is not None else asyncio.new_event_loop()
        try:
            asyncio.set_event_loop(loop)
            loop.run_until_complete(self._serve(loop))
        finally:
            self.nr = self.served
            self.alive = False
            _close(loop)

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        self.watch_signals(loop)
        assert self.server is not None  # noqa: S101 - set by run()
        await self.server.run_worker()

    def _config(self) -> Any:
        given: dict[str, Any] = {
            "app": self.wsgi,
            "interface": "asgi3",
            "log_config": None,
            # Requests are logged by the worker, through Gunicorn's logger: see answered().
            "access_log": False,
            "timeout_keep_alive": self.cfg.keepalive,
            "forwarded_allow_ips": self._trusted(),
            "root_path": self.cfg.root_path if "root_path" in self.cfg.settings else "",
        }
        if self.cfg.is_ssl:
            options = self.cfg.ssl_options
            given["ssl_keyfile"], given["ssl_certfile"] = options["keyfile"], options["certfile"]
            given["ssl_ca_certs"], given["ssl_cert_reqs"] = options["ca_certs"], options["cert_reqs"]
            if options["ciphers"]:
                given["ssl_ciphers"] = options["ciphers"]
        return uvicorn.Config(**given)

    def _trusted(self) -> Any:
        """Behind a unix socket the peer is a process of this host, which Gunicorn trusts as well."""
        if all(str(listener).startswith("unix:") for listener in self.sockets):
            return "*"
        return list(self.cfg.forwarded_allow_ips)

    def _share_log(self) -> None:
        log = logging.getLogger("uvicorn.error")
        log.handlers = self.log.error_log.handlers
        log.setLevel(max(self.log.error_log.level, logging.WARNING))
        log.propagate = False

    def answered(self, scope: dict[str, Any], seconds: float, status: Any, headers: Any, size: int) -> None:
        """The access line, as the other classes have it: ``access_log_format``, JSON, statsd."""
        if not (self.log.access_log_enabled or self.cfg.statsd_host):
            return
        response = _Response(status, headers, size)
        self.log.access(response, scope_headers(scope), environ(scope), timedelta(seconds=seconds))


class _Response:
    """What Gunicorn's logger reads of a response."""

    def __init__(self, status: Any, headers: Any, sent: int) -> None:
        self.status = str(status if status is not None else 500)
        self.sent = sent
        self.headers = [(_text(name), _text(value)) for name, value in headers]


def _text(raw: bytes | str) -> str:
    return raw if isinstance(raw, str) else bytes(raw).decode("latin-1")


def scope_headers(scope: dict[str, Any]) -> list[tuple[str, str]]:
    return [(_text(name), _text(value)) for name, value in scope["headers"]]


def environ(scope: dict[str, Any]) -> dict[str, Any]:
    """What Gunicorn's logger reads of a request, by WSGI's names."""
    query = _text(scope.get("query_string", b""))
    path = _text(scope.get("raw_path") or scope["path"])
    found = {
        "REQUEST_METHOD": scope["method"],
        "RAW_URI": f"{path}?{query}" if query else path,
        "PATH_INFO": scope["path"],
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": scope["client"][0] if scope.get("client") else "",
    }
    for name, value in scope_headers(scope):
        found["HTTP_" + name.upper().replace("-", "_")] = value
    return found


def _is_idle(connection: Any) -> bool:
    """Kept alive, with its last request answered. A websocket and a connection without a request are not."""
    cycle = getattr(connection, "cycle", None)
    return cycle is not None and cycle.response_complete


def _loop_factory(config: Any) -> Any:
    """Uvicorn 0.36 and later hand out a factory; earlier ones set the policy themselves."""
    if hasattr(config, "get_loop_factory"):
        return config.get_loop_factory()
    config.setup_event_loop()
    return None


def _close(loop: asyncio.AbstractEventLoop) -> None:
    pending = asyncio.all_tasks(loop)
    for task in pending:
        task.cancel()
    if pending:
        loop.run_until_complete(asyncio.wait(pending, timeout=1.0))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
