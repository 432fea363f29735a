"""What the host knows about one app between two runs: state.json, the lock, and the record of a release."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import FarrierError
from . import files
from .layout import Layout

SCHEMA = 1
# Seconds between two tries to take it. A look holds it for microseconds, and must turn no run away.
LOCK_AGAIN = 0.01
# Seconds in which whoever takes the lock has written who they are, and whoever only looks has let go of it.
LOCK_TOLD = 0.2
HISTORY = 20
# What a run puts into State.run as it learns it, for the history: what was done (deploy, rollback, reload,
# settings), by which strategy, from which release, and what the release was built from.
TOLD = ("action", "strategy", "from", "source")


class Held(FarrierError):
    """Another run holds the app's lock."""


@dataclass
class State:
    """One app on this host. Written whole after each step that changes the host."""

    active: str | None = None
    """The colour that takes the connections."""
    release: str | None = None
    """The release that is served."""
    previous: str | None = None
    """The release that was served before it."""
    created: dict[str, Any] = field(default_factory=dict)
    """What this app's runs made and ``remove`` takes away: user, group, root; ``shared``: the run that made
    it; ``adopted``: the user was there, from before a removal that kept the data."""
    run: dict[str, Any] = field(default_factory=dict)
    """The run under way: id, who, phase, candidate (release), colour, and of ``TOLD`` what is known yet.
    Empty between runs."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The last runs, newest last: time, run, outcome, who, release, seconds, message, and ``TOLD``."""

    @classmethod
    def load(cls, layout: Layout) -> State:
        data = files.read_json(layout.state_json) or {}
        return cls(**{item.name: data[item.name] for item in fields(cls) if item.name in data})

    def save(self, layout: Layout) -> None:
        data = {"schema": SCHEMA, "name": layout.name, **asdict(self)}
        files.write_json(layout.state_json, data, 0o640, _group(layout))

    def begin(self, layout: Layout, run: str, who: str, **told: str) -> None:
        """Begins a run; `told`: of ``TOLD`` what is known already."""
        began = {"began": now(), "clock": time.time()}
        self.run = {"id": run, "who": who, "phase": "build", **began, "from": self.release, **told}
        self.save(layout)

    def note(
        self, layout: Layout, outcome: str, release: str | None, message: str = "", **told: Any
    ) -> dict[str, Any]:
        """Ends the run, keeps how it went and answers that. What is not told is taken from the run."""
        clock = self.run.get("clock")
        seconds = round(max(0.0, time.time() - clock), 1) if clock else None
        entry = {"time": now(), "outcome": outcome, "release": release, "message": message}
        entry |= {"run": self.run.get("id", ""), "who": self.run.get("who", ""), "seconds": seconds}
        entry |= {key: self.run.get(key) or "" for key in TOLD}
        if release and not entry["source"]:
            built = Release.load(layout, release)
            entry["source"] = built.source if built else ""
        entry |= told
        self.history = [*self.history, entry][-HISTORY:]
        self.run = {}
        self.save(layout)
        return entry


def in_force(layout: Layout, state: State) -> dict[str, Any] | None:
    """The spec of what serves: app.json, or that of a run which was ended after its switch."""
    wanted = files.read_json(layout.wanted_json) or {}
    order, run = wanted.pop("order", {}), state.run
    if run.get("phase") == "switched" and "back" not in run and order.get("run") == run.get("id"):
        return wanted
    return files.read_json(layout.app_json)


@dataclass
class Release:
    """One build of one source. ``done`` lists the steps that are behind it."""

    id: str
    identity: str
    made: str
    source: str = ""
    done: list[str] = field(default_factory=list)
    python: str = ""
    runtime: str = ""
    installer: str = ""
    gunicorn: str = ""
    measured: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    served: str | None = None
    """When it last began to serve; a release that never did is none to roll back to."""
    left: str | None = None
    """When somebody rolled back from it, if nobody deployed it since."""
    bad: dict[str, str] | None = None
    """Why it must not serve again: time, why, who."""

    @classmethod
    def load(cls, layout: Layout, release_id: str) -> Release | None:
        data = files.read_json(layout.release(release_id) / "release.json")
        if data is None or data.get("id") != release_id:
            return None
        return cls(**{item.name: data[item.name] for item in fields(cls) if item.name in data})

    def save(self, layout: Layout) -> None:
        data = {"schema": SCHEMA, **asdict(self)}
        files.write_json(layout.release(self.id) / "release.json", data, 0o640, _group(layout))

    @property
    def is_built(self) -> bool:
        return "check" in self.done


def _group(layout: Layout) -> int:
    """The app's group, as its folder under /etc has it; root's before the first run made that folder."""
    try:
        return layout.etc.stat().st_gid
    except OSError:
        return 0


def releases(layout: Layout) -> list[Release]:
    """Every release on disk, oldest first."""
    try:
        names = sorted(entry.name for entry in layout.releases.iterdir() if not entry.name.startswith("."))
    except OSError:
        return []
    return [found for name in names if (found := Release.load(layout, name))]


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@contextmanager
def locked(layout: Layout, who: str, wait: float = 0) -> Iterator[None]:
    """Holds the app's lock; raises Held, which says whose it is and since when, after `wait` seconds.

    The kernel lets go of it when its holder dies, so a killed run never blocks the next. Only root can open
    the file, so nobody else can block a run.
    """
    descriptor = _take(layout, time.monotonic() + max(wait, LOCK_TOLD))
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "who": who, "since": time.time()}).encode(), 0)
        yield
    finally:
        # A holder that has gone must not be named later.
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _take(layout: Layout, until: float) -> int:
    """The descriptor of the lock, held."""
    while True:
        layout.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(descriptor, 0o600)
            # A removal takes the file away: a lock on what no longer has the name is none.
            if layout.lock.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                raise Held(f"{layout.name}: {held_by(layout)}", 1) from None
            time.sleep(LOCK_AGAIN)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def held_by(layout: Layout) -> str:
    """Who runs a deploy of this app now, in one line."""
    owner = holder(layout) or {}
    age = max(0, int(time.time() - float(owner.get("since", time.time()))))
    who = owner.get("who") or "somebody"
    return (
        f"another run holds it: {who}, pid {owner.get('pid', '?')}, for {age} s; wait for it, "
        f"or end it with: systemctl stop {layout.deploy_unit}"
    )


def is_locked(layout: Layout) -> bool:
    """Whether somebody holds it. Looks of several at the same time do not see each other."""
    try:
        descriptor = os.open(layout.lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def holder(layout: Layout) -> dict[str, Any] | None:
    """pid, who and since (Unix time) of whoever holds the lock; None where nobody does."""
    until = time.monotonic() + LOCK_TOLD
    while is_locked(layout):
        told = files.read_json(layout.lock)
        if told or time.monotonic() >= until:
            return told or {}
        # Between taking it and saying so, or between taking that back and letting go.
        time.sleep(LOCK_TOLD / 20)
    return None


def layout_of(name: str) -> Layout:
    """The layout of an app that is on this host. Raises FarrierError with the ones that are."""
    from .layout import ETC

    data = files.read_json(ETC / name / "app.json") or files.read_json(ETC / name / "wanted.json")
    if data is None:
        have = sorted(path.parent.name for path in ETC.glob("*/app.json"))
        raise FarrierError(f"{name}: no such app on this host; it has {', '.join(have) or 'none'}")
    return Layout(name, Path(data.get("root") or f"/srv/{name}"))
