"""From what ``farrier measure`` saw of an app, and what a person stated of it, to a workload.

The object is described in docs/architecture.md: bytes and seconds, ``null`` where a figure could not be had.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import constants
from .units import SizingError
from .workload import LOOP_CLASSES, Workload, normalise_worker_class

SCHEMA = 1

_MEMORY_FIGURES = ("private_memory", "shared_private", "shared_base")
"""Figures that only go together with the app_memory that was measured with them."""


def workload_of(measurement: Mapping[str, object], given: Mapping[str, object] | None = None) -> Workload:
    """The workload of a measured app. What a person stated in ``given`` (as Workload.from_mapping) wins.

    What was neither measured nor stated is assumed from the profile. Raises SizingError for another schema
    and for what is no measurement.
    """
    stated = {name: value for name, value in (given or {}).items() if value is not None}
    if measurement.get("schema") != SCHEMA:
        raise SizingError(
            f"not a measurement: schema is {measurement.get('schema')!r}, this version reads {SCHEMA}"
        )
    found = _found(measurement)
    if "app_memory" in stated:
        found = {name: value for name, value in found.items() if name not in _MEMORY_FIGURES}
    if "worker_class" in stated:
        found.pop("any_class", None)
    chosen = {**found, **stated}
    any_class = bool(chosen.pop("any_class", False))
    loop = (
        normalise_worker_class(chosen["worker_class"]) in LOOP_CLASSES if "worker_class" in chosen else False
    )
    if loop and "connection_memory" not in stated:
        _with_its_request(chosen)
    chosen.setdefault("kind", _kind(measurement, chosen, loop))
    load = Workload.from_mapping({**chosen, "measured": True}, "measurement")
    return Workload.from_dict({**load.to_dict(), "any_class": any_class})


def _found(measurement: Mapping[str, object]) -> dict[str, object]:
    """Figures of the measurement, by the names that a workload has for them; only those that there are."""
    alone, shared = (_part(measurement, name) for name in ("alone", "shared"))
    request, connection = _number(measurement, "request_memory"), _number(measurement, "connection_memory")
    app, private = _number(measurement, "app_memory"), _number(alone, "uss")
    found: dict[str, object] = {
        "framework": measurement.get("framework"),
        "worker_class": measurement.get("worker_class"),
        "app_memory": _whole(app),
        "private_memory": _whole(private if app is None or private is None else min(app, private)),
        "shared_private": _whole(_number(shared, "uss")),
        "shared_base": _whole(_base(shared)),
        "shared_fraction": _fraction(_number(measurement, "shared_fraction")),
        "request_memory": _whole(request, constants.MEASURED_REQUEST_AT_LEAST),
        "connection_memory": _whole(connection, constants.MEASURED_CONNECTION_AT_LEAST),
        "boot_seconds": _number(measurement, "boot_seconds"),
        "preload_safe": measurement.get("preload_safe"),
        "growth_per_1000": _whole(_number(measurement, "growth_per_1000")),
        "cpu_per_request": _number(measurement, "cpu_per_request"),
        "wait_per_request": _number(measurement, "wait_per_request"),
        "any_class": measurement.get("interface", "wsgi") == "wsgi" or None,
    }
    return {name: value for name, value in found.items() if value is not None}


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
    if loop or measurement.get("interface") == "asgi":
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


def _whole(value: float | None, least: int = 0) -> int | None:
    return None if value is None else max(least, round(value))
