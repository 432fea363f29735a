"""What must be true of the host before a run changes anything: each problem is one line."""

from __future__ import annotations

import os
import re
import shutil
import socket
from pathlib import Path

from ..errors import FarrierError
from . import account, files, python, source, systemd
from .layout import COLOURS, ETC, Layout
from .spec import Bind, Spec
from .state import State

# A venv of a small framework with its compiled bytecode took 60 to 120 MiB in the lab; the rest is air.
DISK_LEAST = 250 << 20
INODES_LEAST = 20_000
# pip's own peak while it installs a framework from wheels is about 70 MiB.
MEMORY_LEAST = 64 << 20


def problems(spec: Spec, layout: Layout, state: State, check: bool = False) -> list[str]:
    """Every reason not to begin. In check mode what an earlier task would bring may still be missing."""
    found: list[str] = []
    if not systemd.running():
        return [
            f"{spec.name}: this host does not run systemd (no /run/systemd/system); farrier needs it as init"
        ]
    if os.geteuid() != 0:
        return [f"{spec.name}: farrier release apply needs root; run it with sudo"]
    found += _names(spec, layout)
    found += _port(spec, layout)
    found += _room(layout)
    if not check:
        found += _brought(spec)
    # A wrong root would make the app's own user look like a stranger's.
    if not found and (text := account.problem(spec, bool(state.created.get("user")))) is not None:
        found.append(text)
    return found


def _names(spec: Spec, layout: Layout) -> list[str]:
    found = []
    units = [layout.socket, layout.template, f"{spec.name}.service", layout.slice]
    units += [layout.service(colour) for colour in COLOURS]
    for unit in units:
        if path := systemd.foreign_unit(unit, layout.mark):
            found.append(
                f"name: {spec.name} would take the unit {unit}, which {path} holds; choose another name"
            )
    theirs = [one for one in ("releases", "current", *COLOURS) if os.path.lexists(layout.root / one)]
    if theirs and not layout.state_json.exists() and not layout.app_json.exists():
        found.append(
            f"root: {spec.root} holds {', '.join(theirs)}, which farrier did not make; choose another root "
            "(shared may be there already: it is taken over)"
        )
    for other in ETC.glob("*/app.json"):
        data = files.read_json(other) or {}
        name = other.parent.name
        if name == spec.name:
            if (data.get("root") or f"/srv/{name}") != spec.root:
                found.append(
                    f"root: given {spec.root}, but {name} lives in {data.get('root') or f'/srv/{name}'}; "
                    "remove it first (state: absent), with keep_data if its shared folder is to stay"
                )
        elif Layout(name, Path("/")).slice == layout.slice:
            found.append(
                f"name: {spec.name} and {name} would share the slice {layout.slice}; choose another name"
            )
        elif (data.get("root") or f"/srv/{name}") == spec.root:
            found.append(f"root: {spec.root} is the folder of the app {name}; choose another")
    return found


def _brought(spec: Spec) -> list[str]:
    """Interpreter, archive, git: what must be on the host by now."""
    found = []
    try:
        chosen = python.find(spec.python)
        if not chosen.can_venv:
            package = f"python{chosen.version.rpartition('.')[0]}-venv"
            found.append(f"python: {chosen.path} cannot make virtual environments; install {package}")
        if spec.source.type == "archive":
            source.check_archive(spec.source)
    except FarrierError as error:
        found.append(str(error))
    if spec.source.type == "git" and shutil.which("git") is None:
        found.append("source.type: given git, but this host has no git; install the package git")
    for tool in ("useradd", "tar"):
        if shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            found.append(f"{spec.name}: this host has no {tool}; install it")
    return found


def _room(layout: Layout) -> list[str]:
    place = layout.root
    while not place.exists():
        place = place.parent
    stat = os.statvfs(place)
    found = []
    free, need = stat.f_bavail * stat.f_frsize, max(DISK_LEAST, _release_bytes(layout))
    if free < need:
        found.append(f"disk: {free >> 20} MiB free at {place}; a release needs about {need >> 20} MiB")
    if stat.f_files and stat.f_favail < INODES_LEAST:
        found.append(f"disk: {stat.f_favail} inodes free at {place}; a release needs about {INODES_LEAST}")
    available = _available_memory()
    if available is not None and available < MEMORY_LEAST:
        found.append(
            f"memory: {available >> 20} MiB free; building a release needs about {MEMORY_LEAST >> 20} MiB: "
            "stop something or add a swap file"
        )
    return found


def _release_bytes(layout: Layout) -> int:
    """A fifth more than the release that is served takes, as recorded when it was built."""
    data = files.read_json(layout.current / "release.json") or {}
    return int(data.get("measured", {}).get("disk_bytes", 0) * 1.2)


def _available_memory() -> int | None:
    """MemAvailable and free swap, in bytes."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    rows = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
    return (int(rows.get("MemAvailable", 0)) + int(rows.get("SwapFree", 0))) * 1024


def _port(spec: Spec, layout: Layout) -> list[str]:
    listen = spec.listen
    ours = systemd.show(layout.socket, "ActiveState", "Listen")
    if ours["ActiveState"] == "active" and _holds(ours["Listen"], listen):
        return []
    for other in ETC.glob("*/app.json"):
        data = files.read_json(other) or {}
        if other.parent.name != spec.name and data.get("bind", "127.0.0.1:8000") == spec.bind:
            return [f"bind: given {spec.bind}, which the app {other.parent.name} has; choose another"]
    reason = _refused(listen)
    if reason is None:
        return []
    by = _holder(listen.port) if listen.kind == "tcp" else ""
    return [f"bind: given {spec.bind}: {reason}{by}"]


def _holds(listening: str, listen: Bind) -> bool:
    """True if our own socket unit has that port or path already (whatever the address)."""
    end = listen.path if listen.kind == "unix" else f":{listen.port}"
    return any(part.endswith(end) for part in listening.split())


def _refused(listen: Bind) -> str | None:
    """Why the address cannot be had: found by taking it for a moment."""
    if listen.kind == "unix":
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(listen.path)
            except OSError:
                return None
        return "something listens there already"
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host or "0.0.0.0", listen.port))
            probe.listen(1)
        except OSError as error:
            if error.errno == 98:
                return "the port is in use"
            if error.errno == 99:
                return f"{listen.host} is no address of this machine"
            return (error.strerror or str(error)).lower()
    return None


def _holder(port: int) -> str:
    """`` by nginx (pid 812)``, where the kernel says so."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            rows = Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        fields = [row.split() for row in rows]
        inodes |= {row[9] for row in fields if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
    links = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(descriptor.readlink()) in links for descriptor in (process / "fd").iterdir()):
                return f" by {(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue
    return ""
