"""What farrier does at each of Gunicorn's hooks. A person's own hooks are chained around these.

All of them work under plain ``gunicorn -c farrier.conf.py`` too; what needs farrier's arbiter says so.
"""

from __future__ import annotations

import gc
import inspect
import os
import time
from collections.abc import Callable
from typing import Any

from farrier.errors import FarrierError
from farrier.serve import diagnosis, events, stdio
from farrier.serve.board import CODE_CHANGED, RECYCLED

#: What plain ``gunicorn`` cannot be made to do by a config file.
NOT_UNDER_GUNICORN = (
    "started by gunicorn itself: READY is sent before the workers are, HUP onto code that does not import "
    "stops the site, and exit reasons are guesses; start it with 'farrier serve' for these"
)

#: Hooks where the person's own runs first, so that farrier's has the last word on what is released.
PERSON_FIRST = ("worker_int", "worker_abort", "worker_exit", "child_exit", "on_exit")


def on_starting(server: Any) -> None:
    from farrier.serve.config import summary

    if not _driven(server):
        events.emit(server.log, "warning", "limited", NOT_UNDER_GUNICORN)
    message, fields = summary()
    events.emit(server.log, "info", "starting", message, **fields)
    _say_changes(server)


def on_reload(server: Any) -> None:
    _say_changes(server)


def _say_changes(server: Any) -> None:
    from farrier.serve.config import take_changes

    for severity, message, fields in take_changes():
        events.emit(server.log, severity, "plan_changed", message, **fields)


def when_ready(server: Any) -> None:
    if getattr(server, "gate", False):
        events.emit(server.log, "info", "gate", "a gate: one worker becomes ready and accepts nothing")
        return
    where = ",".join(str(listener) for listener in server.LISTENERS)
    events.emit(server.log, "info", "listening", f"listening at {where}", bind=where)


def pre_fork(server: Any, worker: Any) -> None:
    """Keep what the app loaded out of the collector's reach, so that workers go on sharing its pages.

    ``gc.freeze()`` before the first fork: two workers of a 148 MB app take 136 MB instead of 241.
    """
    if server.cfg.preload_app and not getattr(server, "heap_frozen", False):
        server.heap_frozen = True
        gc.collect()
        _trim()
        gc.freeze()
        frozen = gc.get_freeze_count()
        events.emit(server.log, "debug", "heap_frozen", f"{frozen} objects frozen before the first fork")


def _trim() -> None:
    """Give back what the import freed: 3 MiB of a 150 MB app's 168, the import of ctypes included."""
    try:
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)
    except (ImportError, OSError, MemoryError, AttributeError):
        # Not glibc, or ctypes may not make memory executable (MemoryDenyWriteExecute=).
        return


def post_fork(server: Any, worker: Any) -> None:
    worker.forked_at = time.monotonic()
    events.emit(server.log, "debug", "worker_forked", f"worker {worker.pid} forked", worker=worker.pid)


def post_worker_init(worker: Any) -> None:
    seconds = round(time.monotonic() - getattr(worker, "forked_at", time.monotonic()), 3)
    events.emit(
        worker.log,
        "info",
        "worker_booted",
        f"worker {worker.pid} loaded the app in {seconds:g} s",
        worker=worker.pid,
        seconds=seconds,
    )


def worker_int(worker: Any) -> None:
    """QUIT or INT, the quick stop; also what the development reloader calls."""
    slot = getattr(worker, "slot", None)
    if slot is not None and worker.cfg.reload:
        slot.ending = CODE_CHANGED
    found = diagnosis.diagnose(worker)
    in_hand = found["requests_in_hand"]
    if not in_hand:
        found.pop("stacks")
    text = f", {len(in_hand)} requests in hand are dropped" if in_hand else ""
    severity, message = "warning" if in_hand else "info", f"worker {worker.pid} stops at once{text}"
    events.emit(worker.log, severity, "worker_int", message, worker=worker.pid, **found)


def worker_abort(worker: Any) -> None:
    """ABRT: the arbiter saw no sign of life for ``timeout`` seconds."""
    found = diagnosis.diagnose(worker)
    in_hand = found["requests_in_hand"]
    what = in_hand[0]["request"] if in_hand else "no request in hand"
    message = f"worker {worker.pid} timed out after {worker.cfg.timeout} s: {what}"
    events.emit(worker.log, "error", "worker_timeout", message, worker=worker.pid, **found)


def worker_exit(server: Any, worker: Any) -> None:
    """In the worker, at its end; the arbiter says why in ``worker_ended``."""
    stdio.let_go()
    slot = getattr(worker, "slot", None)
    served = getattr(worker, "served", worker.nr)
    if slot is not None:
        slot.requests = served
        if worker.nr >= worker.max_requests:
            # A class that is not farrier's, see FarrierWorker.due().
            slot.ending = RECYCLED
    events.emit(
        worker.log, "debug", "worker_exit", f"worker {worker.pid} leaves after {served} requests",
        worker=worker.pid, requests=served,
    )  # fmt: skip


def child_exit(server: Any, worker: Any) -> None:
    ending = getattr(worker, "ended", None)
    slot = getattr(worker, "slot", None)
    fields: dict[str, Any] = {"worker": worker.pid}
    if ending is None:
        aborted = getattr(worker, "aborted", False)
        reason, severity, detail = ("timed out", "error", "") if aborted else ("ended", "info", "")
    else:
        reason, severity, detail = ending.reason, ending.severity, ending.message
        fields.update(exit_code=ending.exit_code, signal=ending.signal)
    if slot is not None:
        fields.update(requests=slot.requests)
        if reason in ("timed out", "killed for memory", "crashed") or severity == "warning":
            fields.update(in_hand=slot.in_hand, last_request=slot.doing or None)
    if getattr(server, "hopeless", False) or (reason == "failed to boot" and not _was_ready(server)):
        # At a start that is given up the reason is said once, by the worker and at the end.
        severity = "debug"
    elif reason == "failed to boot" and getattr(worker, "extra", False):
        # On trial: whoever waited for it says why it is not taken.
        severity = "debug"
    text = f"worker {worker.pid} {reason}" + (f": {detail}" if detail else "")
    events.emit(server.log, severity, "worker_ended", text, reason=reason, **fields)


def on_exit(server: Any) -> None:
    severity = "debug" if getattr(server, "hopeless", False) else "info"
    events.emit(server.log, severity, "stopped", f"stopped (pid {os.getpid()})")


def _was_ready(server: Any) -> bool:
    return bool(getattr(server, "was_ready", True))


def _driven(server: Any) -> bool:
    return bool(getattr(server, "farrier", False))


HOOKS: dict[str, Callable[..., None]] = {
    "on_starting": on_starting,
    "on_reload": on_reload,
    "when_ready": when_ready,
    "pre_fork": pre_fork,
    "post_fork": post_fork,
    "post_worker_init": post_worker_init,
    "worker_int": worker_int,
    "worker_abort": worker_abort,
    "worker_exit": worker_exit,
    "child_exit": child_exit,
    "on_exit": on_exit,
}


def chained(theirs: dict[str, Any]) -> dict[str, Callable[..., None]]:
    """Farrier's hooks, each with the person's own before or after it."""
    for name, call in theirs.items():
        _callable_with(name, call, HOOKS[name].__code__.co_varnames[: HOOKS[name].__code__.co_argcount])
    return {name: _chain(name, ours, theirs.get(name)) for name, ours in HOOKS.items()}


def _callable_with(name: str, call: Any, arguments: tuple[str, ...]) -> None:
    """Raises FarrierError, one line: Gunicorn checks this too, but would only see farrier's own."""
    count = len(arguments)
    try:
        inspect.signature(call).bind(*arguments)
    except TypeError:
        plural = "" if count == 1 else "s"
        raise FarrierError(
            f"{name} must be a function of {count} argument{plural} ({', '.join(arguments)})"
        ) from None
    except ValueError:
        # A builtin that does not say what it takes.
        return


def _chain(name: str, ours: Callable[..., None], theirs: Any) -> Callable[..., None]:
    if theirs is None:
        return ours
    first, second = (theirs, ours) if name in PERSON_FIRST else (ours, theirs)
    # Gunicorn counts a hook's parameters, so a chain needs as many as the hook has.
    if ours.__code__.co_argcount == 1:

        def one(subject: Any) -> None:
            _both(lambda: first(subject), lambda: second(subject))

        return one

    def two(server: Any, worker: Any) -> None:
        _both(lambda: first(server, worker), lambda: second(server, worker))

    return two


def _both(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    """The second runs even when the first raises."""
    try:
        first()
    finally:
        second()
