"""Why a worker ended (recycled, stopped, timed out, killed for memory, crashed) or never began."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farrier.serve.board import CODE_CHANGED, RECYCLED

#: Exit statuses by which Gunicorn's workers say that they could not boot.
WORKER_BOOT_ERROR, APP_LOAD_ERROR = 3, 4
REASONS = ("recycled", "stopped", "timed out", "killed for memory", "crashed", "failed to boot")


#: Seconds between two tries after a worker failed to boot; doubled each time, up to the last.
BACKOFF, MOST_BACKOFF = 0.5, 30.0


class SpawnFailed(Exception):
    """A worker could not even be forked; one line says why."""


def pause(failures: int, most: float = MOST_BACKOFF) -> float:
    """Seconds until the next try after so many failures in a row."""
    return min(BACKOFF * 2.0 ** min(failures - 1, 30), most)


@dataclass(frozen=True)
class Ending:
    """``reason`` is one of REASONS; ``severity`` how a person should take it."""

    reason: str
    severity: str
    message: str
    exit_code: int | None = None
    signal: str | None = None

    @property
    def failed_to_boot(self) -> bool:
        return self.reason == "failed to boot"


def describe(worker: Any, status: int, memory_kill: bool) -> Ending:
    """Read a wait status with what master and worker know of each other.

    ``worker.retired`` is when the master asked it to end, ``worker.recycled`` that it did so for its
    ``max_requests``, ``worker.aborted`` that it timed out.
    """
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    name = _signal_name(number) if number else None
    slot = getattr(worker, "slot", None)
    proven = slot is None or slot.proven
    note = slot.note if slot is not None else ""

    def ending(reason: str, severity: str, message: str) -> Ending:
        return Ending(reason, severity, message, code, name)

    if getattr(worker, "aborted", False):
        return ending("timed out", "error", f"no sign of life for {worker.cfg.timeout} s")
    if number == signal.SIGKILL and memory_kill:
        return ending("killed for memory", "error", "the kernel killed it at the memory limit")
    if getattr(worker, "retired", None):
        late = number == signal.SIGKILL
        cut = slot.in_hand if slot is not None else 0
        how = f"not done within {worker.cfg.graceful_timeout} s" if late else "as asked"
        if cut:
            how += f", with {cut} request{'s' if cut > 1 else ''} in hand"
        severity = "warning" if late or cut else "info"
        if slot is not None and getattr(worker, "recycled", False):
            return ending("recycled", severity, f"after {slot.requests} requests, {how}")
        return ending("stopped", severity, how)
    if number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
        return ending("stopped", "info", f"by {name} from outside")
    if code in (WORKER_BOOT_ERROR, APP_LOAD_ERROR) and not proven:
        return ending("failed to boot", "error", note or "the app could not be loaded")
    how = f"by {name}" if name else f"exit status {code}"
    if not proven and code != 0:
        return ending("failed to boot", "error", note or f"it died before it was ready ({how})")
    if slot is not None and slot.ending == RECYCLED:
        return ending("recycled", "info", f"after {slot.requests} requests")
    if slot is not None and slot.ending == CODE_CHANGED:
        return ending("stopped", "info", "its code changed")
    if code == 0:
        return ending("stopped", "info", "by itself")
    return ending("crashed", "error", f"by {name}" if name else f"with exit status {code}")


def why_ended(worker: Any) -> str:
    """Of one that was on trial: why it did not boot, else how it ended."""
    return getattr(worker, "failure", None) or f"{worker.ended.reason}: {worker.ended.message}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class MemoryKills:
    """Counts the kernel's kills at the memory limit of our own cgroup (v2 and v1)."""

    def __init__(self, root: str = "/") -> None:
        self._file = _counter(Path(root))
        self._seen = self._read()

    def happened(self) -> bool:
        """Whether one more happened since this was asked last."""
        now = self._read()
        before, self._seen = self._seen, now
        return now > before

    def _read(self) -> int:
        if self._file is None:
            return 0
        try:
            for line in self._file.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
        except (OSError, ValueError):
            pass
        return 0


def _counter(root: Path) -> Path | None:
    """memory.events (v2) or memory.oom_control (v1) of the cgroup that this process is in.

    In a container the path in /proc/self/cgroup may be the host's, which is not mounted: the root of
    the mount is the container's own cgroup then.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            candidates = [mounts / "memory" / path.lstrip("/"), mounts / "memory"]
            file = "memory.oom_control"
        elif not controllers:
            candidates = [mounts / path.lstrip("/"), mounts / "unified" / path.lstrip("/"), mounts]
            file = "memory.events"
        else:
            continue
        for candidate in candidates:
            if (candidate / file).is_file():
                return candidate / file
    return None
