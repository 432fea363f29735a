"""Running other programs: as the app's user, niced, with a bounded environment, one line when they fail."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from ..errors import FarrierError
from .account import Account

# Seconds to wait for the rest of what a command says once it has ended.
LAST_WORDS = 2.0
_FULL = re.compile(r"No space left on device|os error 28")
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
    own_words: bool = False,
) -> str:
    """Runs `argv` to its end and answers what it printed. Raises FarrierError with the telling line.

    `own_words`: a person's own command; what it wrote to stderr last explains a failure, not what merely
    looks like an error somewhere above.
    """
    what = what or Path(argv[0]).name
    apart = subprocess.PIPE if own_words else subprocess.STDOUT
    owner = {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}
    try:
        process = subprocess.Popen(
            list(argv), env=dict(env or base_env()), cwd=cwd, stdin=stdin, stdout=subprocess.PIPE,
            stderr=apart, text=True, errors="replace", umask=0o022, start_new_session=True,
            **owner,  # type: ignore[call-overload]
        )  # fmt: skip
    except OSError as error:
        raise FarrierError(f"{what}: {error.strerror or error}: {argv[0]}", 1) from None
    watchdog = _kill_after(process, timeout)
    try:
        output, complaints = _Lines(process.stdout, on_line), _Lines(process.stderr, on_line)
        status = process.wait()
    except BaseException:
        # Whoever is stopped puts things back: nobody may go on writing meanwhile.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        late = watchdog()
    output.end()
    complaints.end()
    if late:
        raise FarrierError(f"{what}: no end after {timeout:.0f} s", 1)
    if status:
        said = _last(complaints.lines, status) or failure(status, [*output.lines, *complaints.lines])
        raise FarrierError(f"{what}: {said}", 1)
    return "\n".join(output.lines)


class _Lines:
    """Reads what a command says while it runs; without a pipe there is nothing to read."""

    def __init__(self, stream: IO[str] | None, on_line: Callable[[str], None] | None) -> None:
        self.lines: list[str] = []
        self._stream, self._on_line = stream, on_line
        self._thread = threading.Thread(target=self._read, daemon=True)
        if stream is not None:
            self._thread.start()

    def _read(self) -> None:
        for line in self._stream or ():
            # The tail is what explains a failure; a chatty build must not fill our memory.
            self.lines = [*self.lines[-499:], line.rstrip()]
            if self._on_line and line.strip():
                self._on_line(line.rstrip()[:300])

    def end(self) -> None:
        # A daemon that the command left behind may hold the pipe open for ever.
        if self._stream is not None:
            self._thread.join(LAST_WORDS)


def _last(lines: Sequence[str], status: int) -> str:
    """The last lines in one; empty where the status or another cause says more."""
    said = [line.strip() for line in lines if line.strip()]
    if not said or status in (-9, 137) or _FULL.search("\n".join(said)):
        return ""
    return f"{' | '.join(said[-3:])[:400]} ({_ended(status)})"


def _kill_after(process: subprocess.Popen[str], timeout: float | None) -> Callable[[], bool]:
    """Kills the process's whole session after `timeout` seconds; the answer says whether it had to."""
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
    if _FULL.search(text):
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
    return f"{last[:400]} ({_ended(status)})"


def _ended(status: int) -> str:
    return f"ended by signal {-status}" if status < 0 else f"exit status {status}"
