"""What /proc says of the processes that were started here, and the end of all of them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from functools import cache
from pathlib import Path

from farrier.health.memory import ProcessMemory, process_memory

#: In the environment of everything that is started here, with a value of its own for each run.
MARK = "FARRIER_MEASURE"

_PR_SET_CHILD_SUBREAPER = 36
_TICK = os.sysconf("SC_CLK_TCK")


class ProcessGone(Exception):
    """A process that was being measured has ended."""


def memory(pid: int) -> ProcessMemory:
    """RSS, PSS, USS in bytes. Raises ProcessGone."""
    found = process_memory(pid)
    if found.rss is None:
        raise ProcessGone(f"process {pid} has ended")
    return found


def alive(pid: int) -> bool:
    """Whether it has memory still: one that nobody has waited for yet has none."""
    return bool(process_memory(pid).rss)


def peak(pid: int) -> int:
    """The highest RSS since forget_peak(), in bytes. Raises ProcessGone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        raise ProcessGone(f"process {pid} has ended") from None
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM:")), 0)


def forget_peak(pid: int) -> bool:
    """From now on peak() means from now on (proc(5), clear_refs); False where the kernel cannot."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5\n")
    except OSError:
        return False
    return True


def threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        raise ProcessGone(f"process {pid} has ended") from None


def cpu_times(pid: int) -> tuple[float, float]:
    """Seconds on a CPU and seconds in the queue for one, of all threads and of children that were waited for.

    Raises ProcessGone. By the scheduler's own clock (schedstat, nanoseconds); where a kernel has none by
    ticks of 10 ms, and then nothing is known of the queue.
    """
    ran = queued = 0
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError):
                words = Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()
                ran, queued = ran + int(words[0]), queued + int(words[1])
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError, IndexError):
        raise ProcessGone(f"process {pid} has ended") from None
    # proc(5): utime, stime, cutime, cstime are fields 14 to 17, and state, the first here, is 3.
    utime, stime, cutime, cstime = (int(one) / _TICK for one in fields[11:15])
    own = ran / 1e9 if ran else utime + stime
    return own + cutime + cstime, queued / 1e9


def free_memory() -> int:
    """Bytes that this process's own limits and the machine have left.

    The page cache counts as free, but for the files that running programs have mapped: a process without
    those reads them from the disk at every step.
    """
    found = [_meminfo("MemAvailable")]
    for path, value in _limits():
        used = _used(path)
        if used is not None:
            found.append(value - used)
    return max(min(found), 0)


@cache
def _limits() -> tuple[tuple[Path, int], ...]:
    """Once: this process stays where it was started."""
    from farrier.sizing.budget import read_budget

    return tuple((Path(one.source), int(one.value)) for one in read_budget().limits if one.kind == "memory")


def _meminfo(name: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _used(limit: Path) -> int | None:
    """Bytes in use in the cgroup of a limit's file, as free_memory() counts; None for any other file."""
    names = {
        "memory.max": ("memory.current", ""),
        "memory.high": ("memory.current", ""),
        "memory.limit_in_bytes": ("memory.usage_in_bytes", "total_"),
    }
    if limit.name not in names:
        return None
    usage, prefix = names[limit.name]
    try:
        used = int(limit.with_name(usage).read_text())
        rows = dict(line.split() for line in limit.with_name("memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    cached = int(rows.get(f"{prefix}inactive_file", 0)) + int(rows.get(f"{prefix}active_file", 0))
    mapped = int(rows.get(f"{prefix}mapped_file", rows.get("file_mapped", 0)))
    return used - max(cached - mapped, 0)


def marked(token: str) -> list[int]:
    """The processes that carry this run's mark, whatever group or session they are in by now."""
    needle = f"{MARK}={token}\0".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if needle in file.read() + b"\0":
                    found.append(int(name))
    return found


def end_marked(token: str, seconds: float = 2.0) -> None:
    """KILL for each of them, until there is none: one may start another meanwhile."""
    deadline = time.monotonic() + seconds
    while (left := marked(token)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def adopt_orphans() -> None:
    """Whoever loses its parent below this process becomes its child (prctl(2), PR_SET_CHILD_SUBREAPER).

    So descendants() finds also what left its session and has another environment.
    """
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants() -> set[int]:
    """Of this process, and of those in turn, as far as they run."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    parents[int(name)] = int(parent)
    found, last = set[int](), {os.getpid()}
    while last:
        last = {pid for pid, parent in parents.items() if parent in last} - found
        found |= last
    return found


def end_descendants(others: set[int], seconds: float = 2.0) -> None:
    """KILL for each but ``others``, until there is none: one may start another meanwhile."""
    deadline = time.monotonic() + seconds
    ended: set[int] = set()
    while (left := descendants() - others) and time.monotonic() < deadline:
        ended |= left
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    for pid in ended:
        # Nobody else asks for one that was adopted.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
