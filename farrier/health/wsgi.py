"""Health for WSGI apps (sync, gthread, gevent)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from farrier.health.checks import checks_in_force, run_checks
from farrier.health.report import Answer, Served, alive, health_path, near, readiness, wrong_method

StartResponse = Callable[..., Any]
WSGIApp = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

#: What a proxy adds: the answer goes on to somebody else.
FORWARDED = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP")
PHRASES = {200: "200 OK", 405: "405 Method Not Allowed", 503: "503 Service Unavailable"}


class HealthMiddleware:
    """Answers the three health paths and passes everything else to ``app`` untouched."""

    def __init__(self, app: WSGIApp, path: str | None = None) -> None:
        self.app = app
        self.path = health_path(path)
        self.served = Served()
        self.answers: dict[str, Callable[[bool], Answer]] = {}
        if self.path:
            self.answers = {
                self.path: lambda _: alive(),
                f"{self.path}/worker": lambda _: self.served.answer(),
                f"{self.path}/ready": lambda full: readiness(run_checks(checks_in_force()), full),
            }

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        answer = self.answers.get(environ.get("PATH_INFO", ""))
        if answer is None:
            self.served.requests += 1
            return self.app(environ, start_response)
        method = environ.get("REQUEST_METHOD", "GET")
        full = near(environ.get("REMOTE_ADDR"), any(name in environ for name in FORWARDED))
        found = answer(full) if method in ("GET", "HEAD") else wrong_method()
        start_response(PHRASES[found.status], found.headers)
        return [] if method == "HEAD" else [found.body]
