"""Taking an app off the host: everything that its runs made, and nothing else."""

from __future__ import annotations

import contextlib
from pathlib import Path

from . import account, files, shared, systemd
from . import state as states
from .layout import COLOURS, ETC, LAUNCHER, PLANS_LOCK, RUN, RUNTIME, UPLOADS, VAR, Layout
from .spec import Spec
from .state import State, releases

# What a run puts into the app's folder; anything else there is not ours.
OWN = ("releases", "current", "blue", "green", "state.json", "events.jsonl", "undo", "lock")


def is_there(spec: Spec, layout: Layout) -> bool:
    """True if anything of the app is on the host, data that an earlier removal kept included."""
    places = [layout.etc, layout.state_json, layout.releases, layout.run_dir, *layout.unit_paths()]
    if any(place.exists() or place.is_symlink() for place in places):
        return True
    return not spec.keep_data and layout.shared.is_dir() and account.is_ours(spec)


def everything(
    spec: Spec, layout: Layout, state: State, keep_data: bool = False, failed: bool = False
) -> list[str]:
    """Stops and removes the app; answers what was removed. Safe to run again after a kill.

    `keep_data`: shared/ stays, with the user and group that it belongs to. `failed`: on behalf of a first
    deploy that failed, so what was there before it stays, and so does what was uploaded, for the next try.
    """
    gone: list[str] = []
    if not state.created and account.is_ours(spec):
        # Left by an earlier removal that kept the data.
        state.created = {"user": spec.user, "root": True}
    archives = [] if failed else _archives(layout)
    _stop(layout)
    for path in layout.unit_paths():
        if path.exists() and (path.is_dir() or systemd.foreign_unit(path.name, layout.mark) is None):
            files.delete(path)
            gone.append(path.name)
    systemd.reload_units()
    systemd.systemctl("reset-failed", layout.socket, layout.slice, *map(layout.service, COLOURS), check=False)
    keeps = keep_data or (failed and not shared.may_go(layout, state))
    has_data = keeps and shared.belongs_to(layout, spec.user)
    if not has_data and not (failed and state.created.get("adopted")):
        # Before the folders: a killed removal finds in state.json what it still has to do.
        gone += _accounts(spec, layout, state)
    gone += _folders(layout, state, keeps)
    for archive in archives:
        files.delete(archive)
    _last(failed)
    return gone


def _accounts(spec: Spec, layout: Layout, state: State) -> list[str]:
    """Removes the user and group that runs made, unless another app runs as them: then they become its."""
    made = {kind: str(state.created[kind]) for kind in ("user", "group") if state.created.get(kind)}
    heirs = [heir for heir, names in _neighbours(layout) if names & set(made.values())]
    if heirs:
        _bequeath(heirs[0], made)
        return []
    account.remove(made.get("user"), made.get("group"))
    return [f"{kind} {name}" for kind, name in made.items()]


def _neighbours(layout: Layout) -> list[tuple[Layout, set[str]]]:
    """The other apps of this host, in force or under way, and the user and group of each."""
    found = {}
    for path in (*ETC.glob("*/wanted.json"), *ETC.glob("*/app.json")):
        data, name = files.read_json(path), path.parent.name
        if data is not None and name != layout.name:
            user = str(data.get("user") or name)
            found[name] = (
                Layout(name, Path(data.get("root") or f"/srv/{name}")),
                {user, str(data.get("group") or user)},
            )
    return list(found.values())


def _bequeath(heir: Layout, made: dict[str, str]) -> None:
    """Notes in the other app's state that its removal takes the account away."""
    # Where it is being deployed right now its run holds the state: then the account stays for good.
    with contextlib.suppress(states.Held), states.locked(heir, "removal of another app", wait=5):
        state = State.load(heir)
        state.created.update(made)
        state.save(heir)


def _stop(layout: Layout) -> None:
    # The socket first: otherwise the next connection would start a colour again.
    systemd.systemctl("disable", "--quiet", layout.socket, check=False)
    for unit in (layout.socket, *map(layout.service, COLOURS), layout.slice):
        systemd.systemctl("stop", unit, check=False, timeout=300)


def _folders(layout: Layout, state: State, keep_shared: bool) -> list[str]:
    names = [
        name
        for name in (*OWN, *([] if keep_shared else ["shared"]))
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


def _last(failed: bool) -> None:
    """With the last app goes what all apps share: empty folders, tools, the runtime."""
    if any(path.is_dir() for path in ETC.glob("*")):
        return
    for folder in (ETC, RUN):
        with contextlib.suppress(OSError):
            folder.rmdir()
    files.delete(VAR / PLANS_LOCK)
    files.delete(VAR / "cache" if failed else VAR)
    with contextlib.suppress(OSError):
        VAR.rmdir()
    files.delete(RUNTIME)
    files.delete(LAUNCHER)
    systemd.systemctl("stop", "farrier.slice", check=False)
