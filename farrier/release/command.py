"""Running other programs: as the app's user, niced, with a bounded environment, one line when they fail."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import FarrierError
from .account import Account

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def base_env(extra: Mapping[str, str] | None = None, bin_dir: Path | None = None) -> dict[str, str]:
    """The environment of every program that we run: nothing of the caller's, whoever that is."""
    env = {"PATH": f"{bin_dir}:{PATH}" if bin_dir else PATH, "LANG": "C.UTF-8", "HOME": "/nonexistent"}
    return {**env, **(extra or {})}


def run(
    argv: Sequence[str],
    *,
    account: Account | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
    on_line: Callable[[str], None] | None = None,
    what: str = "",
    stdin: int = subprocess.DEVNULL,
) -> str:
    """Runs `argv` to its end and answers what it printed. Raises FarrierError with the telling line."""
    what = what or Path(argv[0]).name
    owner = {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}
    try:
        process = subprocess.Popen(
            list(argv), env=dict(env or base_env()), cwd=cwd, stdin=stdin, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", umask=0o022, start_new_session=True,
            **owner,  # type: ignore[call-overload]
        )  # fmt: skip
    except OSError as error:
        raise FarrierError(f"{what}: {error.strerror or error}: {argv[0]}", 1) from None
    lines: list[str] = []
    watchdog = _kill_after(process, timeout)
    try:
        for line in process.stdout:
            lines.append(line.rstrip())
            # The tail is what explains a failure; a chatty build must not fill our memory.
            del lines[:-500]
            if on_line and line.strip():
                on_line(line.rstrip()[:300])
        status = process.wait()
    finally:
        late = watchdog()
    if late:
        raise FarrierError(f"{what}: no end after {timeout:.0f} s", 1)
    if status:
        raise FarrierError(f"{what}: {failure(status, lines)}", 1)
    return "\n".join(lines)


def _kill_after(process: subprocess.Popen[str], timeout: float | None) -> Callable[[], bool]:
    """Kills the process's whole session after `timeout` seconds; the answer says whether it had to."""
    import signal
    import threading

    fired: list[bool] = []

    def kill() -> None:
        fired.append(True)
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(timeout or 0, kill)
    timer.daemon = True
    if timeout:
        timer.start()

    def stop() -> bool:
        timer.cancel()
        return bool(fired)

    return stop


def failure(status: int, lines: Sequence[str]) -> str:
    """One line for a program that failed: out of memory, out of disk, or its own last error."""
    text = "\n".join(lines)
    if "No space left on device" in text or "os error 28" in text:
        return "no space left on the disk"
    if status in (-9, 137):
        return "killed (most likely out of memory: give the host more memory or a swap file)"
    if cause := re.search(r"^\s*cause: (.+(?:\n\s{9}.+)*)", text, re.MULTILINE):
        # uv's resolver: the reason is indented below the error.
        return re.sub(r"\s+", " ", cause[1]).strip()[:400]
    for pattern in (
        r"^\s*(?:ERROR|error|fatal|Error): .+",
        r"^\s*[\w.]+(?:Error|Exception): .+",
        r"^.*[\u00d7\u2570]+.*\S.*",
    ):
        found = re.findall(pattern, text, re.MULTILINE)
        if found:
            # The first ERROR is the cause; what follows repeats or excuses it.
            return re.sub(r"\s+", " ", found[0] if "rror" in pattern[:20] else found[-1]).strip()[:400]
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    ended = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{last[:400]} ({ended})"
