"""What the three health paths answer, for ASGI and WSGI alike."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from farrier.errors import FarrierError
from farrier.health.checks import Outcome
from farrier.health.memory import process_memory

DEFAULT_PATH = "/health"


def health_path(path: str | None) -> str:
    """The path in force: the argument, else ``FARRIER_HEALTH_PATH``, else /health; empty means off."""
    chosen = os.environ.get("FARRIER_HEALTH_PATH", DEFAULT_PATH) if path is None else path
    chosen = chosen.strip().rstrip("/")
    if chosen and not chosen.startswith("/"):
        raise FarrierError(
            f"FARRIER_HEALTH_PATH: {chosen!r} must start with / (or be empty: no health paths)"
        )
    return chosen


@dataclass
class Answer:
    """One answer, as JSON that no cache may keep."""

    status: int
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, status: int, document: dict[str, object], allow: str | None = None) -> Answer:
        body = json.dumps(document, separators=(",", ":")).encode() + b"\n"
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        if allow:
            headers.append(("Allow", allow))
        return cls(status, body, headers)


class Served:
    """What this process has served since it started, as /health/worker says it."""

    def __init__(self) -> None:
        self.started = time.time()
        self.began = time.monotonic()
        self.requests = 0

    def answer(self) -> Answer:
        memory = process_memory()
        document: dict[str, object] = {
            "status": "ok",
            "pid": os.getpid(),
            "uptime_seconds": round(time.monotonic() - self.began, 3),
            "requests": self.requests,
            "rss_bytes": memory.rss,
            "pss_bytes": memory.pss,
        }
        for key, name in (
            ("app", "FARRIER_APP"),
            ("instance", "FARRIER_INSTANCE"),
            ("release", "FARRIER_RELEASE"),
        ):
            if os.environ.get(name):
                document[key] = os.environ[name]
        return Answer.of(200, document)


def alive() -> Answer:
    return Answer.of(200, {"status": "ok"})


def readiness(outcomes: Sequence[Outcome], full: bool = True) -> Answer:
    """200 when every check passed, else 503, each with its time. ``full``: with the errors' text."""
    ready = all(outcome.ok for outcome in outcomes)
    _say_changes(outcomes)
    return Answer.of(
        200 if ready else 503,
        {
            "status": "ready" if ready else "not ready",
            "checks": [outcome.to_dict(full) for outcome in outcomes],
        },
    )


def near(peer: str | None, forwarded: bool) -> bool:
    """Whether an answer stays on this host: the peer is loopback or a unix socket, and no proxy.

    ``peer`` is its address, empty for a unix socket; ``forwarded`` that a proxy says for whom it asks.
    """
    if forwarded:
        return False
    return not peer or peer.startswith(("127.", "unix:", "/", "::ffff:127.")) or peer in ("::1", "localhost")


_failing: dict[str, str] = {}


def _say_changes(outcomes: Sequence[Outcome]) -> None:
    """Log what fails, once until it changes: probes ask every few seconds."""
    log = logging.getLogger("gunicorn.error")
    for one in outcomes:
        said = _failing.get(one.name)
        if one.ok:
            if _failing.pop(one.name, None) is not None:
                log.info("%s", f"check {one.name} passes again", extra=_event("check_passed", one))
        elif said != one.error:
            _failing[one.name] = one.error or ""
            log.warning("%s", f"check {one.name} fails: {one.error}", extra=_event("check_failed", one))


def _event(name: str, one: Outcome) -> dict[str, object]:
    return {"farrier": {"event": name, "check": one.name, "seconds": round(one.seconds, 4)}}


def wrong_method() -> Answer:
    return Answer.of(405, {"status": "method not allowed"}, allow="GET, HEAD")
