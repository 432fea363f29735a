"""A release measured before it serves: what its processes take and do here, for the plan.

``farrier measure`` runs as the app's user within the memory that is free, with the app's environment, after
the migrations, so that the app can answer. A release is never refused for what comes of it: where there is no
room, or it fails, the plan stands on what was known before, and one line says so.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from ..errors import FarrierError
from . import files, room
from . import state as states
from .build import Build
from .events import Step
from .spec import Measure
from .state import Release

MIB = 1 << 20
# From so many times its CPU time on, a request's waiting makes an app I/O-bound (farrier.sizing's own line).
WAITS_FROM = 4.0
# So many findings against preloading are told; release.json has them all.
FINDINGS = 2
# Seconds beyond those that it may take, until it is ended: the interpreter starts nicely, beside what serves.
SLACK = 30.0
# Seconds for what it is asked, and how many times an import's: it boots four times, beside what serves.
ASKED_SECONDS, BOOTS = 6.0, 10
# Seconds at most where nobody said how long, as farrier measure has it.
SECONDS = 20
# Figures below 1 MiB (a connection, a request) are kept in steps of this.
SMALL_STEP = 16 << 10
# So far apart two measurements of one app came out in the lab, on CPUs that much else used: what a process
# takes, what is a small difference of such figures (a request, a connection, growth), and times.
MEMORY_NOISE, SMALL_NOISE, TIME_NOISE = 0.1, 0.5, 0.25
# A share of the heap is one to this.
SHARE_NOISE = 0.05
# An app whose import takes so much more or less than another release's is not what was measured then.
ALIKE = 0.25
_BYTES = ("import_memory", "app_memory", "request_memory", "connection_memory", "growth_per_1000")
_SECONDS = ("import_seconds", "boot_seconds", "cpu_per_request", "wait_per_request")
_PER_WORKER = ("alone", "shared")


class NoRoom(FarrierError):
    """There was too little memory beside what serves: another time there may be more."""


def into(build: Build, step: Step, former: Release | None) -> list[str]:
    """Measures the release of `build` and stores what came of it; answers what a person is to be warned of.

    `former` is the release that serves: a figure that differs from its own by no more than noise stays as it
    was, so that a plan changes when the app does.
    """
    measured, options = build.release.measured, build.spec.measure
    # The same release again, or another one, asked the same: else nothing of it is to stay.
    known = former.measured if former else {}
    before = known.get("measurement") if known.get("measured_by") == options.digest else None
    # Once more after a lack of room, and no more than that.
    once_more = not (measured.pop("measure_again", False) and measured.get("measured_by") == options.digest)
    for key in ("not_measured", "measured_by"):
        measured.pop(key, None)
    try:
        found = _rounded(_measurement(build))
    except FarrierError as error:
        why = str(error).removeprefix("measure: ")
        if isinstance(error, NoRoom) and once_more:
            measured["measure_again"] = True
        measured["not_measured"] = why
        why += _stands_on(measured, former)
        step.detail = f"not measured: {why}"
        return [f"could not be measured: {why}"]
    finally:
        measured["measured_by"] = options.digest
        files.delete(build.scratch)
    measured["measurement"] = steadied(found, before) if before else found
    measured["measured_at"] = states.now()
    step.detail = in_short(measured["measurement"])
    return [f"was measured by what says little of it: {one}" for one in elsewhere(found)]


def _stands_on(measured: dict[str, Any], former: Release | None) -> str:
    """What a plan stands on whose release could not be measured: it is taken over into `measured`."""
    if measured.get("measurement"):
        return f"; planned by what was measured at {measured.get('measured_at')}"
    if former and former.measured.get("measurement") and _alike(measured, former.measured):
        measured |= {key: former.measured[key] for key in ("measurement", "measured_at")}
        return f"; planned by what release {former.id} was measured with"
    return "; planned by what the import showed"


def _measurement(build: Build) -> dict[str, Any]:
    """What ``farrier measure`` prints. Raises FarrierError with one line."""
    spec, release = build.spec, build.release
    limit = room.free() - room.SPARE
    # The arbiter, two workers, and the one that measures.
    least = 2 * int(release.measured.get("app_memory", 0)) + 2 * room.LEAST
    if limit < least:
        raise NoRoom(f"{max(limit, 0) >> 20} MiB are free beside what serves, and it takes {least >> 20} MiB")
    build.own(build.scratch)
    argv = [str(build.venv / "bin" / "farrier"), "measure", spec.app, "--json"]
    seconds = bound(spec.measure, float(release.measured.get("boot_seconds", 0)))
    argv += [f"--seconds={seconds}", f"--worker-class={build.class_now()}"]
    argv += [f"--request={one}" for one in spec.measure.asked]
    argv += [f"--header={one}" for one in spec.measure.headers]
    env = {**build.command_env(), "PYTHONDONTWRITEBYTECODE": "1", "FARRIER_APP": spec.name}
    try:
        text = room.trial(
            argv, build.account, limit, spec.name, env=env, cwd=build.workdir,
            timeout=seconds + SLACK, what="measure", own_words=True,
        )  # fmt: skip
    except FarrierError as error:
        if room.killed(str(error)):
            raise NoRoom(f"it needed more than the {limit >> 20} MiB that are free", 1) from None
        raise FarrierError(_own_words(str(error)), 1) from None
    found = _judged(text)
    # It was told the class of the plan; whether a person chose that, only the spec says.
    chosen = spec.settings.get("worker_class") or spec.workload.get("worker_class")
    found["worker_class_chosen"] = bool(chosen)
    return found if spec.measure.requests else front_page_only(found)


def bound(options: Measure, boot_seconds: float) -> int:
    """Seconds that a measurement may take: a person's, else less for an app that boots quickly. Pure.

    A deploy waits for it.
    """
    return options.seconds or min(SECONDS, math.ceil(ASKED_SECONDS + BOOTS * boot_seconds))


def _own_words(told: str) -> str:
    """The last line of what it said, without the app's log before it."""
    said = re.search(r"farrier(?: measure)?: (.+?)(?: \(exit status \d+\))?$", told)
    return said[1] if said else told.removeprefix("measure: ")


def _judged(text: str) -> dict[str, Any]:
    """The object that was printed, if the app answered. Raises FarrierError.

    A redirect or an error page costs other than the page behind it: of those only what a process takes that
    was asked at all is kept, and growth that was seen. That none was seen says nothing.
    """
    found = _printed(text)
    for request, status in _statuses(found).items():
        if status >= 500:
            raise FarrierError(f"{request} answered {status}", 1)
    if not found.get("app_memory"):
        raise FarrierError("what a process takes could not be measured", 1)
    strange = elsewhere(found)
    if not strange:
        return found
    left_out = ("cpu_per_request", "wait_per_request", "request_memory", "shared", "shared_fraction")
    notes = [f"{one}: its times and what it takes were left out" for one in strange]
    return {
        **found,
        **dict.fromkeys(left_out),
        "growth_per_1000": found.get("growth_per_1000") or None,
        "notes": [*(found.get("notes") or ()), *notes],
    }


def _printed(text: str) -> dict[str, Any]:
    """The last object in what was printed, whatever the app printed before it or after it."""
    lines = text.splitlines()
    for number in reversed(range(len(lines))):
        if lines[number].startswith("{"):
            with contextlib.suppress(ValueError):
                found, _ = json.JSONDecoder().raw_decode("\n".join(lines[number:]))
                if isinstance(found, dict) and "schema" in found:
                    return found
    raise FarrierError("it answered nothing that could be read", 1)


def _statuses(found: Mapping[str, Any]) -> dict[str, int]:
    """What each request was answered; 0: not at all."""
    return {f"{one['method']} {one['path']}": int(one["status"] or 0) for one in found.get("requests") or ()}


def elsewhere(found: Mapping[str, Any]) -> list[str]:
    """``GET / answered 302`` of each request that was not answered by the page itself. Pure."""
    answers = _statuses(found).items()
    return [
        f"{request} answered {status}" if status else f"{request} got no answer"
        for request, status in answers
        if not 200 <= status < 300
    ]


def front_page_only(found: Mapping[str, Any]) -> dict[str, Any]:
    """`found` where nobody named a request: a front page says little of the other pages. Pure.

    That it does not grow says nothing of theirs. If it computes, they may still wait for a database, and
    would wait for each other where a worker has few threads.
    """
    kept = {**found, "growth_per_1000": found.get("growth_per_1000") or None}
    cpu, wait = found.get("cpu_per_request"), found.get("wait_per_request")
    if found.get("interface") != "wsgi" or cpu is None or wait is None or wait >= WAITS_FROM * cpu:
        return kept
    note = "only GET / was asked, which computes: its times say nothing of the rest; name requests in measure"
    return {
        **kept,
        "cpu_per_request": None,
        "wait_per_request": None,
        "notes": [*(found.get("notes") or ()), note],
    }


def steadied(found: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """`found` with the former figure wherever the two differ by noise only, or there is no new one.

    Of another worker class, other requests or other answers nothing is kept. Pure.
    """
    asked = [
        [(one.get("method"), one.get("path"), one.get("status")) for one in each.get("requests") or ()]
        for each in (found, before)
    ]
    if asked[0] != asked[1] or found.get("worker_class") != before.get("worker_class"):
        return dict(found)
    out = dict(found)
    for key in _BYTES:
        noise = MEMORY_NOISE if key.endswith(("app_memory", "import_memory")) else SMALL_NOISE
        out[key] = _kept(
            found.get(key), before.get(key), noise, MIB if key.endswith("app_memory") else SMALL_STEP
        )
    # An error goes with the figure that it is of.
    owner = before if out["growth_per_1000"] == before.get("growth_per_1000") else found
    if "growth_error" in owner:
        out["growth_error"] = owner["growth_error"]
    for key in _SECONDS:
        out[key] = _kept(found.get(key), before.get(key), TIME_NOISE, 0)
    out["shared_fraction"] = _kept(
        found.get("shared_fraction"), before.get("shared_fraction"), 0, SHARE_NOISE
    )
    for key in _PER_WORKER:
        ours, theirs = found.get(key), before.get(key)
        if ours and theirs and ours.get("workers") != theirs.get("workers"):
            # Their parts are of different wholes.
            out[key] = ours
            continue
        out[key] = {name: _kept(ours.get(name), theirs.get(name), MEMORY_NOISE, MIB) for name in ours} if (
            ours and theirs
        ) else ours or theirs  # fmt: skip
    return out


def _kept(now: Any, before: Any, share: float, step: float) -> Any:
    """The former of two figures where they are within a share of the larger one, or within one step."""
    if now is None or before is None:
        return before if now is None else now
    return before if abs(now - before) <= max(share * max(now, before), step) else now


def _rounded(found: dict[str, Any]) -> dict[str, Any]:
    """Memory up to the next MiB (16 KiB below one), seconds to two digits: more would be noise."""
    out = dict(found)
    out |= {key: _up(found[key]) for key in _BYTES if found.get(key) is not None}
    out |= {key: _digits(found[key]) for key in _SECONDS if found.get(key) is not None}
    if found.get("shared_fraction") is not None:
        out["shared_fraction"] = round(float(found["shared_fraction"]), 2)
    for key in _PER_WORKER:
        if found.get(key):
            out[key] = {
                name: value if name == "workers" or value is None else _up(value)
                for name, value in found[key].items()
            }
    return out


def _up(size: float) -> int:
    step = MIB if size > MIB else SMALL_STEP
    return math.ceil(size / step) * step


def _digits(seconds: float) -> float:
    return float(f"{seconds:.2g}")


def _alike(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether another release's measurement may stand for this one: by what their imports took."""
    if mine.get("worker_class") != theirs.get("worker_class") or mine.get("interface") != theirs.get(
        "interface"
    ):
        return False
    one, other = int(mine.get("app_memory", 0)), int(theirs.get("app_memory", 0))
    return abs(one - other) <= ALIKE * max(one, other)


def in_short(found: Mapping[str, Any]) -> str:
    """``62 MiB, 4 ms CPU and 50 ms waiting a request`` of what could be had, and what is to be said of it."""
    words = [f"{int(found['app_memory']) >> 20} MiB"] if found.get("app_memory") else []
    times = [
        f"{float(found[key]) * 1000:.3g} ms {what}"
        for key, what in (("cpu_per_request", "CPU"), ("wait_per_request", "waiting"))
        if found.get(key) is not None
    ]
    if times:
        words.append(f"{' and '.join(times)} a request")
    if found.get("preload_safe") is not None:
        words.append("safe to preload" if found["preload_safe"] else "not safe to preload")
    return "; ".join([", ".join(words), *told(found)])


def told(found: Mapping[str, Any]) -> list[str]:
    """What keeps the app from being preloaded, the first of it, and the notes of its measurement. Pure."""
    unsafe = [str(one) for one in found.get("preload_findings") or ()]
    more = f" (and {len(unsafe) - FINDINGS} more)" if len(unsafe) > FINDINGS else ""
    lines = [f"preloading: {', '.join(unsafe[:FINDINGS])}{more}"] if unsafe else []
    return [*lines, *(str(one) for one in found.get("notes") or ())]
