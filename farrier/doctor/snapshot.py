"""What doctor looks at: one app's files, processes, limits and socket, as plain values.

Anything that could not be read is ``None``; a check says so instead of guessing.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Traffic:
    """What one arbiter's workers answered, ended ones included."""

    requests: int
    errors: int  # status 500 and above, or no answer at all
    bounds: tuple[float, ...] = ()  # upper bounds of the latency histogram, seconds
    counts: tuple[int, ...] = ()  # one more than bounds

    @property
    def share(self) -> float:
        """The share of errors."""
        return self.errors / self.requests if self.requests else 0.0

    def quantile(self, share: float) -> float | None:
        """Seconds that this share of the requests did not exceed; None where none is known."""
        from farrier.release.guard import quantile

        return quantile(self.bounds, self.counts, share) if len(self.counts) == len(self.bounds) + 1 else None

    def since(self, before: Traffic) -> Traffic | None:
        """What came after ``before``; None where another arbiter has begun to count."""
        if self.requests < before.requests or self.bounds != before.bounds:
            return None
        counts = tuple(now - then for now, then in zip(self.counts, before.counts, strict=True))
        return Traffic(self.requests - before.requests, self.errors - before.errors, self.bounds, counts)


@dataclass(frozen=True)
class Colour:
    """One colour that runs, as its unit and its arbiter say."""

    name: str
    state: str  # systemd's ActiveState
    release: str | None = None
    ready: int = 0
    wanted: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """One app as it is now. Sizes in bytes, times in seconds."""

    name: str
    plan: Mapping[str, Any] | None = None  # plan.json
    in_force: Mapping[str, Any] | None = None  # Gunicorn's settings as the arbiter reports them
    workers: tuple[Mapping[str, Any], ...] = ()
    instance: str | None = None  # the active colour
    unit: Mapping[str, str] = field(default_factory=dict)  # systemctl show
    memory_limit: int | None = None
    memory_used: int | None = None
    oom_kills: int | None = None
    machine_memory: int | None = None
    machine_available: int | None = None
    swap: int | None = None
    somaxconn: int | None = None
    queue_limit: int | None = None  # what the kernel gave the listening socket
    queue_depth: int | None = None
    files_limit: int | None = None
    files_open: int | None = None
    tmp_dir: str | None = None
    tmp_type: str | None = None
    tmp_free: int | None = None
    disk_free: int | None = None
    release_size: int | None = None
    lock_age: float | None = None
    lock_who: str | None = None
    health: tuple[bool, str] | None = None  # answered well, the line
    run: Mapping[str, Any] = field(default_factory=dict)  # state.json's: a deploy that has not ended
    step: str | None = None  # at which the run under way is
    leftovers: tuple[str, ...] = ()  # files of a run that nobody holds the lock for
    undo_pending: bool = False  # the leftovers include how files were before that run
    last: Mapping[str, Any] | None = None  # the newest entry of state.json's history
    bad: Mapping[str, str] = field(default_factory=dict)  # releases that must not serve again, and why
    release: str | None = None  # the one that serves
    rollback: str | None = None  # the one that a rollback takes
    colours: tuple[Colour, ...] = ()  # those that run
    workers_wanted: int | None = None  # by the arbiter, after TTIN and TTOU
    traffic: Traffic | None = None  # since the arbiter started
    recent: Traffic | None = None  # while doctor looked
    endings: Mapping[str, int] = field(default_factory=dict)  # of workers, by the arbiter's words
    last_reload: Mapping[str, Any] | None = None
    overflows: int | None = None  # connections that met a full listen queue, on this whole host
    overflows_recent: int | None = None  # while doctor looked
    state_file: Path | None = None  # the arbiter's
    second: str | None = None  # a colour that runs although the other one is the active one
    account: str | None = None  # a user or group of the unit that this host does not know
    together: int | None = None  # what all apps of this host are expected to take in a deploy of theirs
    neighbours: tuple[str, ...] = ()
    connections: str = ""  # what is to be said of the database connections of all apps of this host together
    deployed: bool = True  # by farrier, under systemd; else a server that a person or a container runs
    pid: int | None = None  # the arbiter

    @property
    def logs(self) -> str:
        """Where its log can be read."""
        return f"journalctl -u {self.name}@{self.instance} -n 50" if self.deployed else "its own log"

    @property
    def cut_off(self) -> str | None:
        """The phase at which a deploy was ended, where nobody went on."""
        return None if self.lock_age is not None else self.run.get("phase")

    @property
    def reload(self) -> str:
        """The command that makes it read its settings again."""
        return f"systemctl reload {self.name}@{self.instance}" if self.deployed else f"kill -HUP {self.pid}"

    def signal(self, name: str) -> str:
        """The command that sends the arbiter a signal."""
        if not self.deployed:
            return f"kill -{name} {self.pid}"
        return f"systemctl kill --kill-whom=main -s {name} {self.name}@{self.instance}"

    @property
    def reopen(self) -> str:
        """What opens the listening socket anew."""
        return f"systemctl restart {self.name}.socket" if self.deployed else "a restart"


def read_int(path: Path) -> int | None:
    """A file's only number; None where it cannot be read or says ``max``."""
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def read_json(path: Path) -> Any | None:
    """A JSON file's value; None where it is missing or broken."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def traffic_of(running: Mapping[str, Any]) -> Traffic | None:
    """What an arbiter's state file says; None where its version does not tell."""
    told = running.get("traffic") or {}
    latency = told.get("latency") or {}
    if "requests" not in told:
        return None
    bounds, counts = latency.get("bounds") or (), latency.get("counts") or ()
    return Traffic(int(told["requests"]), int(told.get("errors") or 0), tuple(bounds), tuple(counts))


def listen_overflows(root: Path = Path("/")) -> int | None:
    """Connections since the boot that met a full listen queue: TcpExt's ListenOverflows, as nstat has it."""
    try:
        lines = (root / "proc/net/netstat").read_text().splitlines()
    except OSError:
        return None
    names, values = ([line.split() for line in lines if line.startswith("TcpExt:")] + [[], []])[:2]
    found = dict(zip(names, values, strict=False)).get("ListenOverflows")
    return int(found) if found else None


def meminfo(root: Path = Path("/")) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    values: dict[str, int] = {}
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return values
    for line in lines:
        key, _, rest = line.partition(":")
        number = rest.split()
        if number and number[0].isdigit():
            values[key] = int(number[0]) * (1024 if number[1:] == ["kB"] else 1)
    return values


def systemctl_show(unit: str) -> dict[str, str]:
    """The properties of a unit that the checks use; empty where there is no systemd."""
    wanted = (
        "ActiveState,SubState,MainPID,NRestarts,Result,MemoryMax,MemoryCurrent,LimitNOFILE,"
        "ControlGroup,ActiveEnterTimestamp,UnitFileState"
    )
    try:
        answer = subprocess.run(
            ["systemctl", "show", unit, f"--property={wanted}"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    pairs = (line.partition("=") for line in answer.stdout.splitlines() if "=" in line)
    return {key: value for key, _, value in pairs}


def cgroup_memory(group: str, root: Path = Path("/")) -> tuple[int | None, int | None, int | None]:
    """Limit, use and OOM kills of a control group, v2 or v1. ``group`` as systemd names it (/a.slice/b)."""
    v2 = root / "sys/fs/cgroup" / group.lstrip("/")
    if (v2 / "memory.current").exists():
        return (
            read_int(v2 / "memory.max"),
            read_int(v2 / "memory.current"),
            keyed(v2 / "memory.events", "oom_kill"),
        )
    v1 = root / "sys/fs/cgroup/memory" / group.lstrip("/")
    limit = read_int(v1 / "memory.limit_in_bytes")
    if limit is not None and limit >= 2**60:  # v1 writes "none" as the largest page-aligned number
        limit = None
    return limit, read_int(v1 / "memory.usage_in_bytes"), keyed(v1 / "memory.oom_control", "oom_kill")


def keyed(path: Path, key: str) -> int | None:
    """The number behind ``key`` in a file of ``key number`` lines."""
    try:
        for line in path.read_text().splitlines():
            parts = line.split()
            if len(parts) == 2 and parts[0] == key:
                return int(parts[1])
    except (OSError, ValueError):
        return None
    return None


def open_files(pid: int, root: Path = Path("/")) -> tuple[int | None, int | None]:
    """How many descriptors a process has open, and its soft limit."""
    process = root / "proc" / str(pid)
    limit = None
    try:
        for line in (process / "limits").read_text().splitlines():
            if line.startswith("Max open files"):
                word = line.split()[3]
                limit = int(word) if word.isdigit() else None
        return len(os.listdir(process / "fd")), limit
    except OSError:
        return None, limit


def mount_type(path: str, root: Path = Path("/")) -> str | None:
    """The file system type that holds ``path``: the longest mount point that is its parent."""
    best: tuple[int, str] | None = None
    try:
        lines = (root / "proc/self/mounts").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, point, kind, *_ = line.split()
        point = point.replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= best[0]):
            best = (len(point), kind)
    return best[1] if best else None


def free_bytes(path: str) -> int | None:
    """What an unprivileged process may still write there."""
    try:
        stat = os.statvfs(path)
    except OSError:
        return None
    return stat.f_bavail * stat.f_frsize


def listen_queue(bind: str) -> tuple[int | None, int | None]:
    """Depth and limit of the listening socket's queue, as the kernel has them (``ss -ltnx``)."""
    flags = "-lxnH" if bind.startswith("unix:") else "-ltnH"
    try:
        answer = subprocess.run(["ss", flags], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None, None
    wanted = bind.removeprefix("unix:") if bind.startswith("unix:") else bind.rpartition(":")[2]
    for line in answer.splitlines():
        words = line.split()
        state = words.index("LISTEN") if "LISTEN" in words else -1
        if state < 0 or len(words) < state + 4:
            continue
        local = words[state + 3]
        if local == wanted or (not bind.startswith("unix:") and local.rpartition(":")[2] == wanted):
            return int(words[state + 1]), int(words[state + 2])
    return None, None
