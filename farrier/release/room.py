"""A look beside the release that serves: how much memory is left for it, and a process that gets no more.

The serving release must never pay for a trial. So a trial runs in a scope of its own with what is free as
its limit, and is the first that the kernel takes when memory runs out after all.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from ..errors import FarrierError
from . import command, systemd
from .account import Account

# A trial with less than this would not even start the interpreter with gunicorn.
LEAST = 48 << 20
# Left to everybody else: the serving release allocates while the trial runs.
SPARE = 16 << 20
# The kernel's highest: taken before anything that serves (proc(5), oom_score_adj).
OOM_SCORE = 1000


def free() -> int:
    """Bytes that a new process can have before the kernel must take them from another one.

    The least of MemAvailable and, for each memory limit that binds this host's init, the limit less what
    is in use; the page cache counts as free.
    """
    from ..sizing.budget import read_budget

    found = [_available()]
    for limit in read_budget(pid=1).limits:
        if limit.kind == "memory" and (used := _used(Path(limit.source))) is not None:
            found.append(int(limit.value) - used)
    return max(min(found), 0)


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _used(limit: Path) -> int | None:
    """Bytes in use in the cgroup of a limit's file; None where that file is none of a cgroup."""
    usage, prefix = {
        "memory.max": ("memory.current", ""),
        "memory.high": ("memory.current", ""),
        "memory.limit_in_bytes": ("memory.usage_in_bytes", "total_"),
    }.get(limit.name, ("", ""))
    if not usage:
        return None
    try:
        text = limit.with_name("memory.stat").read_text()
        rows = {name: int(value) for name, value in (line.split() for line in text.splitlines())}
        used = int(limit.with_name(usage).read_text())
    except (OSError, ValueError):
        return None
    # Files that were read and are not part of a running program, as MemAvailable counts them (proc(5)).
    cached = rows.get(f"{prefix}inactive_file", 0) + rows.get(f"{prefix}active_file", 0)
    mapped = rows.get(f"{prefix}mapped_file", rows.get("file_mapped", 0))
    return used - max(cached - mapped, 0) - rows.get("slab_reclaimable", 0)


def bounded(argv: list[str], account: Account | None, limit: int, name: str) -> list[str]:
    """`argv` as the app's user (None: root) with at most `limit` bytes, as a command line that root runs."""
    unit = f"farrier-trial-{name}-{secrets.token_hex(3)}.scope"
    owner = (
        ("setpriv", f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups", "--")
        if account
        else ()
    )
    return [
        *("systemd-run", "--scope", "--quiet", "--collect", f"--unit={unit}"),
        # Not the command line, which the journal would keep with whatever a person wrote there.
        f"--description=Farrier works for {name}",
        *(f"--property=MemoryMax={max(limit, LEAST)}", "--"),
        *("/bin/sh", "-c", f'echo {OOM_SCORE} > /proc/self/oom_score_adj; exec "$@"', "sh"),
        *owner,
        *argv,
    ]


def scopes(name: str) -> str:
    """The scopes of one app's trials, as systemctl takes it: of `shop`, and none of `shop-api`."""
    return f"farrier-trial-{name}-{'[0-9a-f]' * 6}.scope"


def trial(argv: list[str], account: Account | None, limit: int, name: str, **how: Any) -> str:
    """What `argv` printed, run by `command.run` (`how`) in such a scope. Raises its FarrierError."""
    try:
        return command.run(bounded(argv, account, limit, name), **how)
    finally:
        clear(name)


def run(argv: list[str], account: Account | None, name: str, *, what: str, **how: Any) -> str:
    """What `argv` printed, held to the memory that is free beside what serves. Raises FarrierError.

    For what a deploy cannot do without: installing, build commands, migrations. One that needs more than
    there is is killed itself, and never makes the kernel take a worker that serves.
    """
    limit = max(free() - SPARE, LEAST)
    try:
        return trial(argv, account, limit, name, what=what, **how)
    except FarrierError as error:
        if not killed(str(error)):
            raise
        raise TooLarge(
            f"{what}: killed, because it needed more than the {limit >> 20} MiB that are free beside what "
            "serves; add a swap file, give the host more memory, or let it do less at once",
            1,
        ) from None


def clear(name: str) -> None:
    """Ends what an app's trials left: an import may start a process that outlives it."""
    systemd.systemctl("kill", "--signal=KILL", scopes(name), check=False)


def killed(message: str) -> bool:
    """Whether a trial's failure says that the kernel took it for memory."""
    return "out of memory" in message


class TooLarge(FarrierError):
    """A trial had not enough memory."""


def too_large(app: str, limit: int) -> TooLarge:
    """What is said of an app that a trial had not enough memory for."""
    return TooLarge(
        f"app: {app} was killed because it needed more than the {max(limit, LEAST) >> 20} MiB that are free "
        "beside what serves; if it needs that much, say so in workload.app_memory, or give the host more",
        1,
    )
