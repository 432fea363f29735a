"""Every call of an ASGI app: what farrier puts around a request, and what goes on when a stop comes.

A request has one coroutine of farrier's around it and none around what the app sends: four layers, each with
both, cost an eighth of what uvicorn itself takes.

ASGI has no word for "the server stops": a websocket is closed for the app by the message that it would send
itself, which every server implementation takes (Gunicorn's, ``websockets``, ``wsproto``). Uvicorn's own stop
writes the close frame and ends TCP in the same breath, at its beginning (uvicorn #1140).
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable
from typing import Any

from farrier.health.asgi import ASGIApp, HealthMiddleware, Receive, Scope, Send
from farrier.serve.apps import request_id
from farrier.serve.workers.drain import FAREWELL, TIDY

#: RFC 6455, registered with IANA: the service restarts; a client may come back.
SERVICE_RESTART = 1012


class Restarting(OSError):
    """What an app gets that sends on a websocket after it was closed; ASGI wants an OSError."""


class Exited(RuntimeError):
    """In place of SystemExit, which asyncio lets end the loop, and with it everybody's requests."""

    def __init__(self, code: Any) -> None:
        super().__init__(f"the app called sys.exit({code!r}) in a request")


class Websocket:
    """One websocket, as seen between the app and the server."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.name = str(scope["path"])
        self._send = send
        self.accepted = self.closed = False
        self.goodbye: asyncio.Task[None] | None = None

    async def send(self, message: dict[str, Any]) -> None:
        if self.goodbye is not None:
            raise Restarting("the server restarts; this websocket is closed")
        await self._send(message)
        self.accepted = self.accepted or message["type"] == "websocket.accept"
        self.closed = self.closed or message["type"] == "websocket.close"

    def say_goodbye(self) -> bool:
        """The close frame, and the wait for the client's own; False when there is nobody to say it to."""
        if self.closed or not self.accepted or self.goodbye is not None:
            return False
        self.goodbye = asyncio.get_running_loop().create_task(self._close())
        return True

    async def _close(self) -> None:
        # Neither an app's send() that waits for a slow client nor one that never answers may hold it up.
        message = {"type": "websocket.close", "code": SERVICE_RESTART, "reason": "service restart"}
        try:
            await asyncio.wait_for(self._send(message), FAREWELL)
        except (OSError, RuntimeError, asyncio.TimeoutError):
            # The client left, or closed it at the same moment.
            return


class Turns:
    """As asyncio.Semaphore, first come, first served; without a coroutine where nobody has to wait."""

    def __init__(self, most: int) -> None:
        self.free = most
        self.waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Whether there was one free."""
        if not self.free:
            return False
        self.free -= 1
        return True

    async def wait(self) -> None:
        """For one that somebody gives back, which is handed over at once."""
        turn = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # It came at the same moment: to the next.
                self.give()
            raise

    def give(self) -> None:
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1


class Sent:
    """What of a response has gone by, and its id put in."""

    __slots__ = ("connection", "headers", "request_id", "send", "size", "status", "worker")
    #: It answers what ``send`` does, an awaitable: as good as a coroutine function for who asks (asgiref).
    #: Until Python 3.12 brought a function for it, this was the mark that asyncio looks for.
    _is_coroutine = getattr(asyncio.coroutines, "_is_coroutine", None)

    def __init__(self, send: Send, request_id: str, worker: Any, connection: Any = None) -> None:
        self.send, self.request_id = send, request_id
        self.worker, self.connection = worker, connection
        self.status: Any = None
        self.headers: list[Any] = []
        self.size = 0

    def __call__(self, message: dict[str, Any]) -> Awaitable[None]:
        kind = message["type"]
        if kind == "http.response.body":
            self.size += len(message.get("body", b""))
        elif kind == "http.response.start":
            headers = list(message.get("headers", ()))
            for name, value in headers:
                if len(name) == 12 and bytes(name).lower() == b"x-request-id":
                    self.request_id = bytes(value).decode("latin-1")
                    break
            else:
                headers.append((b"x-request-id", self.request_id.encode("latin-1", "replace")))
                message = {**message, "headers": headers}
            self.status, self.headers = message["status"], headers
            if self.worker.announces:
                message = self.worker.announced(message, self.connection)
        return self.send(message)


if hasattr(inspect, "markcoroutinefunction"):
    inspect.markcoroutinefunction(Sent)


def identified(scope: Scope) -> tuple[Scope, str]:
    """The scope with the request's id among its headers, and the id: the client's own or a new one."""
    headers = scope["headers"]
    for name, value in headers:
        if name == b"x-request-id":
            return scope, request_id(value.decode("latin-1"))
    chosen = request_id(None)
    return {**scope, "headers": [*headers, (b"x-request-id", chosen.encode())]}, chosen


class Calls:
    """The one layer around the app: health paths, request ids, turns, what is in hand and counted."""

    def __init__(self, app: ASGIApp, worker: Any) -> None:
        self.app = app
        self.worker = worker
        self.health = HealthMiddleware(app)
        self.going: dict[asyncio.Task[Any], Websocket | None] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        kind = scope["type"]
        if kind == "http":
            return self._request(scope, receive, send)
        return (
            self._websocket(scope, receive, send)
            if kind == "websocket"
            else self._other(scope, receive, send)
        )

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - servers run every call in a task
        self.going[task] = None
        health, worker = self.health, self.worker
        connection = worker.asking
        try:
            if scope["path"] in health.paths:
                await health.answer(scope, self._announcing(send, connection))
                return
            health.served.requests += 1
            scope, chosen = identified(scope)
            sent = Sent(send, chosen, worker, connection)
            token = worker.take_up(scope["method"], scope["path"], scope.get("query_string", b""))
            turns, mine = worker.turns, False
            try:
                mine = turns.take()
                if not mine:
                    await turns.wait()
                    mine = True
                await self.app(scope, receive, sent)
            finally:
                if mine:
                    turns.give()
                seconds = worker.put_down(token, chosen)
                worker.count(seconds, sent.status)
                worker.answered(scope, seconds, sent)
        except SystemExit as error:
            raise Exited(error.code) from error
        finally:
            del self.going[task]

    def _announcing(self, send: Send, connection: Any) -> Send:
        """``send`` for an answer that has no Sent around it."""
        worker = self.worker

        def answer(message: dict[str, Any]) -> Awaitable[None]:
            if message["type"] == "http.response.start" and worker.announces:
                message = worker.announced(message, connection)
            return send(message)

        return answer

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - as above
        self.going[task] = None
        try:
            await self.app(scope, receive, send)
        except SystemExit as error:
            raise Exited(error.code) from error
        finally:
            del self.going[task]

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - as above
        websocket = self.going[task] = Websocket(scope, send)
        try:
            await self.app(scope, receive, websocket.send)
        except SystemExit as error:
            raise Exited(error.code) from error
        except Exception:
            # What an app makes of a websocket that is closed under it is nobody's mistake.
            if websocket.goodbye is None:
                raise
        finally:
            del self.going[task]
            if websocket.goodbye is not None:
                # The server would end TCP as soon as the app has returned.
                await asyncio.wait({websocket.goodbye})

    def say_goodbye(self) -> int:
        """Tell the clients of all websockets that the service restarts; how many."""
        return sum(one.say_goodbye() for one in self.going.values() if one is not None)

    async def cut(self) -> None:
        """Cancel what goes on, and give its ``finally`` blocks a moment."""
        tasks = set(self.going)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=TIDY)
