"""The app's own readiness checks: registered, loaded by name, run with a time limit each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar, overload

from farrier.errors import FarrierError

F = TypeVar("F", bound=Callable[..., Any])

#: Seconds that one check may take unless it says otherwise: below the 10 s after which proxies and
#: orchestrators usually give up on a probe, above a slow first connection to a database.
DEFAULT_TIMEOUT = 5.0


@dataclass(frozen=True)
class Check:
    """One readiness check. It fails when it raises, returns False or outlasts ``timeout`` seconds."""

    name: str
    call: Callable[[], Any]
    timeout: float = DEFAULT_TIMEOUT


@dataclass(frozen=True)
class Outcome:
    """How one check ended. ``seconds`` is its time, ``error`` one line when it failed."""

    name: str
    ok: bool
    seconds: float
    error: str | None = None
    #: What was raised; its name alone says nothing that is secret.
    kind: str | None = None

    def to_dict(self, full: bool = True) -> dict[str, Any]:
        """For an answer. Not ``full``: without the error's text, which may name hosts, users and queries."""
        found: dict[str, Any] = {"name": self.name, "ok": self.ok, "seconds": round(self.seconds, 4)}
        if self.error is not None:
            found["error"] = self.error if full else self.kind or self.error
        return found


_registered: dict[str, Check] = {}
_named: dict[str, list[Check]] = {}


@overload
def ready_check(call: F) -> F: ...
@overload
def ready_check(*, name: str | None = None, timeout: float = DEFAULT_TIMEOUT) -> Callable[[F], F]: ...
def ready_check(call: Any = None, *, name: str | None = None, timeout: float = DEFAULT_TIMEOUT) -> Any:
    """Register a function, sync or async, without arguments, as a readiness check of this app.

    ``timeout`` is in seconds. Registering the same name again replaces the first (a module that is
    imported twice does not check twice).
    """

    def register(function: F) -> F:
        label = name or str(getattr(function, "__name__", function))
        _registered[label] = Check(label, function, timeout)
        return function

    return register if call is None else register(call)


def named_checks(spec: str) -> list[Check]:
    """The checks that ``FARRIER_READY`` names: ``module:function``, several separated by commas.

    Raises FarrierError, one line, for a name that cannot be found.
    """
    if spec not in _named:
        _named[spec] = [_named_check(part.strip()) for part in spec.split(",") if part.strip()]
    return _named[spec]


def _named_check(name: str) -> Check:
    module, colon, function = name.partition(":")
    if not colon or not module or not function:
        raise FarrierError(f"FARRIER_READY: {name!r} is not of the form module:function")
    try:
        call = getattr(import_module(module), function)
    except ImportError as error:
        raise FarrierError(f"FARRIER_READY: {name}: {error}") from error
    except AttributeError as error:
        raise FarrierError(f"FARRIER_READY: {module} has no function {function!r}") from error
    if not callable(call):
        raise FarrierError(f"FARRIER_READY: {name} is not a function")
    # A function that the decorator registered as well is one check, not two.
    for check in _registered.values():
        if check.call is call:
            return check
    return Check(name, call)


def checks_in_force() -> list[Check]:
    """What the decorator registered, then what ``FARRIER_READY`` names."""
    found = list(_registered.values())
    found += [check for check in named_checks(os.environ.get("FARRIER_READY", "")) if check not in found]
    return found


def run_checks(checks: Sequence[Check]) -> list[Outcome]:
    """Run the checks one after the other from a thread without an event loop (WSGI)."""
    return [_run(check) for check in checks]


async def run_checks_async(checks: Sequence[Check]) -> list[Outcome]:
    """Run the checks at once on the running event loop; sync ones in threads (ASGI)."""
    import asyncio

    return list(await asyncio.gather(*(_run_async(check) for check in checks)))


def _judge(check: Check, began: float, result: Any, error: BaseException | None) -> Outcome:
    seconds = time.monotonic() - began
    if error is not None:
        return Outcome(check.name, False, seconds, one_line(error), type(error).__name__)
    if result is False:
        return Outcome(check.name, False, seconds, "returned False")
    return Outcome(check.name, True, seconds)


def _late(check: Check, began: float) -> Outcome:
    return Outcome(check.name, False, time.monotonic() - began, f"no answer within {check.timeout:g} s")


def _run(check: Check) -> Outcome:
    import threading

    began = time.monotonic()
    ended: list[tuple[Any, BaseException | None]] = []

    def call() -> None:
        try:
            result = check.call()
            if hasattr(result, "__await__"):
                import asyncio

                result = asyncio.run(_awaited(result))
            ended.append((result, None))
        except BaseException as error:  # noqa: BLE001 - whatever a check raises means "not ready"
            ended.append((None, error))

    # A thread, because nothing else bounds a blocking call; a late one is left to end by itself.
    thread = threading.Thread(target=call, name=f"ready-{check.name}", daemon=True)
    thread.start()
    thread.join(check.timeout)
    return _judge(check, began, *ended[0]) if ended else _late(check, began)


async def _awaited(result: Any) -> Any:
    return await result


async def _run_async(check: Check) -> Outcome:
    import asyncio
    import inspect

    began = time.monotonic()
    try:
        if inspect.iscoroutinefunction(check.call):
            result = await asyncio.wait_for(check.call(), check.timeout)
        else:
            result = await asyncio.wait_for(asyncio.to_thread(check.call), check.timeout)
            if hasattr(result, "__await__"):
                result = await asyncio.wait_for(_awaited(result), check.timeout)
    except asyncio.TimeoutError:
        return _late(check, began)
    except Exception as error:  # noqa: BLE001 - whatever a check raises means "not ready"
        return _judge(check, began, None, error)
    return _judge(check, began, result, None)


def one_line(error: BaseException) -> str:
    """``ConnectionRefusedError: [Errno 111] …`` on one line of at most 200 characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else text[:199] + "…"
