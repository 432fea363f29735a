"""Gunicorn's logger, with JSON lines in production and the request's id in access lines."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import Any

from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.glogging import loggers
from gunicorn.instrument.statsd import Statsd

from farrier.serve.events import FIELDS, JsonFormatter, ReadableFormatter

#: Gunicorn's default: a person who chose another format gets exactly that.
DEFAULT_ACCESS_FORMAT = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'


def wants_json() -> bool:
    """``FARRIER_LOG`` json or text; else text in development and on a terminal, JSON everywhere else."""
    chosen = os.environ.get("FARRIER_LOG", "").strip().lower()
    if chosen:
        return chosen == "json"
    return os.environ.get("ENVIRONMENT") != "development" and not sys.stderr.isatty()


#: How lines of Gunicorn begin for which farrier has an event: ``debug`` shows them still.
SAID_BY_EVENTS = (
    "Starting gunicorn",
    "Listening at",
    "Using worker",
    "Handling signal",
    "Hang up",
    "Booting worker",
    "Worker exiting",
    "Worker reloading",
    "Autorestarting worker",
)


class Aborted(SystemExit):
    """Ends a worker that timed out, through whatever the app is in the middle of."""


class Logger(GunicornLogger):
    """``logger_class`` of every plan. Files, syslog and ``logconfig`` work as Gunicorn has them."""

    _access_log_enabled: bool

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.json = wants_json()
        # A person's logconfig shapes its own lines; ours shape only the handlers that Gunicorn made.
        formatter: logging.Formatter = (
            JsonFormatter() if self.json else ReadableFormatter(self.error_fmt, self.datefmt)
        )
        self._format(self.error_log, formatter)
        self.structured_access = self.json and cfg.access_log_format == DEFAULT_ACCESS_FORMAT
        if self.structured_access:
            self._format(self.access_log, formatter)

    def info(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        said = isinstance(msg, str) and msg.startswith(SAID_BY_EVENTS)
        (self.error_log.debug if said else self.error_log.info)(msg, *args, **kwargs)

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Gunicorn calls the end of a worker that timed out an error of the request."""
        if not isinstance(sys.exc_info()[1], Aborted):
            self.error_log.exception(msg, *args, **kwargs)

    def reopen_files(self) -> None:
        """As Gunicorn's, which ends the process if a file cannot be opened: here all stay as they are."""
        handlers = [handler for log in loggers() for handler in log.handlers]
        names = {one.baseFilename for one in handlers if isinstance(one, logging.FileHandler) and one.stream}
        try:
            for name in names:
                with open(name, "ab"):
                    pass
        except OSError as error:
            self.error("log files are not opened anew: %s: %s", error.filename, error.strerror)
            return
        super().reopen_files()

    def _format(self, log: logging.Logger, formatter: logging.Formatter) -> None:
        for handler in log.handlers:
            if getattr(handler, "_gunicorn", False) and not _is_syslog(handler):
                handler.setFormatter(formatter)

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: Any) -> None:
        if not self.structured_access:
            super().access(resp, req, environ, request_time)
        elif self.access_log_enabled:
            seconds = request_time.seconds + request_time.microseconds / 1e6
            self.say_request(access_fields(resp, environ, seconds))

    def say_request(self, fields: dict[str, Any]) -> None:
        """One request's line. The logging module would look for who called, by walking the stack."""
        log = self.access_log
        if logging.getLogRecordFactory() is logging.LogRecord and log.isEnabledFor(logging.INFO):
            log.handle(request_record(fields))
        else:
            log.info("%s %s %s", fields["method"], fields["path"], fields["status"], extra={FIELDS: fields})


#: Of an access line everything that is the same in all of them.
_RECORD = dict(
    vars(logging.LogRecord("gunicorn.access", logging.INFO, "", 0, "%s %s %s", (), None)), taskName=None
)


def request_record(fields: dict[str, Any]) -> logging.LogRecord:
    """A log record without what its own constructor finds out anew each time."""
    record = logging.LogRecord.__new__(logging.LogRecord)
    now = time.time()
    thread = threading.current_thread()
    found = record.__dict__
    found.update(_RECORD)
    found["created"], found["msecs"] = now, now % 1 * 1000
    found["relativeCreated"] = _RECORD["relativeCreated"] + (now - _RECORD["created"]) * 1000
    found["process"], found["thread"], found["threadName"] = os.getpid(), thread.ident, thread.name
    found["args"] = (fields["method"], fields["path"], fields["status"])
    found[FIELDS] = fields
    return record


class StatsdLogger(Logger, Statsd):
    """The same with Gunicorn's statsd client, chosen when ``statsd_host`` is set."""

    def __init__(self, cfg: Any) -> None:
        Statsd.__init__(self, cfg)

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: Any) -> None:
        structured, self.structured_access = self.structured_access, False
        enabled, self._access_log_enabled = (
            self._access_log_enabled,
            not structured and self._access_log_enabled,
        )
        try:
            Statsd.access(self, resp, req, environ, request_time)
        finally:
            self.structured_access, self._access_log_enabled = structured, enabled
        if structured:
            Logger.access(self, resp, req, environ, request_time)


def _is_syslog(handler: logging.Handler) -> bool:
    return type(handler).__name__ == "SysLogHandler"


def access_fields(resp: Any, environ: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What one request was, with the names that log platforms search for."""
    get = environ.get
    status = resp.status
    if not isinstance(status, int):
        first = str(status).split(None, 1)[0]
        status = int(first) if first.isdigit() else first
    return request_fields(
        get("REQUEST_METHOD", "-"), get("RAW_URI") or get("PATH_INFO", "-"), status,
        getattr(resp, "sent", None), seconds, get("REMOTE_ADDR"), get("HTTP_USER_AGENT"),
        get("HTTP_REFERER"), _request_id(resp, environ),
    )  # fmt: skip


def request_fields(
    method: str,
    path: str,
    status: Any,
    sent: int | None,
    seconds: float,
    remote: str | None,
    user_agent: str | None,
    referer: str | None,
    request_id: str | None,
) -> dict[str, Any]:
    """The fields of an access line, those left out that nobody knows."""
    fields = {"event": "request", "method": method, "path": path, "status": status}
    if sent is not None:
        fields["bytes"] = sent
    fields["seconds"] = round(seconds, 6)
    if remote:
        fields["remote"] = remote
    if user_agent is not None:
        fields["user_agent"] = user_agent
    if referer is not None:
        fields["referer"] = referer
    if request_id is not None:
        fields["request_id"] = request_id
    return fields


def _request_id(resp: Any, environ: dict[str, Any]) -> str | None:
    headers = resp.headers.items() if hasattr(resp.headers, "items") else resp.headers
    for name, value in headers or ():
        if len(name) == 12 and name.lower() == "x-request-id":
            return str(value)
    return environ.get("HTTP_X_REQUEST_ID")
