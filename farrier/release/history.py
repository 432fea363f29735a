"""What was deployed here, how it went, and which releases may serve again: what ``release list`` shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import FarrierError
from . import events, files, systemd
from . import state as states
from .layout import COLOURS, Layout
from .spec import Spec
from .state import Release, State

# Digits of a digest that tell two of them apart for a person.
SHORT = 10


# -- which releases may serve again -------------------------------------------------------------------------


def rollback_target(layout: Layout, state: State) -> str | None:
    """The release that a rollback without a name takes: the good one, other than this, that served last.

    One that somebody rolled back from is taken only where there is no other: two rollbacks go two back.
    """
    good = [one for one in _in_order(layout) if not one.bad and one.id != state.release]
    found = [one for one in good if not one.left] or good
    return found[-1].id if found else None


def _in_order(layout: Layout) -> list[Release]:
    """The releases that have served, by when each last began to; the newest last."""
    every = [one for one in states.releases(layout) if one.served]
    return sorted(every, key=lambda one: (one.served or "", one.id))


def took_over(layout: Layout, state: State) -> None:
    """Records that the run under way has brought ``state.release`` to serve, by a rollback or not."""
    release, before = Release.load(layout, str(state.release)), state.run.get("from")
    if release is None or (release.served and before == release.id):
        return
    release.served, release.left = states.now(), None
    release.save(layout)
    left = Release.load(layout, str(before)) if state.run.get("action") == "rollback" else None
    if left is not None:
        left.left = release.served
        left.save(layout)


def kept(layout: Layout, state: State, keep: int) -> set[str]:
    """The releases that must stay: the serving one, what a rollback takes, `keep` good and `keep` bad ones.

    Bad ones stay to be looked at, and to be known again when somebody deploys the same once more.
    """
    every = _in_order(layout)
    good = [one.id for one in every if not one.bad]
    bad = [one.id for one in every if one.bad]
    needed = {state.release, state.previous, rollback_target(layout, state)}
    return {*good[-keep:], *bad[-keep:], *(one for one in needed if one)}


def choose(layout: Layout, state: State, given: str | None, force: bool) -> str:
    """The release to roll back to. Raises FarrierError with the ones that are allowed, or why it is bad."""
    every = _in_order(layout)
    good = [one.id for one in every if not one.bad and one.id != state.release]
    allowed = ", ".join(reversed(good)) or "none is kept"
    found = next((one for one in every if one.id == given), None)
    if given is None:
        target = rollback_target(layout, state)
        if target is None:
            raise FarrierError(f"{layout.name}: no good release to go back to; allowed: {allowed}")
        return target
    if found is None or found.id == state.release:
        what = "which serves already" if found else "which did not serve here or is not kept"
        raise FarrierError(f"{layout.name}: given release {given}, {what}; allowed: {allowed}")
    if found.bad and not force:
        raise FarrierError(
            f"{layout.name}: given release {given}, which is bad: {told(found.bad)}; "
            f"allowed: {allowed}, or that one with --force"
        )
    return found.id


def refuse_bad(name: str, release: Release | None, state: State, retry: bool) -> None:
    """Raises FarrierError for a release that was rolled back before, unless it serves or is to be retried."""
    if release is None or not release.bad or retry or release.id == state.release:
        return
    raise FarrierError(
        f"{name}: this is release {release.id}, which is bad: {told(release.bad)}; "
        "change the source, or set retry_bad: true (--retry-bad) to try it again"
    )


def told(bad: dict[str, str]) -> str:
    """A mark in one line."""
    who = f" by {bad['who']}" if bad.get("who") else ""
    return f"{bad.get('why') or 'no reason was given'} ({_minute(bad.get('time', ''))} UTC{who})"


def mark(layout: Layout, release_id: str, why: str | None, who: str) -> Release:
    """Marks a release as bad for a reason, or as good with None. Raises FarrierError for an unknown one."""
    release = Release.load(layout, release_id)
    if release is None:
        have = ", ".join(one.id for one in reversed(states.releases(layout))) or "none"
        raise FarrierError(f"{layout.name}: given release {release_id}, which is not kept; allowed: {have}")
    release.bad = None if why is None else {"time": states.now(), "why": why, "who": who}
    release.save(layout)
    return release


def note_killed(layout: Layout, state: State, how: str = " by a kill") -> None:
    """Ends, in the history, the run that a kill (or `how`) ended, once what it had begun is put right."""
    run = state.run
    if not run:
        state.save(layout)
        return
    step = events.last_step(layout.events, str(run.get("id", ""))) or run.get("phase", "its start")
    switched = run.get("phase") == "switched"
    release = state.release if switched else run.get("candidate")
    what = "the new release serves" if switched else "what it had changed was put back"
    what = f"release {state.release} serves" if "back" in run else what
    # One that was ended on its way back from it serves because nobody got any further.
    outcome = "good" if switched and "back" not in run else "failed"
    state.note(layout, outcome, release, f"ended at {step}{how}; {what}", seconds=None)


# -- what a person reads ------------------------------------------------------------------------------------


def listed(name: str) -> dict[str, Any]:
    """Every run that is remembered and every release that is kept, oldest first."""
    layout = states.layout_of(name)
    state = State.load(layout)
    target, deploying = rollback_target(layout, state), states.is_locked(layout)
    return {
        "name": name,
        "active": state.active,
        "release": state.release,
        "rollback": target,
        "deploying": states.held_by(layout) if deploying else None,
        "unfinished": None if deploying else _unfinished(state),
        "history": state.history,
        "releases": [
            {"id": one.id, "made": one.made, "served": one.served, "source": one.source,
             "origin": origin(one.source, one), "python": one.python, "gunicorn": one.gunicorn,
             "runtime": one.runtime, "installer": one.installer, "active": one.id == state.release,
             "previous": one.id == state.previous, "rollback": one.id == target, "bad": one.bad,
             "left": one.left}
            for one in states.releases(layout)
        ],
    }  # fmt: skip


def origin(source: str, release: Release | None = None) -> str:
    """What a release was built from, in short: ``archive 3f2a9c1d04``, ``main 1b2c3d4e5f``, ``shop==1.2``."""
    kind, _, rest = source.partition(":")
    if kind == "sha256":
        return f"archive {rest[:SHORT]}"
    if kind == "commit":
        given = (release.spec.get("source") or {}) if release else {}
        ref = str(given.get("ref") or "")
        return f"{ref} {rest[:SHORT]}" if ref and ref != rest else f"commit {rest[:SHORT]}"
    return rest if kind == "requirement" else source


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The answer of :func:`listed` as a table."""
    by_id = {one["id"]: one for one in found["releases"]}
    rows = [("when (UTC)", "who", "what", "release", "from", "how", "took", "outcome")]
    for run in found["history"]:
        source = by_id[run["release"]]["origin"] if run.get("release") in by_id else origin(
            run.get("source") or ""
        )  # fmt: skip
        seconds = run.get("seconds")
        took = f"{seconds:.1f} s" if isinstance(seconds, int | float) else ""
        rows.append((
            _minute(run["time"]), run.get("who") or "-", run.get("action") or "-", run["release"] or "-",
            source or "-", run.get("strategy") or "-", took, _outcome(run),
        ))  # fmt: skip
    yield from _table(rows if len(rows) > 1 else [])
    if len(rows) > 1:
        yield ""
    marks = [(_sign(one), one["id"], one["origin"], f"Python {one['python']}", _standing(one))
             for one in found["releases"]]  # fmt: skip
    yield from _table([("", "release", "from", "", ""), *marks])
    for line in (found["deploying"], found["unfinished"]):
        if line:
            yield ""
            yield line


def _unfinished(state: State) -> str | None:
    """A run that a kill or a stop ended and that no other run has come after yet."""
    if not state.run:
        return None
    began = _minute(str(state.run.get("began", "")))
    return f"the run of {state.run.get('who') or 'somebody'}, {began} UTC, was ended; the next one goes on"


def _sign(release: dict[str, Any]) -> str:
    return "*" if release["active"] else "!" if release["bad"] else "<" if release["rollback"] else " "


def _standing(release: dict[str, Any]) -> str:
    words = [
        "serves" if release["active"] else "",
        "what a rollback takes" if release["rollback"] else "",
        f"bad: {told(release['bad'])}" if release["bad"] else "",
        f"rolled back from ({_minute(release['left'])} UTC)" if release["left"] else "",
        "" if release["served"] else "has never served",
    ]
    return "; ".join(word for word in words if word)


def _outcome(run: dict[str, Any]) -> str:
    message = run.get("message") or ""
    return f"{run['outcome']}: {message}" if message else str(run["outcome"])


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as their widest, the last one as it comes."""
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def measured(release: Release | None) -> dict[str, Any] | None:
    """What the plan of a release stands on: when it was measured, or why it was not; None: nobody tried."""
    known = release.measured if release else {}
    if not known.keys() & {"measurement", "not_measured"}:
        return None
    from .measure import told

    measurement = known.get("measurement") or {}
    return {
        "time": known.get("measured_at"),
        "app_memory": measurement.get("app_memory"),
        "cpu_per_request": measurement.get("cpu_per_request"),
        "wait_per_request": measurement.get("wait_per_request"),
        "preload_safe": measurement.get("preload_safe"),
        "requests": [f"{one['method']} {one['path']}" for one in measurement.get("requests") or ()],
        "not_measured": known.get("not_measured"),
        "preload_findings": list(measurement.get("preload_findings") or ()),
        "told": told(measurement),
    }


def plan_stands_on(found: dict[str, Any] | None) -> str:
    """The answer of :func:`measured` in one line."""
    if not found:
        return "assumptions and what the import showed: the release was not measured"
    if found["not_measured"]:
        return f"no measurement of its own: {found['not_measured']}"
    return f"a measurement of {_minute(found['time'] or '')} UTC ({', '.join(found['requests'])})"


def shown(name: str) -> dict[str, Any]:
    """The app as it is on the host: who serves, what runs, what happened last."""
    layout = states.layout_of(name)
    state = State.load(layout)
    data = files.read_json(layout.app_json) or files.read_json(layout.wanted_json) or {}
    spec = Spec.from_mapping({key: value for key, value in data.items() if key != "order"})
    colours = {
        colour: systemd.show(layout.service(colour), "ActiveState", "SubState", "MainPID", "NRestarts")
        for colour in COLOURS
    }
    return {
        "name": name,
        "active": state.active,
        "release": state.release,
        "previous": state.previous,
        "rollback": rollback_target(layout, state),
        "measured": measured(Release.load(layout, state.release or "")),
        "weight": spec.weight,
        "url": spec.listen.url,
        "root": str(layout.root),
        "user": spec.user,
        "socket": systemd.show(layout.socket, "ActiveState")["ActiveState"],
        "colours": colours,
        "deploying": states.held_by(layout) if states.is_locked(layout) else None,
        "history": state.history,
    }
