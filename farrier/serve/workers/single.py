"""A graceful stop of a worker that has one connection at a time and closes each after its response."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from select import POLLIN, poll
from typing import Any

from farrier.serve.board import DRAINING
from farrier.serve.log import Aborted
from farrier.serve.workers.drain import LINGER


class OneAtATime:
    """A mixin, left of FarrierWorker. Gunicorn's sync worker waits for a client that connects and says
    nothing until the arbiter kills it, and ends a response that takes longer than the grace the same way."""

    # From FarrierWorker and Gunicorn's SyncWorker
    PIPE: Any
    alive: bool
    cfg: Any
    in_hand: dict[object, tuple[str, float]]
    slot: Any

    client: Any = None
    stopped = 0.0

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        if not self._asks(client):
            client.close()
            return
        self.client = client
        try:
            super().handle(listener, client, addr)  # type: ignore[misc]
        finally:
            self.client = None

    def _asks(self, client: Any) -> bool:
        """Wait for the first byte. Once a stop has come, for the linger and no longer."""
        asked = poll()
        for descriptor in (client.fileno(), self.PIPE[0]):
            asked.register(descriptor, POLLIN)
        while True:
            wait = None if self.alive else max(0.0, self.stopped + LINGER - time.monotonic()) * 1000
            came = dict(asked.poll(wait))
            if client.fileno() in came:
                return True
            if not came and not self.alive:
                return False
            with contextlib.suppress(BlockingIOError):
                # Only that a signal came.
                os.read(self.PIPE[0], 100)

    def handle_exit(self, sig: int, frame: Any) -> None:
        if not self.stopped:
            self.stopped = time.monotonic()
            signal.signal(signal.SIGALRM, self.handle_alarm)
            signal.setitimer(signal.ITIMER_REAL, max(0.001, self.cfg.graceful_timeout))
            if self.slot is not None:
                self.slot.stage = DRAINING
        super().handle_exit(sig, frame)  # type: ignore[misc]

    def handle_alarm(self, sig: int, frame: Any) -> None:
        """The grace is over: through whatever the app is in the middle of, so that it tidies up."""
        if self.in_hand:
            self.say_cut()  # type: ignore[attr-defined]
        if self.client is not None:
            raise Aborted(0)
