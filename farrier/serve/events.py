"""One line per lifecycle event: JSON in production, readable in development.

A line has ``event`` (a short fixed name that alerts and greps rely on), ``severity``, ``message``, ``pid``
and what belongs to the event. The names are listed in docs/serving.md.
"""

from __future__ import annotations

import json
import logging
import os
import time
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from typing import Any

#: Severities as Cloud Logging and journald readers know them.
SEVERITIES = {
    logging.DEBUG: "DEBUG",
    logging.INFO: "INFO",
    logging.WARNING: "WARNING",
    logging.ERROR: "ERROR",
    logging.CRITICAL: "CRITICAL",
}
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

#: What is logged at ``warning`` too, the level of the plans that keep quiet: a few lines in a site's life,
#: and the first that anybody looks for. ``error`` and ``critical`` hide them.
ALWAYS = frozenset(("starting", "listening", "ready", "reloading", "reloaded", "stopping", "stopped"))

#: The attribute of a log record that carries an event's fields.
FIELDS = "farrier"


def emit(log: Any, severity: str, event: str, message: str, **fields: Any) -> None:
    """Log one event through a Gunicorn logger (ours, or a person's own, which shows the message)."""
    present = {name: value for name, value in fields.items() if value is not None}
    level, extra = LEVELS[severity], {FIELDS: {"event": event, **present}}
    logger = getattr(log, "error_log", None)
    if event in ALWAYS and logger is not None and LEVELS["info"] <= level < logger.getEffectiveLevel() <= 30:
        logger.handle(logger.makeRecord(logger.name, level, "", 0, "%s", (message,), None, extra=extra))
        return
    # %-formatting would trip over a path with a percent sign: the message goes in as an argument.
    log.log(level, "%s", message, extra=extra)


def timestamp(seconds: float) -> str:
    """``2026-11-20T12:15:34.120Z``"""
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@lru_cache(maxsize=2)
def _second(whole: int) -> str:
    """Of many lines a second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))


def identity() -> dict[str, Any]:
    """Who speaks: pid, app and instance."""
    found: dict[str, Any] = {"pid": os.getpid()}
    for key, name in (("app", "FARRIER_APP"), ("instance", "FARRIER_INSTANCE")):
        if os.environ.get(name):
            found[key] = os.environ[name]
    return found


#: ``json.dumps`` makes one for each call.
_encode = json.JSONEncoder(default=str, ensure_ascii=False).encode


@lru_cache(maxsize=1)
def _speaker(pid: int) -> str:
    """The same for all of a process's access lines, as the inside of a JSON object."""
    return _encode({**identity(), "pid": pid})[1:-1]


def _plain(value: Any) -> str:
    """A value that is no text."""
    return repr(value) if type(value) in (int, float) else _encode(value)


def request_line(record: logging.LogRecord, fields: dict[str, Any]) -> str:
    """What format() below makes of an access line, in a third of the time: there is one for each request."""
    told = [
        f'"{name}": {quoted(value) if type(value) is str else _plain(value)}'
        for name, value in fields.items()
    ]
    return (
        f'{{"time": "{timestamp(record.created)}", "severity": "{SEVERITIES[record.levelno]}", '
        f'"message": {quoted(record.getMessage())}, {_speaker(record.process or os.getpid())}, '
        f"{', '.join(told)}}}"
    )


class JsonFormatter(logging.Formatter):
    """One JSON object on one line for every record, farrier's events and all others."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, FIELDS, {})
        if fields.get("event") == "request":
            return request_line(record, fields)
        entry: dict[str, Any] = {
            "time": timestamp(record.created),
            "severity": SEVERITIES.get(record.levelno, record.levelname),
            "message": record.getMessage(),
            **identity(),
            **fields,
        }
        if record.exc_info:
            entry["stack"] = self.formatException(record.exc_info)
        return _encode(entry)


class ReadableFormatter(logging.Formatter):
    """Gunicorn's own line, then ``name=value`` pairs; stacks below it."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields = dict(getattr(record, FIELDS, {}))
        blocks = [str(fields.pop(name)) for name in ("stack", "stacks") if name in fields]
        fields.pop("event", None)
        pairs = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
        return "\n".join([f"{line} ({pairs})" if pairs else line, *blocks])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return json.dumps(text, ensure_ascii=False) if " " in text else text
