"""Uvicorn under Gunicorn, with a stop that loses nothing. Needs the package uvicorn, nothing else."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from email.utils import formatdate
from typing import Any

from gunicorn.workers.base import Worker

from farrier.serve.endings import WORKER_BOOT_ERROR
from farrier.serve.log import request_fields
from farrier.serve.workers.loop import LoopAcceptor, LoopWorker
from farrier.serve.workers.share import Connections

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
        self.server_state.connections = worker.connections
        self.servers: list[Any] = []

    async def run_worker(self) -> None:
        """From the app's startup to its shutdown."""
        worker = self.worker
        if not self.config.loaded:
            self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        if not await worker.starts(self.lifespan.startup()):
            return
        if self.lifespan.should_exit:
            worker.refuse("the app's startup failed (its own message is above)", WORKER_BOOT_ERROR)
        grace = worker.cfg.graceful_timeout
        if await worker.wait_ready_async():
            acceptor = worker.acceptor = self.acceptor()
            self.started = True
            acceptor.start()
            worker.mark_ready()
            while await worker.tick():
                acceptor.balance()
            grace = (await worker.drain(acceptor)).left
        if not worker.quick:
            await self.finish(grace)

    def acceptor(self) -> LoopAcceptor:
        def protocol() -> asyncio.Protocol:
            made: Any = self.config.http_protocol_class(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            made.app = Asked(made, self.worker)
            return made  # type: ignore[no-any-return]

        return LoopAcceptor(
            self.worker, [listener.sock for listener in self.worker.sockets], protocol, self.config.ssl
        )

    def set_headers(self) -> None:
        """The headers of every response, in place: requests in hand hold this very list."""
        date = [(b"date", formatdate(usegmt=True).encode())] if self.config.date_header else []
        self.server_state.default_headers[:] = [*date, *self.config.encoded_headers]

    async def finish(self, grace: float) -> None:
        """The app's shutdown, within what is left of the grace."""
        try:
            await asyncio.wait_for(self.lifespan.shutdown(), grace)
        except asyncio.TimeoutError:
            self.worker.log.error("The app's shutdown did not end within %.1f s", grace)


class Asked:
    """The app for one connection: tells the worker whose request comes next, see ``announced``."""

    __slots__ = ("app", "connection", "worker")

    def __init__(self, connection: Any, worker: UvicornWorker) -> None:
        self.connection = connection
        self.worker = worker
        self.app = connection.app

    def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        # Uvicorn's own layer, which is all that is between here and Calls, waits for nothing.
        self.worker.asking = self.connection
        return self.app(scope, receive, send)


class UvicornWorker(LoopWorker, Worker):
    """``worker_class`` uvicorn. Event loop and parser are uvicorn's ``auto``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connections = Connections()
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

    def notify(self) -> None:
        if self.server is not None and self.server.started:
            self.server.set_headers()
        super().notify()

    @property
    def served(self) -> int:
        return self.nr if self.server is None else int(self.server.server_state.total_requests)

    def is_idle(self, connection: Any) -> bool:
        if not hasattr(connection, "cycle"):
            # A websocket never is.
            return False
        cycle = connection.cycle
        return (cycle is None or cycle.response_complete) and not has_more(connection)

    def announced(self, message: dict[str, Any], connection: Any) -> dict[str, Any]:
        """Uvicorn's own stop ends a connection after a response that promised to keep it (uvicorn #2757)."""
        if connection is None or connection.cycle.more_body or has_more(connection):
            # Not come as a whole, or another one behind it.
            return message
        return {**message, "headers": [*message.get("headers", ()), CLOSE]}

    def is_kept(self, connection: Any) -> bool:
        cycle = getattr(connection, "cycle", None)
        return cycle is not None and cycle.response_complete

    async def _cut(self) -> None:
        _hush()
        await super()._cut()

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
            if self.quick:
                _hush()
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

    def answered(self, scope: dict[str, Any], seconds: float, sent: Any) -> None:
        """The access line, as the other classes have it: ``access_log_format``, JSON, statsd."""
        log = self.log
        if self.cfg.statsd_host or not getattr(log, "structured_access", False):
            if log.access_log_enabled or self.cfg.statsd_host:
                response = _Response(sent.status, sent.headers, sent.size)
                log.access(response, scope_headers(scope), environ(scope), timedelta(seconds=seconds))
        elif log.access_log_enabled:
            log.say_request(fields_of(scope, seconds, sent))


class _Response:
    """What Gunicorn's logger reads of a response."""

    def __init__(self, status: Any, headers: Any, sent: int) -> None:
        self.status = str(status if status is not None else 500)
        self.sent = sent
        self.headers = [(_text(name), _text(value)) for name, value in headers]


def fields_of(scope: dict[str, Any], seconds: float, sent: Any) -> dict[str, Any]:
    """As log.access_fields(), straight from what ASGI says."""
    agent = referer = None
    for name, value in scope["headers"]:
        if name == b"user-agent":
            agent = value.decode("latin-1")
        elif name == b"referer":
            referer = value.decode("latin-1")
    client = scope.get("client")
    status = 500 if sent.status is None else int(sent.status)
    return request_fields(
        scope["method"], _target(scope), status, sent.size, seconds,
        client[0] if client else None, agent, referer, sent.request_id,
    )  # fmt: skip


def _target(scope: dict[str, Any]) -> str:
    """The request's path as the client wrote it, with its query."""
    query = scope.get("query_string", b"")
    path = _text(scope.get("raw_path") or scope["path"])
    return f"{path}?{_text(query)}" if query else path


def _text(raw: bytes | str) -> str:
    return raw if isinstance(raw, str) else bytes(raw).decode("latin-1")


def scope_headers(scope: dict[str, Any]) -> list[tuple[str, str]]:
    return [(_text(name), _text(value)) for name, value in scope["headers"]]


def environ(scope: dict[str, Any]) -> dict[str, Any]:
    """What Gunicorn's logger reads of a request, by WSGI's names."""
    found = {
        "REQUEST_METHOD": scope["method"],
        "RAW_URI": _target(scope),
        "PATH_INFO": scope["path"],
        "QUERY_STRING": _text(scope.get("query_string", b"")),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": scope["client"][0] if scope.get("client") else "",
    }
    for name, value in scope_headers(scope):
        found["HTTP_" + name.upper().replace("-", "_")] = value
    return found


def has_more(connection: Any) -> bool:
    """Whether bytes of a request have come behind the one in hand, or the last one."""
    if hasattr(connection, "pipeline"):
        # httptools: a scope is made at a request's first byte and the cycle at the end of its headers.
        scope, cycle = connection.scope, connection.cycle
        return bool(connection.pipeline) or (
            scope is not None and (cycle is None or scope is not cycle.scope)
        )
    return bool(connection.conn.trailing_data[0])


def _hush() -> None:
    """Of every request that is cut uvicorn would log a traceback; they are named already."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)


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
