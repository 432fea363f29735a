"""What boots beside serving workers takes the CPU that they leave.

An import that burns a core for seconds would stand in every request's way meanwhile. So it runs at a
higher nice value, and goes back when it is ready or has taken long, where the system lets it go back.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from typing import Any

#: Added to the nice value: a tenth of the weight of the workers that serve (sched(7)).
STEP = 10
#: Seconds of quiet: on a machine without idle time a boot would get a tenth of a core and never end.
QUIET = 10.0
#: The bit of CAP_SYS_NICE in /proc/self/status (capabilities(7)).
CAP_SYS_NICE = 23

_former: int | None = None


def begin(environ: Mapping[str, str]) -> None:
    """For a master, before it imports anything large: quiet beside another colour, until end() or QUIET."""
    global _former
    folder, own = environ.get("FARRIER_RUN_DIR"), environ.get("FARRIER_INSTANCE")
    if not folder or not own:
        return
    with contextlib.suppress(OSError):
        if any(name.endswith(".json") and name != f"{own}.json" for name in os.listdir(folder)):
            _former = lower(os.geteuid())
    if _former is not None:
        signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, QUIET)


def end(*_: Any) -> None:
    """Back to how it was started; its workers each have a quiet boot of their own."""
    global _former
    if _former is None:
        return
    former, _former = _former, None
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        restore(former, os.getpid())


def lower(uid: int) -> int | None:
    """Make this process nicer until restore(); returns its former nice value.

    None where nothing was done: a process that will run as ``uid`` could not go back.
    """
    former = os.getpriority(os.PRIO_PROCESS, 0)
    if former + STEP > 19 or not _may_go_back(former, uid):
        return None
    os.setpriority(os.PRIO_PROCESS, 0, former + STEP)
    return former


def restore(former: int, pid: int) -> None:
    """Back to ``former``, with every thread that was started meanwhile. Raises OSError if that is refused."""
    for name in os.listdir(f"/proc/{pid}/task"):
        # A thread may end meanwhile, and one with a nice value of its own keeps it.
        with contextlib.suppress(ProcessLookupError):
            if os.getpriority(os.PRIO_PROCESS, int(name)) == former + STEP:
                os.setpriority(os.PRIO_PROCESS, int(name), former)


def _may_go_back(former: int, uid: int) -> bool:
    """By RLIMIT_NICE (LimitNICE= of a unit), or by a capability that a change of user would take away."""
    import resource  # in the worker: the master needs it not

    if resource.getrlimit(resource.RLIMIT_NICE)[0] in (resource.RLIM_INFINITY, *range(20 - former, 41)):
        return True
    return uid == os.geteuid() and bool(_capabilities() >> CAP_SYS_NICE & 1)


def _capabilities() -> int:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return next((int(line.split()[1], 16) for line in file if line.startswith("CapEff:")), 0)
    except (OSError, ValueError, IndexError):
        return 0
