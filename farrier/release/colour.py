"""One colour as it runs: what its arbiter writes of itself, and the signals and orders that steer it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FarrierError
from . import files, systemd
from .layout import Layout

# Seconds, beyond a unit's own timeouts: systemd's own work on a busy host.
SLACK = 30
# Seconds between two looks at a state file, which the arbiter writes at least once a second.
LOOK_AGAIN = 0.05
# Ends of workers after which waiting for one more is of no use.
BROKEN = ("failed to boot", "killed for memory", "crashed", "timed out")


@dataclass(frozen=True)
class Running:
    """What one arbiter says of itself at one moment."""

    pid: int
    number: int
    """How many workers it is to have."""
    configured: int
    """How many it would start with."""
    alive: int
    """Worker processes, those that boot or drain included."""
    ready: int
    phase: str
    broken: int
    """Workers of it that ended otherwise than they were asked to."""
    last_reload: dict[str, Any] | None
    tells_reload: bool
    """An arbiter of an older release does not."""


def running(layout: Layout, colour: str) -> Running | None:
    """The colour's arbiter as its state file has it; None where none runs that wrote one."""
    data = files.read_json(layout.run_dir / f"{colour}.json")
    if data is None or not belongs(int(data.get("pid", 0)), layout.service(colour)):
        return None
    workers = data.get("workers", [])
    endings = data.get("endings") or {}
    number = int(data.get("workers_wanted", 0))
    return Running(
        pid=int(data["pid"]),
        number=number,
        configured=int((data.get("settings") or {}).get("workers", number)),
        alive=len(workers),
        ready=sum(1 for one in workers if one.get("stage") == "ready"),
        phase=str(data.get("phase", "")),
        broken=sum(int(endings.get(name, 0)) for name in BROKEN),
        last_reload=data.get("last_reload"),
        tells_reload="last_reload" in data,
    )


def belongs(pid: int, service: str) -> bool:
    """Whether a process is one of that service: a state file may be older than the number's new owner."""
    try:
        return f"/{service}" in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False


def start(layout: Layout, colour: str, limit: float, why: Callable[[], str]) -> None:
    """Starts a colour and returns when it has said READY; `why` tells what is wrong with one that does not.

    Raises FarrierError.
    """
    service = layout.service(colour)
    try:
        systemd.systemctl("start", service, timeout=limit)
    except FarrierError:
        raise FarrierError(f"{service} did not become ready: {why()}", 1) from None


def stop(layout: Layout, colour: str) -> None:
    """Stops a colour and returns when its last worker has drained."""
    service = layout.service(colour)
    found = systemd.show(service, "ActiveState", "TimeoutStopUSec")
    if found["ActiveState"] != "inactive":
        systemd.systemctl("stop", service, timeout=SLACK + seconds(found["TimeoutStopUSec"]))
        systemd.systemctl("reset-failed", service, check=False)


def step_up(layout: Layout, colour: str, limit: float) -> None:
    """One worker more (TTIN), and wait for it to be ready. Raises FarrierError; in vain after `limit` s."""
    before = running(layout, colour)
    if before is None:
        raise FarrierError(f"{layout.service(colour)} has ended", 1)
    _signal(layout, colour, before, signal.SIGTTIN)

    def done(now: Running) -> bool:
        if now.broken > before.broken:
            raise FarrierError(f"a worker of {layout.service(colour)} did not become ready", 1)
        return now.number > before.number and now.ready >= now.number

    if not _await(layout, colour, before, done, limit):
        raise FarrierError(f"a worker of {layout.service(colour)} was not ready after {limit:.0f} s", 1)


def step_down(layout: Layout, colour: str, limit: float) -> None:
    """One worker less (TTOU), and wait for its end: while it drains it takes its memory.

    Where the arbiter itself has gone meanwhile there is nothing to wait for. Raises FarrierError.
    """
    before = running(layout, colour)
    if before is None or before.number <= 1:
        return
    _signal(layout, colour, before, signal.SIGTTOU)
    if not _await(
        layout, colour, before, lambda now: now.number < before.number and now.alive <= now.number, limit
    ):
        raise FarrierError(f"a worker of {layout.service(colour)} had not drained after {limit:.0f} s", 1)


def settle(layout: Layout, colour: str, limit: float) -> bool:
    """Until those that drain or boot have done so; False after `limit` seconds."""
    before = running(layout, colour)
    if before is None:
        time.sleep(LOOK_AGAIN)
        return True

    def done(now: Running) -> bool:
        return now.ready == now.alive <= now.number

    return _await(layout, colour, before, done, limit) or running(layout, colour) is None


def restore(layout: Layout, colour: str, number: int, limit: float) -> bool:
    """Workers up to `number` again, all of them at once; True when they are ready."""
    now = running(layout, colour)
    if now is None:
        return False
    for _ in range(number - now.number):
        before = running(layout, colour)
        if before is None:
            return False
        _signal(layout, colour, before, signal.SIGTTIN)
        target = before.number

        def counted(one: Running, above: int = target) -> bool:
            return one.number > above

        # Two signals of a kind that wait are one.
        if not _await(layout, colour, before, counted, limit):
            return False
    return _await(layout, colour, now, lambda one: one.ready >= number, limit)


def reload(layout: Layout, colour: str, limit: float) -> str | None:
    """HUP, and its outcome: None, or the line with which the arbiter refused it.

    An arbiter that tells no outcome counts by going on. Raises FarrierError where it ended.
    """
    service = layout.service(colour)
    before = running(layout, colour)
    systemd.systemctl("reload", service, timeout=SLACK)
    end = time.monotonic() + limit
    while before is not None and before.tells_reload:
        now = running(layout, colour)
        if now is None or now.pid != before.pid:
            break
        if now.last_reload and now.last_reload != before.last_reload:
            return now.last_reload.get("refused")
        if time.monotonic() > end:
            return f"it was not done after {limit:.0f} s"
        time.sleep(LOOK_AGAIN)
    if not systemd.is_active(service):
        raise FarrierError(f"{service} ended at reload", 1)
    return None


def _signal(layout: Layout, colour: str, to: Running, number: signal.Signals) -> None:
    try:
        os.kill(to.pid, number)
    except ProcessLookupError:
        raise FarrierError(f"{layout.service(colour)} has ended", 1) from None


def _await(
    layout: Layout, colour: str, before: Running, done: Callable[[Running], bool], limit: float
) -> bool:
    """Looks at the state file until `done` says so; False after `limit` seconds or when the arbiter ended."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        now = running(layout, colour)
        if now is None or now.pid != before.pid:
            return False
        if done(now):
            return True
        time.sleep(LOOK_AGAIN)
    return False


def seconds(text: str) -> float:
    """systemd's ``1min 30s`` in seconds; an hour where it says infinity or anything else."""
    total, known = 0.0, {"min": 60.0, "s": 1.0, "ms": 0.001, "h": 3600.0}
    for part in text.split():
        number = part.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = part[len(number) :]
        if unit not in known or not number.replace(".", "").isdigit():
            return 3600.0
        total += float(number) * known[unit]
    return total or 3600.0
