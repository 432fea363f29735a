"""Prints what a deploy could have changed on a host, a line each: files, accounts, units.

Logs, caches and what systemd and dpkg keep for themselves are not it.
"""

from __future__ import annotations

import os
import stat
import subprocess
import zlib
from pathlib import Path

PLACES = ("/etc", "/srv", "/opt", "/usr/local", "/usr/lib/systemd", "/home", "/root", "/var/lib", "/small")
PASSED_OVER = {"/var/lib/systemd", "/var/lib/apt", "/var/lib/dpkg", "/root/.ansible", "/root/.cache"}
# passwd- and group- are the account tools' own copies of the file before.
ACCOUNT_COPIES = (".pwd.lock", "passwd-", "group-", "shadow-", "gshadow-", "subuid-", "subgid-")
PASSED_OVER |= {f"/etc/{name}" for name in ACCOUNT_COPIES}


def entries(folder: str) -> list[str]:
    lines = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [
            name for name in folders if f"{parent}/{name}" not in PASSED_OVER and name != ".ansible"
        ]
        lines += [
            line(f"{parent}/{name}") for name in (*folders, *files) if f"{parent}/{name}" not in PASSED_OVER
        ]
    return lines


def _counts(parent: str, name: str) -> bool:
    return f"{parent}/{name}" not in PASSED_OVER and name != ".ansible"


def line(name: str) -> str:
    path = Path(name)
    found = path.lstat()
    content = ""
    if stat.S_ISLNK(found.st_mode):
        content = str(path.readlink())
    elif stat.S_ISREG(found.st_mode):
        content = f"{zlib.crc32(path.read_bytes()):08x}"
    return f"{name} {stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid} {content}"


def said(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def main() -> None:
    lines = [found for place in PLACES for found in entries(place)]
    lines += said("getent", "passwd") + said("getent", "group")
    lines += said("systemctl", "list-unit-files", "--no-legend", "--no-pager")
    units = said(
        "systemctl", "list-units", "--all", "--plain", "--no-legend", "--no-pager", "-t", "socket,slice"
    )
    lines += [unit for unit in units if "farrier" in unit or ".socket" in unit]
    print("\n".join(sorted(lines)))


if __name__ == "__main__":
    main()
