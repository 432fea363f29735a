"""Gunicorn's threaded worker. It finishes what it accepted and lingers on kept-alive connections."""

from __future__ import annotations

from typing import Any

from gunicorn.workers.gthread import ThreadWorker as GunicornThreadWorker

from farrier.serve.workers.base import FarrierWorker


class ThreadWorker(FarrierWorker, GunicornThreadWorker):
    """``worker_class`` gthread."""

    interface = "wsgi"

    def handle_request(self, req: Any, conn: Any) -> Any:
        token = self.take_up(req.method, req.uri)
        try:
            return super().handle_request(req, conn)
        finally:
            self.count_wsgi(req, self.put_down(token))
