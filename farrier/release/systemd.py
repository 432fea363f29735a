"""systemd as this package uses it: ``systemctl`` and ``journalctl``, never a shell."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from ..errors import FarrierError
from .layout import UNITS

# What journald adds around a line of interest and what systemd itself says about every failed unit.
_NOISE = re.compile(
    r"^(systemd\[\d+\]|.*(Failed with result|Scheduled restart|Start request|Main process exited|"
    r"Control process exited|Consumed .* CPU time|Failed to start|Starting |Stopping |Stopped |Started ))"
)


def running() -> bool:
    """True if systemd is this host's init (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def systemctl(*args: str, check: bool = True, timeout: float = 60) -> str:
    """Runs ``systemctl``; raises FarrierError with its own words unless `check` is False."""
    try:
        done = subprocess.run(
            ["systemctl", *args], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise FarrierError(f"systemctl {' '.join(args)} did not answer in {timeout:.0f} s", 1) from None
    if check and done.returncode:
        words = " ".join((done.stderr or done.stdout).split())
        raise FarrierError(f"systemctl {' '.join(args)}: {words}", 1)
    return done.stdout.strip()


def show(unit: str, *names: str) -> dict[str, str]:
    """Some properties of `unit`; empty values where systemd knows nothing."""
    out = systemctl("show", unit, *(f"--property={name}" for name in names), check=False)
    found = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
    return {name: found.get(name, "") for name in names}


def is_active(unit: str) -> bool:
    return show(unit, "ActiveState")["ActiveState"] in ("active", "reloading", "activating")


def is_there(unit: str) -> bool:
    """Active, or not quite gone: what runs after its end (``ExecStopPost=``) counts as well."""
    return show(unit, "ActiveState")["ActiveState"] in ("active", "reloading", "activating", "deactivating")


def processes(unit: str) -> list[str]:
    """The numbers of the processes of a service, as its cgroup lists them."""
    group = show(unit, "ControlGroup")["ControlGroup"]
    for base in ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        path = Path(f"{base}{group}/cgroup.procs")
        if group and path.exists():
            return path.read_text().split()
    return []


def reload_units() -> None:
    systemctl("daemon-reload", timeout=90)


def foreign_unit(name: str, mark: str) -> Path | None:
    """A unit file called `name` on this host that does not begin with our mark."""
    folders = [UNITS, *map(Path, ("/run/systemd/system", "/usr/local/lib/systemd/system"))]
    folders += [Path("/usr/lib/systemd/system"), Path("/lib/systemd/system")]
    for folder in folders:
        path = folder / name
        if path.is_symlink() or path.exists():
            try:
                first = path.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0]
            except OSError:
                first = ""
            if first != mark:
                return path
    return None


def journal_since(unit: str, since: float, lines: int = 200) -> list[str]:
    """What `unit` logged since a Unix time, messages only, oldest first."""
    done = subprocess.run(
        [
            "journalctl",
            "-u",
            unit,
            f"--since=@{since:.6f}",
            "-o",
            "cat",
            "-n",
            str(lines),
            "--no-pager",
            "-q",
        ],
        capture_output=True,
        text=True,
        errors="replace",
    )
    return [line for line in done.stdout.splitlines() if line.strip()]


def _message(line: str) -> str:
    """The message of a line that is JSON, as production logs are; a severity stays in front of it."""
    if not line.startswith("{"):
        return line
    try:
        data = json.loads(line)
    except ValueError:
        return line
    text = str(data.get("message", line)).split("\n")[0]
    severe = data.get("severity") in ("ERROR", "CRITICAL", "EMERGENCY")
    return f"Error: {text}" if severe else text


def messages_since(unit: str, since: float) -> list[str]:
    """What `unit` logged, without the JSON around it."""
    return [_message(line.strip()) for line in journal_since(unit, since)]


def telling_line(lines: list[str]) -> str:
    """The one line of a failed unit's log that a person needs: the last error, else the last line at all."""
    said = [_message(line.strip()) for line in lines if not _NOISE.match(line.strip())]
    errors = [line for line in said if re.match(r"[\w.]*(Error|Exception|Warning|Exit|Interrupt)\b.*", line)]
    worded = [line for line in said if re.search(r"error|failed|cannot|refused|killed|timeout", line, re.I)]
    for found in (errors, worded, said):
        if found:
            return found[-1][:400]
    return ""
