"""Who had the core of the machine under load: its host, or others that should not have been there."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from lab.host import Host

CGROUPS = Path("/sys/fs/cgroup")
#: A core of which others took more than this was not the host's own: what was measured is not counted.
OTHERS_MOST = 0.10


@dataclass(frozen=True)
class Core:
    """One core of this machine, and the host that is held to it."""

    number: int
    usage: Path
    """The file that says what the host has had, in nanoseconds (cgroup v1) or microseconds (v2)."""

    @classmethod
    def of(cls, host: Host, number: int) -> Core:
        pid = host.docker.call("inspect", "-f", "{{.State.Pid}}", host.container).stdout.strip()
        text = Path(f"/proc/{pid}/cgroup").read_text()
        found = re.search(rf"^\d+:(\S*\bcpuacct\b\S*|):(.*?{host.container})", text, re.M)
        if found is None:
            raise SystemExit(f"no cgroup of {host.container} in /proc/{pid}/cgroup")
        hierarchy = f"{found[1]}/" if found[1] else ""
        name = "cpuacct.usage" if found[1] else "cpu.stat"
        return cls(number, CGROUPS / f"{hierarchy}{found[2].lstrip('/')}" / name)

    def host_seconds(self) -> float:
        """CPU seconds that the host has had."""
        text = self.usage.read_text()
        if self.usage.name == "cpuacct.usage":
            return int(text) / 1e9
        return int(text.split()[1]) / 1e6

    def busy_seconds(self) -> float:
        """CPU seconds that processes had of the core, and that a hypervisor stole."""
        for line in Path("/proc/stat").read_text().splitlines():
            name, *ticks = line.split()
            if name == f"cpu{self.number}":
                user, nice, system, *_, steal = (int(tick) for tick in ticks[:8])
                return float(user + nice + system + steal) / os.sysconf("SC_CLK_TCK")
        raise SystemExit(f"no core {self.number} in /proc/stat")

    def sample(self) -> tuple[float, float, float]:
        return time.monotonic(), self.host_seconds(), self.busy_seconds()

    def shares(self, before: tuple[float, float, float]) -> dict[str, float]:
        """The host's share of the core since then, and the others'."""
        now = self.sample()
        passed, own, busy = (after - start for after, start in zip(now, before, strict=True))
        return {"host": round(own / passed, 3), "others": round(max(0.0, busy - own) / passed, 3)}
