"""Health for ASGI apps (asgi, uvicorn). Lifespan and websockets pass through untouched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from farrier.health.checks import checks_in_force, run_checks_async
from farrier.health.report import Answer, Served, alive, health_path, near, readiness, wrong_method

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

#: What a proxy adds: the answer goes on to somebody else.
FORWARDED = (b"x-forwarded-for", b"forwarded", b"x-real-ip")


class HealthMiddleware:
    """Answers the three health paths and passes everything else to ``app`` untouched."""

    def __init__(self, app: ASGIApp, path: str | None = None) -> None:
        self.app = app
        self.path = health_path(path)
        self.served = Served()
        self.paths = {f"{self.path}{end}" for end in ("", "/worker", "/ready")} if self.path else set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] in self.paths:
            await self.answer(scope, send)
        else:
            self.served.requests += 1
            await self.app(scope, receive, send)

    async def answer(self, scope: Scope, send: Send) -> None:
        """To a request for one of the ``paths``."""
        await self._reply(await self._answer(scope), scope, send)

    async def _answer(self, scope: Scope) -> Answer:
        if scope["method"] not in ("GET", "HEAD"):
            return wrong_method()
        if scope["path"] == self.path:
            return alive()
        if scope["path"].endswith("/worker"):
            return self.served.answer()
        client = scope.get("client")
        forwarded = any(bytes(name).lower() in FORWARDED for name, _ in scope["headers"])
        full = near(client[0] if client else None, forwarded)
        return readiness(await run_checks_async(checks_in_force()), full)

    async def _reply(self, answer: Answer, scope: Scope, send: Send) -> None:
        headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})
