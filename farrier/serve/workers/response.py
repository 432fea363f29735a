"""Whether a WSGI response is the last one on its connection is decided when its headers are sent.

Gunicorn decides it when the request begins (gunicorn #1236): a response that is in hand when the stop comes
would promise to keep a connection that is about to be closed, and one with another request behind it would
announce the close of a connection on which that other one is lost. And it ends without a word the connection
of a client whose request has a long body that the app does not read.
"""

from __future__ import annotations

import sys
from typing import Any

from gunicorn.http import wsgi

#: Bytes of a body that the app has not read from which the response announces the close. Gunicorn's gthread
#: discards as many (``_DRAIN_MAX_BYTES`` of its parser) and gives a connection up whose body is longer.
UNREAD_MOST = 1 << 16

PlainResponse: Any = wsgi.Response


class Response(PlainResponse):
    """Gunicorn's, for the one worker of this process."""

    worker: Any
    #: Bytes of an unread body that the worker discards before the next request.
    discards: int

    def default_headers(self) -> Any:
        worker = self.worker
        if not worker.alive or worker.crowded:
            # Bytes behind this request (pipelined, or of its own body): they are for this worker to read.
            behind = worker.cfg.keepalive and self.req.unreader.buf.getvalue()
            self.must_close = not behind
        if getattr(self.req.body.reader, "length", 0) > self.discards:
            self.must_close = True
        return super().default_headers()


def decide_late(worker: Any, discards: int = sys.maxsize) -> None:
    """To be called once, in the worker."""
    Response.worker, Response.discards = worker, discards
    wsgi.Response = Response
