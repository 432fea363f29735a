"""Whether a WSGI response is the last one on its connection is decided when its headers are sent.

Gunicorn decides it when the request begins (gunicorn #1236): a response that is in hand when the stop comes
would promise to keep a connection that is about to be closed, and one with another request behind it would
announce the close of a connection on which that other one is lost.
"""

from __future__ import annotations

from typing import Any

from gunicorn.http import wsgi

PlainResponse: Any = wsgi.Response


class Response(PlainResponse):
    """Gunicorn's, for the one worker of this process."""

    worker: Any

    def default_headers(self) -> Any:
        worker = self.worker
        if not worker.alive or worker.crowded:
            # Bytes behind this request (pipelined, or of its own body): they are for this worker to read.
            behind = worker.cfg.keepalive and self.req.unreader.buf.getvalue()
            self.must_close = not behind
        return super().default_headers()


def decide_late(worker: Any) -> None:
    """To be called once, in the worker."""
    Response.worker = worker
    wsgi.Response = Response
