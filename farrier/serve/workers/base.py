"""What all of farrier's worker classes share, on top of Gunicorn's ``Worker``."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from gunicorn import util

from farrier.errors import FarrierError
from farrier.health.checks import Check, Outcome, checks_in_force, run_checks
from farrier.health.wsgi import HealthMiddleware
from farrier.serve import apps, diagnosis, events, quiet, stdio
from farrier.serve.board import BOOTED, DRAINING, READY, Slot
from farrier.serve.config import slow_request
from farrier.serve.endings import WORKER_BOOT_ERROR
from farrier.serve.log import Aborted

#: Seconds between two tries of the readiness checks.
READY_AGAIN = 0.5
#: In place of the app's answer to a request that never came to the app.
NOT_ASKED: Any = object()
#: How a write to a client that has left ends, and what frameworks say of it (Starlette, Django; asyncio
#: cancels the request of a client that has left).
CLIENT_LEFT = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)
CLIENT_LEFT_NAMES = ("ClientDisconnect", "ClientDisconnected", "RequestAborted", "CancelledError")


class FarrierWorker:
    """A mixin, left of a Gunicorn worker class. ``interface`` is what the app must speak."""

    interface: str | None = None
    #: Those that a worker has its own handlers for. HUP, USR2, TTIN and TTOU are the master's, whose handler
    #: a fork leaves in place (it queues, for nobody). By default two of them would end a worker and two would
    #: halt it, when ``systemctl kill`` sends them to every process.
    SIGNALS = (
        signal.SIGABRT,
        signal.SIGQUIT,
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGWINCH,
        signal.SIGCHLD,
    )

    # From gunicorn.workers.base.Worker
    app: Any
    cfg: Any
    log: Any
    tmp: Any
    alive: bool
    nr: int
    pid: int
    ppid: int
    booted: bool
    max_requests: int
    reloader: Any

    #: Set by farrier's arbiter before the fork; without it nobody reads the board.
    slot: Slot | None = None
    #: Whether READY is awaited from outside, or by a replacement: no request may come before it.
    gated: bool = False
    #: When the arbiter asked it to end, and how it ended (the arbiter's own notes).
    retired: float = 0.0
    ended: Any = None
    extra: bool = False
    #: Idle connections take so much of what it may hold that responses announce the close.
    crowded: bool = False
    recycled: bool = False
    failure: str | None = None
    #: While it boots beside others that serve, see farrier.serve.quiet.
    former_nice: int | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: ``max_requests`` with its jitter, see due().
        self.recycle_after = self.max_requests
        self.in_hand: dict[object, tuple[str, float]] = {}
        self._posted = 0.0
        self._slow = slow_request(os.environ)

    # --- the app --------------------------------------------------------------------------------

    def load_app(self) -> Any:
        """The app, with its mistakes in one line. Ends the worker with Gunicorn's exit statuses."""
        if getattr(self.log, "json", False) and self.cfg.capture_output:
            stdio.take_over()
        try:
            with _ended_by_a_stop():
                if not self.alive:
                    # Asked to end between its own handlers and these: an import may take long.
                    raise SystemExit(0)
                app = apps.load(self.app, type(self))
                checks_in_force()
        except apps.AppRefused as error:
            if self.cfg.reload and isinstance(error.__cause__, SyntaxError):
                return self._broken(error.__cause__, error.stack or str(error))
            self.refuse(str(error), error.status, error.stack)
        except FarrierError as error:
            self.refuse(str(error), WORKER_BOOT_ERROR)
        else:
            if self.slot is not None:
                self.slot.stage = BOOTED
            return app

    def load_wsgi(self) -> None:
        self.wsgi = self.around(self.load_app())

    def around(self, app: Any) -> Any:
        """The app within what farrier puts around it."""
        return HealthMiddleware(apps.WSGIRequest(app))

    def _broken(self, error: SyntaxError, text: str) -> Any:
        """In development: the traceback as every answer, until the file is mended."""
        events.emit(self.log, "error", "boot_failed", f"{error.filename}: {error.msg}", stack=text)
        if self.reloader is not None and error.filename is not None:
            self.reloader.add_extra_file(error.filename)
        return apps.broken_app(text, self.interface)

    def refuse(self, message: str, status: int, stack: str | None = None) -> None:
        """Say in one line why this worker cannot serve, to the log and to the board, and end it."""
        if self.slot is not None:
            self.slot.note = message
        events.emit(self.log, "error", "boot_failed", message, worker=self.pid, stack=stack)
        raise SystemExit(status)

    # --- readiness ------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve, once the app's own readiness checks pass."""
        if self.wait_ready():
            self.mark_ready()
            super().run()  # type: ignore[misc]

    def wait_ready(self) -> bool:
        """Try the checks until they pass; False when the worker was asked to end meanwhile."""
        checks = checks_in_force()
        while checks and self.alive:
            self.notify()
            failed = [one for one in self._checked(checks) if not one.ok]
            if not failed or self.gave_up(failed):
                break
            time.sleep(READY_AGAIN)
        return self.alive

    def _checked(self, checks: Sequence[Check]) -> list[Outcome]:
        found = []
        for check in checks:
            found += run_checks([check])
            self.notify()
        return found

    def gave_up(self, failed: Sequence[Outcome]) -> bool:
        """Note what is not ready, say it once, and tell whether to serve all the same.

        It is held back only where somebody waits for it: at a start that READY is awaited from, and on
        trial for another. Elsewhere an answer that says what is wrong is better than none: a container's
        liveness probe would end a worker that says nothing because its database is down.
        """
        text = "; ".join(f"{one.name}: {one.error}" for one in failed)
        if self.slot is not None:
            self.slot.note = f"not ready: {text}"
        if not hasattr(self, "_said_not_ready"):
            self._said_not_ready = True
            how = "is" if self.gated else "serves, but is"
            message = f"worker {self.pid} {how} not ready: {text}"
            events.emit(self.log, "warning", "not_ready", message, worker=self.pid)
        return not self.gated

    def mark_ready(self) -> None:
        # Gunicorn times out only those that gave a sign of life once; an import may take longer.
        self.notify()
        if self.former_nice is not None:
            try:
                quiet.restore(self.former_nice, os.getpid())
            except OSError as error:
                self.log.warning("worker %s stays at a higher nice value: %s", self.pid, error.strerror)
        if self.slot is not None:
            self.slot.note = ""
            self.slot.stage = READY

    # --- requests -------------------------------------------------------------------------------

    def take_up(self, method: str, path: str, query: bytes = b"") -> object:
        """Note a request as in hand; returns what put_down() wants."""
        token = object()
        name = f"{method} {path}?{query.decode('latin-1')}" if query else f"{method} {path}"
        self.in_hand[token] = (name, time.monotonic())
        if self.slot is not None:
            self.slot.doing = name
            self.slot.in_hand = len(self.in_hand)
        return token

    def put_down(self, token: object, request_id: str | None = None) -> float:
        """The request has ended: its seconds. One above FARRIER_SLOW_REQUEST is logged."""
        name, began = self.in_hand.pop(token, ("", time.monotonic()))
        seconds = time.monotonic() - began
        if self.slot is not None:
            self.slot.in_hand = len(self.in_hand)
            if self.in_hand and self.slot.doing == name:
                # Let the board name one that is still in hand. Threads may empty the table meanwhile.
                with contextlib.suppress(StopIteration, RuntimeError):
                    self.slot.doing = next(iter(self.in_hand.values()))[0]
        if self._slow is not None and seconds >= self._slow:
            events.emit(
                self.log, "warning", "slow_request", f"{name} took {seconds:.3f} s",
                request=name, seconds=round(seconds, 3), request_id=request_id, worker=self.pid,
            )  # fmt: skip
        return seconds

    def count(self, seconds: float, status: int | None) -> None:
        """A request of the app's is over; called while an exception that ended it is still on its way.

        Without a status, or when an error cut it short, it has failed, unless the client itself left.
        """
        if self.slot is not None:
            error = sys.exc_info()[1]
            if error is None:
                self.slot.counters.add(seconds, status is None or status >= 500)
                return
            # The loop's servers cancel what a client has left, and what does not end in time.
            cut = type(error).__name__ == "CancelledError" and self.slot.stage == DRAINING
            self.slot.counters.add(seconds, cut or failed(status, error))

    def count_wsgi(self, req: Any, seconds: float) -> None:
        """The same by Gunicorn's request. One that never came to the app counts only if an error ended it:
        health checks come every few seconds, always fast, and would hide what users get."""
        answer = getattr(req, "answer", NOT_ASKED)
        if answer is not NOT_ASKED:
            self.count(seconds, answer)
        elif sys.exc_info()[1] is not None:
            self.count(seconds, None)

    def answered(self, scope: dict[str, Any], seconds: float, sent: Any) -> None:
        """For classes whose server does not log requests itself."""

    @property
    def served(self) -> int:
        return self.nr

    def notify(self) -> None:
        """The sign of life, and once a second what the board shows."""
        super().notify()  # type: ignore[misc]
        if self.slot is None:
            return
        now = time.monotonic()
        if now - self._posted >= 1.0 or self.served >= self.recycle_after:
            self._posted = now
            self.slot.requests = self.served
            # Two threads that put down at the same moment may have left the older number.
            self.slot.in_hand = len(self.in_hand)
            self.due()

    def due(self) -> bool:
        """Whether to end now, at ``max_requests``.

        Never under farrier's arbiter: the worker says on the board that it is due and serves on until it
        has been replaced.
        """
        if self.served < self.recycle_after:
            return False
        if self.slot is not None:
            self.slot.due = True
            return False
        return True

    def say_cut(self) -> None:
        """Name the requests that ``graceful_timeout`` ends."""
        found = diagnosis.requests_in_hand(self)
        message = (
            f"worker {self.pid}: {len(self.in_hand)} requests not done within {self.cfg.graceful_timeout} s"
        )
        events.emit(self.log, "warning", "requests_cut", message, worker=self.pid, requests_in_hand=found)

    # --- the end --------------------------------------------------------------------------------

    def handle_abort(self, sig: int, frame: Any) -> None:
        """ABRT: say what is in hand and end, whatever the app is in the middle of."""
        self.alive = False
        with contextlib.suppress(Exception):
            self.cfg.worker_abort(self)
            stdio.let_go()
        raise Aborted(1)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """As Gunicorn's; of an abort the client hears, and the log has heard already."""
        if isinstance(exc, Aborted):
            with contextlib.suppress(OSError):
                util.write_error(client, 500, "Internal Server Error", "")
            return
        super().handle_error(req, client, addr, exc)  # type: ignore[misc]


def failed(status: int | None, error: BaseException | None) -> bool:
    """Whether a client got less than a good answer, and not by its own doing."""
    if status is not None and status >= 500:
        return True
    if error is None:
        return status is None
    if isinstance(error, StopIteration):
        # Gunicorn closes a connection that way, also after an error in the middle of a response.
        return status is None or error.__context__ is not None
    if isinstance(error, OSError) and error.errno in CLIENT_LEFT:
        return status is None
    return type(error).__name__ not in CLIENT_LEFT_NAMES


@contextlib.contextmanager
def _ended_by_a_stop() -> Iterator[None]:
    """While the app is imported nothing is in hand: a stop ends the worker instead of waiting for it."""
    stops = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in stops}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
