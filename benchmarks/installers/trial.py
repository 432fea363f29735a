"""One trial, run inside the container: install a lock into a fresh venv, cold and then warm, and measure it.

Standard library only; prints one JSON object. Called by run.py as
``trial.py INSTALLER LOCK [cold]`` with uv (if used) at /opt/uv.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
V1 = CGROUP / "memory"
SAMPLE_SECONDS = 0.02
MIB = 2**20


def cgroup_peak() -> int:
    """Peak of everything charged, page cache included: the kernel's own high-water mark, in bytes."""
    for path in (V1 / "memory.max_usage_in_bytes", CGROUP / "memory.peak"):
        if path.exists():
            return int(path.read_text())
    return 0


def unreclaimable() -> int:
    """Anonymous and shared memory charged now, in bytes: what the kernel cannot drop to make room."""
    path = V1 / "memory.stat"
    names = {"total_rss", "total_shmem"}
    if not path.exists():
        path, names = CGROUP / "memory.stat", {"anon", "shmem"}
    pairs = (line.split() for line in path.read_text().splitlines())
    return sum(int(value) for name, value in pairs if name in names)


class Sampler(threading.Thread):
    """Highest unreclaimable memory seen while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, unreclaimable())


def commands(installer: str, lock: str, venv: str) -> list[list[str]]:
    """What the role would run. Both compile bytecode: an app user cannot write it later."""
    python = f"{venv}/bin/python"
    if installer == "uv":
        install = ["/opt/uv", "pip", "install", "--python", python, "--require-hashes", "--compile-bytecode"]
        return [["python3", "-m", "venv", "--without-pip", venv], [*install, "--quiet", "-r", lock]]
    install = [python, "-m", "pip", "install", "--require-hashes", "--quiet", "--disable-pip-version-check"]
    return [["python3", "-m", "venv", venv], [*install, "-r", lock]]


def install(installer: str, lock: str, venv: str) -> dict[str, object]:
    sampler = Sampler()
    sampler.start()
    started = time.monotonic()
    cpu_before = resource.getrusage(resource.RUSAGE_CHILDREN)
    status, message = 0, ""
    for command in commands(installer, lock, venv):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        status, message = done.returncode, done.stderr.strip().rpartition("\n")[2]
        if status:
            break
    seconds = time.monotonic() - started
    sampler.done.set()
    sampler.join()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "status": status,
        "message": message,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime - cpu_before.ru_utime - cpu_before.ru_stime, 3),
        "unreclaimable_mib": round(sampler.peak / MIB, 1),
        "max_rss_mib": round(usage.ru_maxrss / 1024, 1),
        "cgroup_peak_mib": round(cgroup_peak() / MIB, 1),
    }


def folder_mib(path: str) -> float:
    done = subprocess.run(["du", "-sk", path], capture_output=True, text=True, check=False)
    return round(int(done.stdout.split()[0]) / 1024, 1) if done.returncode == 0 else 0.0


def main() -> None:
    installer, lock = sys.argv[1:3]  # "cold" after them: once only
    cold = install(installer, lock, "/srv/cold")
    both = "cold" not in sys.argv[3:] and cold["status"] == 0
    warm = install(installer, lock, "/srv/warm") if both else None
    cache = os.environ.get("UV_CACHE_DIR") or os.environ.get("PIP_CACHE_DIR") or "/none"
    answer = {"cold": cold, "warm": warm, "cache_mib": folder_mib(cache), "venv_mib": folder_mib("/srv/cold")}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
