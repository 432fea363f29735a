"""Gunicorn's sync worker: one request at a time. It closes every connection after its response."""

from __future__ import annotations

from typing import Any

from gunicorn.workers.sync import SyncWorker as GunicornSyncWorker

from farrier.serve.workers.accepting import accept
from farrier.serve.workers.base import FarrierWorker
from farrier.serve.workers.single import OneAtATime


class SyncWorker(OneAtATime, FarrierWorker, GunicornSyncWorker):
    """``worker_class`` sync."""

    interface = "wsgi"

    sockets: list[Any]

    def run_for_one(self, timeout: float) -> None:
        """Gunicorn's loop for a single socket; a gate has none (its list of them is true all the same)."""
        (super().run_for_one if len(self.sockets) else super().run_for_multiple)(timeout)

    def accept(self, listener: Any) -> None:
        """As Gunicorn's; see accepting.accept()."""
        client, address = accept(listener)
        client.setblocking(True)
        self.handle(listener, client, address)

    def handle_request(self, listener: Any, req: Any, client: Any, addr: Any) -> Any:
        token = self.take_up(req.method, req.uri)
        try:
            return super().handle_request(listener, req, client, addr)
        finally:
            self.count_wsgi(req, self.put_down(token))
