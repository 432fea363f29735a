"""What a host takes while a scenario runs: memory and processes once a second, and every kill by the kernel.

Looked at from outside, so that looking costs the host nothing: its cgroups and the processes in them, and the
kernel's own log, which names what was killed, in which unit and how large it was.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.errors import LabError

CGROUPS = Path("/sys/fs/cgroup")
PAGE = os.sysconf("SC_PAGE_SIZE")
_OOM = re.compile(
    r"oom-kill:.*oom_memcg=(?P<limit>[^,]*),task_memcg=(?P<unit>[^,]*),task=(?P<task>.*),pid=(?P<pid>\d+)"
)
_KILLED = re.compile(r"Killed process (?P<pid>\d+) .*anon-rss:(?P<rss>\d+)kB")


class KernelLog(threading.Thread):
    """Follows the kernel's log for kills at a memory limit; one for the whole benchmark."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.kills: list[dict[str, Any]] = []
        self.why_not = ""
        self._ended = threading.Event()
        try:
            self._log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(self._log, 0, os.SEEK_END)
        except OSError as error:
            self.why_not = f"the kernel's log cannot be read ({error.strerror}); kills come from its counters"
            self._log = -1

    def run(self) -> None:
        if self._log < 0:
            return
        poll = select.poll()
        poll.register(self._log, select.POLLIN)
        while not self._ended.is_set():
            if not poll.poll(300):
                continue
            try:
                text = os.read(self._log, 8192).decode(errors="replace")
            except BlockingIOError:
                continue
            except OSError:  # EPIPE: lines were overwritten before they were read
                continue
            self.take(text)
        os.close(self._log)

    def take(self, text: str) -> None:
        """One record: the verdict first, then the killing with its size."""
        if found := _OOM.search(text):
            self.kills.append({"at": time.time(), "rss": 0, **found.groupdict()})
        elif found := _KILLED.search(text):
            for kill in reversed(self.kills[-20:]):
                if kill["pid"] == found["pid"]:
                    kill["rss"] = int(found["rss"]) * 1024
                    break

    def end(self) -> None:
        self._ended.set()

    def of(self, container: str, since: float) -> list[dict[str, Any]]:
        """Kills in a container since then, units named as the host names them."""
        found = []
        for kill in list(self.kills):
            if container in kill["unit"] and kill["at"] >= since:
                limit = kill["limit"].partition(container)[2].strip("/")
                found.append(
                    {
                        "at": round(kill["at"], 2),
                        "task": kill["task"],
                        "pid": int(kill["pid"]),
                        "unit": unit_of(kill["unit"].partition(container)[2]),
                        "limit": unit_of(limit) if limit else "the host's memory",
                        "rss": kill["rss"],
                    }
                )
        return found


def unit_of(path: str) -> str:
    """The unit whose cgroup this is: its last part."""
    return path.strip("/").rpartition("/")[2] or "host"


@dataclass
class Cgroup:
    """A container's cgroups on this machine."""

    memory: Path
    processes: Path
    container: str
    unified: bool

    @classmethod
    def of(cls, pid: int, container: str) -> Cgroup:
        """From /proc/PID/cgroup of its init; LabError where it is not found."""
        text = Path(f"/proc/{pid}/cgroup").read_text()
        legacy = re.search(rf"^\d+:memory:(\S*?{container})", text, re.M)
        systemd = re.search(rf"^\d+:name=systemd:(\S*?{container})", text, re.M)
        unified = re.search(rf"^0::(\S*?{container})", text, re.M)
        if legacy and systemd:
            memory = CGROUPS / "memory" / legacy[1].lstrip("/")
            return cls(memory, CGROUPS / "systemd" / systemd[1].lstrip("/"), container, False)
        if unified:
            path = CGROUPS / unified[1].lstrip("/")
            return cls(path, path, container, True)
        raise LabError(f"no memory cgroup of {container} in /proc/{pid}/cgroup")

    def used(self) -> tuple[int, int]:
        """Bytes in use, and of them those that cannot be dropped: neither files nor free slabs."""
        name = "memory.current" if self.unified else "memory.usage_in_bytes"
        rows = dict(line.split() for line in (self.memory / "memory.stat").read_text().splitlines())
        prefix = "" if self.unified else "total_"
        cache = int(rows.get(f"{prefix}inactive_file", 0)) + int(rows.get(f"{prefix}active_file", 0))
        used = int((self.memory / name).read_text())
        return used, max(0, used - cache)

    def kills(self) -> dict[str, int]:
        """The kernel's own counters by unit: oom_kill of every cgroup (v1 counts each by itself)."""
        name = "memory.events.local" if self.unified else "memory.oom_control"
        found: dict[str, int] = {}
        for path in (self.memory, *self.memory.rglob("*/")):
            try:
                text = (path / name).read_text()
            except OSError:
                continue
            count = int(text.partition("oom_kill ")[2].split()[0] or 0) if "oom_kill " in text else 0
            if count:
                found[str(path.relative_to(self.memory))] = count
        return found

    def units(self) -> dict[str, list[int]]:
        """Resident bytes of each unit's processes, the largest first."""
        found: dict[str, list[int]] = {}
        for path in (self.processes, *self.processes.rglob("*/")):
            try:
                pids = (path / "cgroup.procs").read_text().split()
            except OSError:
                continue
            sizes = [size for pid in pids if (size := resident(pid))]
            if sizes:
                found.setdefault(unit_of(str(path.relative_to(self.processes))), []).extend(sizes)
        return {name: sorted(sizes, reverse=True) for name, sizes in found.items()}


def resident(pid: str) -> int:
    """A process's resident bytes; 0 for one that has gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def app_units(units: dict[str, list[int]]) -> list[int]:
    """Resident bytes of the app's processes, whichever colour they are of."""
    return [size for name, sizes in units.items() if name.startswith(("bench@", "today")) for size in sizes]


@dataclass
class Watch:
    """Samples of one run, taken by a thread of its own until it ends."""

    cgroup: Cgroup
    log: KernelLog
    samples: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> Watch:
        self.began = time.time()
        self._before = self.cgroup.kills()
        self._most: dict[str, int] = {}
        self._counted: list[dict[str, Any]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            # The host restarts or ends: there is nothing to see for a moment, or half of it.
            with contextlib.suppress(OSError, ValueError, LookupError):
                self.samples.append(self.sample())
            if self._ended.wait(1.0):
                return

    def sample(self) -> dict[str, Any]:
        used, firm = self.cgroup.used()
        units = self.cgroup.units()
        for path, count in self.cgroup.kills().items():
            new, before = count - self._before.get(path, 0), self._most.get(path, 0)
            if new > before:
                self._most[path] = new
                one = {"at": round(time.time(), 2), "task": "", "pid": 0, "limit": "", "rss": 0}
                self._counted += [{**one, "unit": unit_of(path)}] * (new - before)
        app = app_units(units)
        return {
            "at": round(time.time(), 2),
            "used": used,
            "firm": firm,
            "app": sum(app),
            "processes": len(app),
            "largest": max(app, default=0),
            "database": sum(sum(sizes) for name, sizes in units.items() if name.startswith("postgresql")),
        }

    def kills(self) -> list[dict[str, Any]]:
        """What the kernel's log says, and what its counters say beyond that, without name and size.

        The kernel writes ten such verdicts in 5 s at most, for all hosts together: beside one whose workers
        are killed again and again another's only kill can be missing.
        """
        told = [] if self.log.why_not else self.log.of(self.cgroup.container, self.began)
        known = Counter(one["unit"] for one in told)
        more = []
        for one in self._counted:
            if known[one["unit"]] > 0:
                known[one["unit"]] -= 1
            else:
                more.append(one)
        return sorted([*told, *more], key=lambda one: float(one["at"]))

    def counted(self) -> int:
        """Kills by the counters alone, to hold against the log's."""
        return sum(self._most.values())
