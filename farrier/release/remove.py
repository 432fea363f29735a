"""Taking an app off the host: everything that its runs made, and nothing else."""

from __future__ import annotations

import contextlib
from pathlib import Path

from . import account, files, systemd
from .layout import COLOURS, ETC, LAUNCHER, RUN, RUNTIME, UPLOADS, VAR, Layout
from .spec import Spec
from .state import State, releases

# What a run puts into the app's folder; anything else there is not ours.
OWN = ("releases", "current", "blue", "green", "state.json", "events.jsonl", "undo", "lock")


def is_there(layout: Layout) -> bool:
    """True if anything of the app is on the host."""
    places = [layout.etc, layout.state_json, layout.releases, layout.run_dir, *layout.unit_paths()]
    return any(place.exists() or place.is_symlink() for place in places)


def everything(
    spec: Spec, layout: Layout, state: State, keep_data: bool = False, keep_uploads: bool = False
) -> list[str]:
    """Stops and removes the app; answers what was removed. Safe to run again after a kill.

    `keep_uploads`: after a failed first deploy what was uploaded for it stays, for the next try.
    """
    gone: list[str] = []
    archives = [] if keep_uploads else _archives(layout)
    _stop(layout)
    for path in layout.unit_paths():
        if path.exists() and (path.is_dir() or systemd.foreign_unit(path.name, layout.mark) is None):
            files.delete(path)
            gone.append(path.name)
    systemd.reload_units()
    systemd.systemctl("reset-failed", layout.socket, layout.slice, *map(layout.service, COLOURS), check=False)
    gone += _folders(layout, state, keep_data)
    for archive in archives:
        files.delete(archive)
    account.remove(state.created.get("user"), state.created.get("group"))
    gone += [f"{kind} {name}" for kind, name in state.created.items() if kind in ("user", "group")]
    _last(keep_uploads)
    return gone


def _stop(layout: Layout) -> None:
    # The socket first: otherwise the next connection would start a colour again.
    systemd.systemctl("disable", "--quiet", layout.socket, check=False)
    for unit in (layout.socket, *map(layout.service, COLOURS), layout.slice):
        systemd.systemctl("stop", unit, check=False, timeout=300)


def _folders(layout: Layout, state: State, keep_data: bool) -> list[str]:
    names = [
        name
        for name in (*OWN, *([] if keep_data else ["shared"]))
        if (layout.root / name).exists() or (layout.root / name).is_symlink()
    ]
    # state.json last of all: what a killed removal still has to do stands in it.
    for name in sorted(names, key=lambda one: one in ("state.json", "lock")):
        files.delete(layout.root / name)
    if state.created.get("root"):
        with contextlib.suppress(OSError):
            # Only when empty: a folder with somebody's files in it stays.
            layout.root.rmdir()
    for path in (layout.etc, layout.run_dir, VAR / "cache" / layout.name):
        files.delete(path)
    return [str(layout.root / name) for name in names]


def _archives(layout: Layout) -> list[Path]:
    """Uploaded archives that only this app's releases came from."""
    own = {one.source.removeprefix("sha256:") for one in releases(layout) if one.source.startswith("sha256:")}
    for name in ("app.json", "wanted.json"):
        data = files.read_json(layout.etc / name) or {}
        own.add(str((data.get("source") or {}).get("sha256", "")))
    others: set[str] = set()
    for path in ETC.glob("*/app.json"):
        if path.parent != layout.etc:
            data = files.read_json(path) or {}
            others.add(str((data.get("source") or {}).get("sha256", "")))
    return [UPLOADS / f"{digest}.tar.gz" for digest in own - others if digest]


def _last(keep_uploads: bool) -> None:
    """With the last app goes what all apps share: empty folders, tools, the runtime."""
    if any(path.is_dir() for path in ETC.glob("*")):
        return
    for folder in (ETC, RUN):
        with contextlib.suppress(OSError):
            folder.rmdir()
    files.delete(VAR / "cache" if keep_uploads else VAR)
    with contextlib.suppress(OSError):
        VAR.rmdir()
    files.delete(RUNTIME)
    files.delete(LAUNCHER)
    systemd.systemctl("stop", "farrier.slice", check=False)
