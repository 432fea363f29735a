"""Every call of an ASGI app that goes on, so that a stop can end what the grace did not.

ASGI has no word for "the server stops": a websocket is closed for the app by the message that it would send
itself, which every server implementation takes (Gunicorn's, ``websockets``, ``wsproto``). Uvicorn's own stop
writes the close frame and ends TCP in the same breath, at its beginning (uvicorn #1140).
"""

from __future__ import annotations

import asyncio
from typing import Any

from farrier.health.asgi import ASGIApp, Receive, Scope, Send
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


class Calls:
    """The outermost layer around the app."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.going: dict[asyncio.Task[Any], Websocket | None] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - servers run every call in a task
        if scope["type"] != "websocket":
            self.going[task] = None
            try:
                await self.app(scope, receive, send)
            except SystemExit as error:
                raise Exited(error.code) from error
            finally:
                del self.going[task]
            return
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
