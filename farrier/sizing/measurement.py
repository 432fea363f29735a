"""From what ``farrier measure`` saw of an app, and what a person stated of it, to a workload.

The object is described in docs/architecture.md: bytes and seconds, ``null`` where a figure could not be had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from textwrap import shorten
from typing import Any

from . import constants
from .units import SizingError
from .workload import LOOP_CLASSES, Workload, normalise_worker_class

SCHEMA = 1

_MEMORY_FIGURES = ("private_memory", "shared_private", "shared_base")
"""Figures that only go together with the app_memory that was measured with them."""


def workload_of(measurement: Mapping[str, object], given: Mapping[str, object] | None = None) -> Workload:
    """The workload of a measured app. What a person stated in ``given`` (as Workload.from_mapping) wins.

    What was neither measured nor stated is assumed from the profile. Raises SizingError for another schema,
    for what is no measurement, and for one that failed: its figures are of a run that was cut short, and a
    plan of them would still call itself measured.
    """
    stated = {name: value for name, value in (given or {}).items() if value is not None}
    schema, failed = measurement.get("schema"), measurement.get("failed")
    if isinstance(schema, bool) or schema != SCHEMA:
        raise SizingError(f"not a measurement: schema is {schema!r}, this version reads {SCHEMA}")
    if failed is not None:
        raise SizingError(f"the measurement failed, so that no plan is made of it: {_line(failed)}")
    found = _found(measurement)
    if "app_memory" not in found and "app_memory" not in stated:
        raise SizingError("not a measurement: app_memory is missing, without which nothing was measured")
    if "app_memory" in stated:
        found = {name: value for name, value in found.items() if name not in _MEMORY_FIGURES}
    if "worker_class" in stated:
        found.pop("any_class", None)
    chosen = {**found, **stated}
    own: dict[str, Any] = {"any_class": chosen.pop("any_class", False)}
    if chosen.get("preload_safe") is False and "preload_safe" not in stated:
        own["preload_finding"] = _finding(measurement)
    loop = (
        normalise_worker_class(chosen["worker_class"]) in LOOP_CLASSES if "worker_class" in chosen else False
    )
    if loop and "connection_memory" not in stated:
        _with_its_request(chosen)
    chosen.setdefault("kind", _kind(measurement, chosen, loop))
    load = Workload.from_mapping({**chosen, "measured": True}, "measurement")
    return replace(load, **own)


def _found(measurement: Mapping[str, object]) -> dict[str, object]:
    """Figures of the measurement, by the names that a workload has for them; only those that there are."""
    alone, shared = (_part(measurement, name) for name in ("alone", "shared"))
    request, connection = _number(measurement, "request_memory"), _number(measurement, "connection_memory")
    app, private = _number(measurement, "app_memory"), _number(alone, "uss")
    found: dict[str, object] = {
        "framework": _text(measurement, "framework"),
        "worker_class": _text(measurement, "worker_class"),
        "app_memory": _whole(app),
        "private_memory": _whole(private if app is None or private is None else min(app, private)),
        "shared_private": _whole(_number(shared, "uss")),
        "shared_base": _whole(_base(shared)),
        "shared_fraction": _fraction(_number(measurement, "shared_fraction")),
        "request_memory": _whole(request, constants.MEASURED_REQUEST_AT_LEAST),
        "connection_memory": _whole(connection, constants.MEASURED_CONNECTION_AT_LEAST),
        "boot_seconds": _number(measurement, "boot_seconds"),
        "preload_safe": _flag(measurement, "preload_safe"),
        "growth_per_1000": _growth(measurement),
        "cpu_per_request": _number(measurement, "cpu_per_request"),
        "wait_per_request": _number(measurement, "wait_per_request"),
        "any_class": (_interface(measurement) == "wsgi" and not _flag(measurement, "worker_class_chosen"))
        or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _growth(measurement: Mapping[str, object]) -> int | None:
    """Growth in bytes; none that was seen is only none where as much as matters would have been seen."""
    growth, error = _number(measurement, "growth_per_1000"), _number(measurement, "growth_error")
    if growth == 0 and error is not None and error * constants.GROWTH_ERRORS > constants.GROWTH_MATTERS:
        return None
    return _whole(growth)


def _interface(measurement: Mapping[str, object]) -> str | None:
    interface = measurement.get("interface", "wsgi")
    if interface not in ("wsgi", "asgi", None):
        raise SizingError(f"not a measurement: interface is {interface!r}: allowed are wsgi, asgi")
    return None if interface is None else str(interface)


def _finding(measurement: Mapping[str, object]) -> str | None:
    """The first of what makes preloading unsafe, as one line."""
    findings = measurement.get("preload_findings")
    if not isinstance(findings, (list, tuple)) or not findings:
        return None
    return _line(findings[0]) or None


def _line(text: object) -> str:
    """The start of a text that others wrote, as one line."""
    return shorten(" ".join(filter(str.isprintable, str(text).split())), 200, placeholder=" …")


def _base(shared: Mapping[str, object]) -> float | None:
    """PSS of a preloaded master and its workers, less what each worker has for itself."""
    master, pss, uss, workers = (_number(shared, name) for name in ("master_pss", "pss", "uss", "workers"))
    if master is None or pss is None or uss is None or workers is None:
        return None
    return master + workers * max(0.0, pss - uss)


def _fraction(value: float | None) -> float | None:
    return None if value is None else min(value, 0.99)


def _with_its_request(chosen: dict[str, object]) -> None:
    """On an event loop a connection is one slot, and its request comes on top of it when it is open."""
    connection, request = chosen.get("connection_memory"), chosen.get("request_memory")
    if isinstance(connection, int) and isinstance(request, int):
        chosen["connection_memory"] = connection + request


def _kind(measurement: Mapping[str, object], chosen: Mapping[str, object], loop: bool) -> str | None:
    """What requests that were measured say of the app; None: nothing, so that the profile decides."""
    if loop or _interface(measurement) == "asgi":
        return "async" if chosen.get("worker_class") != "gevent" else None
    cpu, wait = chosen.get("cpu_per_request"), chosen.get("wait_per_request")
    return kind_of(
        None if cpu is None else float(str(cpu)), None if wait is None else float(str(wait)), "wsgi"
    )


def kind_of(cpu_seconds: float | None, wait_seconds: float | None, interface: str | None) -> str | None:
    """The kind of an app whose requests take so many seconds of CPU and of waiting; None where nobody knows.

    ``interface`` is ``asgi`` or ``wsgi``. The one rule of the plan and of ``farrier measure``: an ASGI app is
    ``async``; one that computes a while and waits for next to nothing is ``cpu``, and ``mixed`` if it waits
    some; all others are ``io``. Raises SizingError for figures that are none.
    """
    if interface == "asgi":
        return "async"
    if cpu_seconds is None or wait_seconds is None:
        return None
    seen = Workload.profile(cpu_per_request=cpu_seconds, wait_per_request=wait_seconds)
    if seen.only_computes:
        return "cpu"
    waits = seen.waits_a_cpu_second
    computes = (seen.cpu_per_request or 0.0) >= constants.COMPUTES_FROM
    return "mixed" if waits is not None and waits < constants.WAITS_FROM and computes else "io"


def _part(measurement: Mapping[str, object], name: str) -> Mapping[str, object]:
    part = measurement.get(name)
    if part is None:
        return {}
    if not isinstance(part, Mapping):
        raise SizingError(f"not a measurement: {name} is {part!r}, and an object is wanted")
    return part


def _number(figures: Mapping[str, object], name: str) -> float | None:
    value = figures.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**60:
        raise SizingError(f"not a measurement: {name} is {value!r}, and a number of 0 or more is wanted")
    return float(value)


def _flag(figures: Mapping[str, object], name: str) -> bool | None:
    value = figures.get(name)
    if value is not None and not isinstance(value, bool):
        raise SizingError(f"not a measurement: {name} is {value!r}, and true or false is wanted")
    return value


def _text(figures: Mapping[str, object], name: str) -> str | None:
    value = figures.get(name)
    if value is not None and not isinstance(value, str):
        raise SizingError(f"not a measurement: {name} is {value!r}, and a name is wanted")
    return value


def _whole(value: float | None, least: int = 0) -> int | None:
    return None if value is None else max(least, round(value))
