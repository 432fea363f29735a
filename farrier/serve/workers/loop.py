"""What farrier's workers with an event loop share: signals, readiness, the app around the app."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

from farrier.health.asgi import HealthMiddleware
from farrier.health.checks import checks_in_force, run_checks_async
from farrier.serve.apps import ASGIRequest
from farrier.serve.board import DRAINING
from farrier.serve.workers.base import READY_AGAIN, FarrierWorker
from farrier.serve.workers.drain import Acceptor


class LoopWorker(FarrierWorker):
    """A mixin for asgi and uvicorn. ``stopping`` ends the main loop; ``quick`` drops what is in hand."""

    interface = "asgi"
    quick = False
    acceptor: Acceptor | None = None
    _turns: asyncio.Semaphore | None = None

    @property
    def turns(self) -> asyncio.Semaphore:
        """One for each request that the plan has memory for; further ones wait, first come, first served."""
        if self._turns is None:
            self._turns = asyncio.Semaphore(max(1, self.cfg.worker_connections))
        return self._turns

    def put_down(self, token: object, request_id: str | None = None) -> float:
        if self.acceptor is not None and not self.acceptor.open:
            # A moment later: the connection is closed or idle only after this.
            asyncio.get_running_loop().call_later(0.001, self.acceptor.resume)
        return super().put_down(token, request_id)

    def around(self, app: Any) -> Any:
        return HealthMiddleware(ASGIRequest(app, self))

    def watch_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """TERM drains, QUIT and INT drop; ABRT is taken even while the app blocks the loop."""
        self.stopping = asyncio.Event()
        for number in self.SIGNALS:  # type: ignore[attr-defined]
            signal.signal(number, signal.SIG_DFL)
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGQUIT, self._stop_at_once)
        loop.add_signal_handler(signal.SIGINT, self._stop_at_once)
        loop.add_signal_handler(signal.SIGUSR1, self.log.reopen_files)
        signal.signal(signal.SIGWINCH, signal.SIG_IGN)
        # Not through the loop, which may be the very thing that hangs.
        signal.signal(signal.SIGABRT, self.handle_abort)
        signal.siginterrupt(signal.SIGUSR1, False)

    def _stop(self) -> None:
        self.stopping.set()

    def _stop_at_once(self) -> None:
        if not self.quick:
            self.quick = True
            self.cfg.worker_int(self)
        self.stopping.set()

    def handle_abort(self, sig: int, frame: Any) -> None:
        """The server would catch SystemExit as the app's error: say it, then really end."""
        try:
            super().handle_abort(sig, frame)
        finally:
            os._exit(1)

    async def wait_ready_async(self) -> bool:
        """As wait_ready(), on the loop and after the app's startup, so that its own pools are open."""
        checks = checks_in_force()
        while checks and not self.stopping.is_set():
            self.notify()
            failed = [one for one in await run_checks_async(checks) if not one.ok]
            if not failed or self.gave_up(failed):
                break
            await asyncio.sleep(READY_AGAIN)
        return not self.stopping.is_set()

    async def tick(self) -> bool:
        """Wait a tenth of a second or for the stop; False once it is time to drain."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), 0.1)
        if not self.alive:
            # Gunicorn's reloader (development) says it this way; nobody waits for idle connections there.
            self.quick = True
            return False
        if self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            return False
        return not (self.due() or self.stopping.is_set())

    def start_draining(self) -> None:
        if self.slot is not None:
            self.slot.stage = DRAINING
