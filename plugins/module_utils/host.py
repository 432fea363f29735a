# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What preflight looks at on the host. Nothing here changes anything."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path

OS_RELEASE = "/etc/os-release"
MIN_PYTHON = (3, 10)
#: MiB that a first release takes: a venv of a small framework is 30 to 90, wheels and source as much.
MIN_FREE_MIB = 250
MIN_FREE_INODES = 20_000
#: VERSION_IDs of Debian on which the role's tests run. Children of Debian may do, and are not tried.
SEEN_DEBIANS = ("12", "13")
#: Groups whose members Debian lets become root.
ROOT_GROUPS = ("sudo", "root", "docker", "lxd", "disk", "shadow")
UNIT_FOLDERS = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/lib/systemd/system",
)


class Refused(Exception):
    """One line: what is wrong with the host or the variable, and what to do."""


def check_platform() -> None:
    """A Debian that farrier was seen to work on, booted with systemd."""
    release = _os_release()
    if release.get("ID") != "debian" or release.get("VERSION_ID") not in SEEN_DEBIANS:
        found = release.get("PRETTY_NAME") or release.get("ID") or "a system that does not say its name"
        raise Refused(f"this host runs {found}; farrier.web takes Debian {' or '.join(SEEN_DEBIANS)} only")
    if not Path("/run/systemd/system").is_dir():
        raise Refused("this host was not booted with systemd, which runs the app: use a host that was")


def _os_release() -> dict[str, str]:
    try:
        lines = Path(OS_RELEASE).read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key: value.strip("\"'") for key, _equals, value in pairs}


def check_python(found: tuple, wanted: str, coming: list[str], prefix: str) -> None:
    """The host's own Python runs farrier; the app may want another, from ``coming`` packages for one."""
    if tuple(found[:2]) < MIN_PYTHON:
        raise Refused(
            f"this host's Python is {found[0]}.{found[1]}; farrier needs "
            f"{MIN_PYTHON[0]}.{MIN_PYTHON[1]} or newer: "
            "use Debian 12 or later, or set ansible_python_interpreter"
        )
    there = shutil.which(wanted if wanted.startswith("/") else f"python{wanted}")
    if wanted and not there and f"python{wanted}" not in coming:
        raise Refused(
            f"{prefix}python: {wanted} is not on this host, which has {found[0]}.{found[1]}; "
            f"name its package in {prefix}system_packages, or leave {prefix}python empty"
        )


def is_ours(name: str) -> bool:
    """Whether farrier knows the app; what a killed first run left counts, for the next one goes on there."""
    return Path(f"/etc/farrier/{name}").is_dir()


def check_units(name: str, prefix: str) -> None:
    """The units that the app will have, or had, are its own or nobody's."""
    if is_ours(name):
        return
    for unit in (f"{name}.socket", f"{name}.service", f"{name}@.service"):
        for folder in UNIT_FOLDERS:
            if Path(folder, unit).exists():
                raise Refused(
                    f"{prefix}name: {name} is taken by {folder}/{unit}, which farrier did not make; "
                    "choose another name"
                )


def check_root(name: str, root: str, prefix: str) -> None:
    """The folder that the app will own is its own or nobody's."""
    place = Path(root or f"/srv/{name}")
    if is_ours(name):
        return
    if place.exists() and not place.is_dir():
        raise Refused(f"{prefix}root: {place} is no folder")
    # shared/ alone is what keep_data left when the app went.
    own = {"state.json", "releases", "shared", "lost+found"}
    if place.is_dir() and any(place.iterdir()) and not own & {entry.name for entry in place.iterdir()}:
        raise Refused(f"{prefix}root: {place} holds something else; choose an empty or a new folder")


def power_of(user: str) -> str:
    """How a user who exists on this host may become root; empty if not at all, as far as groups say."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return ""
    own = [
        group.gr_name for group in grp.getgrall() if user in group.gr_mem or group.gr_gid == account.pw_gid
    ]
    groups = [name for name in ROOT_GROUPS if name in own]
    return f"is in the group {groups[0]}" if groups else _sudo_of(user)


def _sudo_of(user: str) -> str:
    """A line of its own in sudo's files."""
    for path in (Path("/etc/sudoers"), *Path("/etc/sudoers.d").glob("*")):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if any(line.split()[:1] == [user] for line in path.read_text(encoding="utf-8").splitlines()):
                return f"may use sudo ({path})"
    return ""


def check_disk(root: str, prefix: str) -> None:
    """Room for one more release where the releases live, in bytes and in files."""
    place = Path(root)
    while not place.exists():
        place = place.parent
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize // 2**20
    if free < MIN_FREE_MIB:
        raise Refused(
            f"{prefix}root: {free} MiB are free on the disk of {place}, a release needs {MIN_FREE_MIB} MiB; "
            f"make room there or point {prefix}root at a larger disk"
        )
    if disk.f_files and disk.f_favail < MIN_FREE_INODES:
        raise Refused(
            f"{prefix}root: only {disk.f_favail} more files fit on the disk of {place}, a release needs "
            f"{MIN_FREE_INODES}; remove files there or point {prefix}root at another disk"
        )


def check_port(name: str, listen: dict, prefix: str) -> None:
    """Nobody else listens where the app will; ``listen`` is farrier.release.spec.Bind as a dict."""
    if listen["kind"] == "unix":
        _check_unix_path(name, listen["path"], prefix)
        return
    host, port = listen["host"], listen["port"]
    inode = listening_inode(host, port)
    if inode is None:
        return
    owner = _socket_unit(host, port)
    if owner == f"{name}.socket":
        return
    holder = owner or _process_of(inode)
    raise Refused(
        f"{prefix}bind: port {port} is taken on this host by {holder}; choose another port or stop that first"
    )


def _check_unix_path(name: str, path: str, prefix: str) -> None:
    if Path(path).is_socket() and _socket_unit(path, None) != f"{name}.socket":
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                raise Refused(
                    f"{prefix}bind: {path} is taken on this host by another service; choose another path"
                )


def listening_inode(host: str, port: int, proc: str = "/proc") -> str | None:
    """The inode of a listening TCP socket that stands in the way of host:port."""
    for table in ("tcp", "tcp6"):
        try:
            rows = Path(proc, "net", table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            columns = row.split()
            address, hexadecimal = columns[1].rsplit(":", 1)
            if columns[3] == "0A" and int(hexadecimal, 16) == port and _overlap(host, _address(address)):
                return columns[9]
    return None


def _address(hexadecimal: str) -> str:
    """The kernel writes each 32-bit word of an address in the machine's own order (little-endian here)."""
    words = [hexadecimal[start : start + 8] for start in range(0, len(hexadecimal), 8)]
    raw = b"".join(bytes.fromhex(word)[::-1] for word in words)
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def _overlap(wanted: str, taken: str) -> bool:
    """Two listeners on one port disturb each other if one takes all addresses or both take the same."""
    everywhere = {"0.0.0.0", "::", "", "*"}
    return wanted in everywhere or taken in everywhere or wanted == taken or f"::ffff:{wanted}" == taken


def _socket_unit(host: str, port: int | None) -> str | None:
    """The systemd socket unit that listens there."""
    command = ["systemctl", "list-sockets", "--no-legend", "--no-pager", "--plain"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in answer.stdout.splitlines():
        columns = line.split()
        if len(columns) < 2:
            continue
        listen = columns[0]
        if port is None and listen == host:
            return columns[1]
        taken, separator, number = listen.rpartition(":")
        if port is not None and separator and number == str(port) and _overlap(host, taken.strip("[]")):
            return columns[1]
    return None


def _process_of(inode: str) -> str:
    """The process that holds a socket, as a person would look for it."""
    for entry in Path("/proc").glob("[0-9]*"):
        if any(link == f"socket:[{inode}]" for link in _descriptors(entry)):
            name = (entry / "comm").read_text(encoding="utf-8").strip()
            return f"{name} (pid {entry.name})"
    return "another process"


def _descriptors(process: Path) -> list[str]:
    """What the descriptors of a process lead to; those that close while we look are passed over."""
    found = []
    with contextlib.suppress(OSError):
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(str(link.readlink()))
    return found


def needed_packages(options: dict) -> list[str]:
    """What the app needs from Debian: a venv, git for a git source, and what the person named."""
    packages = ["python3-venv", "ca-certificates"]
    if options["git_repo"]:
        packages += ["git", "openssh-client"] if _over_ssh(options["git_repo"]) else ["git"]
    return packages + [name for name in options["system_packages"] if name not in packages]


def _over_ssh(repo: str) -> bool:
    return repo.startswith("ssh:") or ("@" in repo.split("/")[0] and "://" not in repo)


def missing_packages(names: list[str]) -> list[str]:
    """Those that dpkg does not know as installed; ``name=version`` asks for just that version."""
    command = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status} ${Version}\\n"]
    command += [name.split("=")[0] for name in names]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [line.split() for line in answer.stdout.splitlines()]
    installed = {row[0]: row[2] for row in rows if len(row) == 3 and row[1] == "installed"}
    missing = []
    for name in names:
        package, _equals, version = name.partition("=")
        if package not in installed or (version and installed[package] != version):
            missing.append(name)
    return missing
