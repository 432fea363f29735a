"""Fills a snapshot from this host."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farrier.cli import apps
from farrier.doctor import snapshot as see
from farrier.doctor.snapshot import Colour, Snapshot

if TYPE_CHECKING:
    from farrier.release.layout import Layout
    from farrier.release.spec import Spec
    from farrier.release.state import State


def collect(name: str) -> Snapshot:
    """One app as it is now; what cannot be read stays ``None``."""
    from farrier.release.state import State

    spec = apps.spec(name)
    layout = apps.layout(name)
    state = State.load(layout)
    instance = state.active
    state_file = layout.run_dir / f"{instance}.json"
    running: Mapping[str, Any] = see.read_json(state_file) or {}
    age, who = lock(layout)
    unit = see.systemctl_show(layout.service(instance) if instance else layout.socket)
    group = unit.get("ControlGroup") or ""
    limit, used, kills = see.cgroup_memory(group) if group else (None, None, None)
    return replace(
        server(name, running, int(unit.get("MainPID") or 0) or None, spec.bind),
        **deploys(layout, state, age),
        state_file=state_file,
        plan=see.read_json(layout.current / "plan.json"),
        instance=instance,
        unit=unit,
        memory_limit=limit,
        memory_used=used,
        oom_kills=kills,
        disk_free=see.free_bytes(str(layout.root)),
        release_size=tree_size(layout.current),
        lock_age=age,
        lock_who=who,
        # A request would start what somebody stopped: the socket wakes it.
        health=ask(health_url(spec)) if unit.get("ActiveState") == "active" else None,
        second=second_colour(layout, instance),
        account=unknown_account(spec),
        together=sum(expected_of(other) for other in apps.deployed()),
        neighbours=tuple(other for other in apps.deployed() if other != name),
        connections=connections_together(),
    )


def again(before: Snapshot) -> Snapshot:
    """The same snapshot with what was answered, and what met a full queue, since it was taken."""
    running = (see.read_json(before.state_file) if before.state_file else None) or {}
    now, overflows = see.traffic_of(running), see.listen_overflows()
    grown = None if overflows is None or before.overflows is None else overflows - before.overflows
    recent = now.since(before.traffic) if now and before.traffic else None
    return replace(before, recent=recent, overflows_recent=grown)


def deploys(layout: Layout, state: State, locked: float | None) -> dict[str, Any]:
    """What state.json and the releases tell of deploys, and which colours run."""
    from farrier.release import events, files, history
    from farrier.release.layout import COLOURS
    from farrier.release.state import releases

    drop_ins = (layout.candidate_drop_in(colour) for colour in COLOURS)
    pending = files.Undo(layout.undo).pending and locked is None
    left = [str(path) for path in drop_ins if path.exists()] if locked is None else []
    left += [str(layout.undo)] if pending else []
    return {
        "run": state.run,
        "step": events.last_step(layout.events, str(state.run.get("id", ""))) if state.run else None,
        "leftovers": tuple(left),
        "undo_pending": pending,
        "last": state.history[-1] if state.history else None,
        "bad": {one.id: history.told(one.bad) for one in releases(layout) if one.bad},
        "release": state.release,
        "rollback": history.rollback_target(layout, state),
        "colours": tuple(one for colour in COLOURS if (one := colour_of(layout, colour))),
    }


def colour_of(layout: Layout, name: str) -> Colour | None:
    """One colour, if its service is anything but stopped."""
    state = see.systemctl_show(layout.service(name)).get("ActiveState")
    if state in (None, "inactive", "failed"):
        return None
    running = see.read_json(layout.run_dir / f"{name}.json") or {}
    ready = sum(1 for worker in running.get("workers") or () if worker.get("ready"))
    release = running.get("release") or layout.link(name).resolve().name
    return Colour(name, state, release, ready, running.get("workers_wanted"))


def server(name: str, running: Mapping[str, Any], pid: int | None, bind: str) -> Snapshot:
    """What is looked at alike wherever a server runs: its state, its process, its socket, the machine."""
    in_force = running.get("settings")
    files_open, files_limit = see.open_files(pid or -1)
    memory = see.meminfo()
    depth, room = see.listen_queue(bind) if bind else (None, None)
    tmp_dir = (in_force or {}).get("worker_tmp_dir") or "/tmp"  # noqa: S108  (where Gunicorn puts it)
    return Snapshot(
        name=name,
        in_force=in_force,
        workers=tuple(running.get("workers") or ()),
        workers_wanted=running.get("workers_wanted"),
        traffic=see.traffic_of(running),
        endings=running.get("endings") or {},
        last_reload=running.get("last_reload"),
        overflows=see.listen_overflows(),
        machine_memory=memory.get("MemTotal"),
        machine_available=memory.get("MemAvailable"),
        swap=memory.get("SwapTotal"),
        somaxconn=see.read_int(Path("/proc/sys/net/core/somaxconn")),
        queue_limit=room,
        queue_depth=depth,
        files_limit=files_limit,
        files_open=files_open,
        tmp_dir=tmp_dir if in_force else None,
        tmp_type=see.mount_type(tmp_dir),
        tmp_free=see.free_bytes(tmp_dir),
    )


def expected_of(name: str) -> int:
    """Bytes that an app's plan expects of it, a deploy included; 0 where no plan can be read."""
    plan = see.read_json(apps.plan_file(name)) or {}
    return int(plan.get("memory_deploy_peak") or 0)


def connections_together() -> str:
    """What is to be said where the apps of this host may hold more database connections than there are."""
    from farrier.release.connections import too_many

    return too_many({name: see.read_json(apps.plan_file(name)) or {} for name in apps.deployed()})


def second_colour(layout: Layout, active: str | None) -> str | None:
    """The service of a colour that is active beside the active one, while no deploy runs."""
    from farrier.release.layout import COLOURS
    from farrier.release.state import is_locked

    if active is None or is_locked(layout):
        return None
    for colour in COLOURS:
        service = layout.service(colour)
        if colour != active and see.systemctl_show(service).get("ActiveState") == "active":
            return service
    return None


def unknown_account(spec: Spec) -> str | None:
    """The user or group of an app that this host does not have."""
    import grp
    import pwd

    try:
        pwd.getpwnam(spec.user or spec.name)
    except KeyError:
        return f"user {spec.user or spec.name}"
    try:
        grp.getgrnam(spec.group or spec.user or spec.name)
    except KeyError:
        return f"group {spec.group or spec.user or spec.name}"
    return None


def collect_here(environ: Mapping[str, str]) -> Snapshot:
    """The server beside this process that farrier did not deploy: in a container, or started by hand.

    What it runs with comes from its state file in ``FARRIER_RUN_DIR`` and from ``FARRIER_PLAN``; without them
    only the machine itself is looked at.
    """
    from farrier.sizing import read_budget

    state_file, running = state_here(environ)
    budget = read_budget()
    held = budget.scope == "container"
    _, used, kills = see.cgroup_memory("/") if held else (None, None, None)
    pid = int(running["pid"]) if "pid" in running else None
    listener = str(next(iter(running.get("listeners") or ()), ""))
    found = server(
        str(running.get("app") or environ.get("FARRIER_APP") or "this machine"),
        running,
        pid,
        listener.partition("://")[2] or listener,
    )
    shm = "/dev/shm"  # noqa: S108  (where the plan would put the heartbeat)
    if found.tmp_dir is None:
        found = replace(found, tmp_dir=shm, tmp_type=see.mount_type(shm), tmp_free=see.free_bytes(shm))
    return replace(
        found,
        plan=plan_here(environ),
        memory_limit=budget.memory_bytes if held else None,
        memory_used=used,
        oom_kills=kills,
        disk_free=see.free_bytes("."),
        health=ask(url_of(listener, environ.get("FARRIER_HEALTH_PATH", "/health"))),
        deployed=False,
        pid=pid,
        state_file=state_file,
    )


def state_here(environ: Mapping[str, str]) -> tuple[Path | None, Mapping[str, Any]]:
    """What the master wrote to ``FARRIER_RUN_DIR``, and where; empty where its process is gone."""
    folder = environ.get("FARRIER_RUN_DIR")
    for path in sorted(Path(folder).glob("*.json")) if folder else ():
        found: Mapping[str, Any] = see.read_json(path) or {}
        if "pid" in found and Path("/proc", str(found["pid"])).exists():
            return path, found
    return None, {}


def plan_here(environ: Mapping[str, str]) -> Mapping[str, Any] | None:
    given = environ.get("FARRIER_PLAN")
    if not given:
        return None
    from farrier.cli.in_force import read_plan

    return read_plan(given, "FARRIER_PLAN").to_dict()


def url_of(listener: str, health_path: str) -> str | None:
    """The readiness address behind a listener as the arbiter names it (http://…, unix:/…)."""
    if not listener or not health_path:
        return None
    if listener.startswith("unix:"):
        return f"{listener}:{health_path}/ready"
    return (
        listener.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:") + f"{health_path}/ready"
    )


def lock(layout: Layout) -> tuple[float | None, str | None]:
    """Seconds since the deploy under way took the lock, and whose it is; None where none holds it."""
    from farrier.release.state import holder

    found = holder(layout)
    if found is None:
        return None, None
    now = time.time()
    return max(0.0, now - float(found.get("since", now))), found.get("who")


def tree_size(path: Path) -> int | None:
    """Bytes on disk below a folder."""
    total = 0
    with contextlib.suppress(OSError):
        for file in path.resolve(strict=True).rglob("*"):
            with contextlib.suppress(OSError):
                total += file.lstat().st_blocks * 512
    return total or None


def health_url(spec: Spec) -> str | None:
    """The readiness address of an app, as ``farrier probe`` takes it; None where health is switched off."""
    if not spec.health_path:
        return None
    listen = spec.listen
    if listen.kind == "unix":
        return f"unix:{listen.path}:{spec.health_path}/ready"
    return f"{listen.url}{spec.health_path}/ready"


def ask(url: str | None) -> tuple[bool, str] | None:
    """One readiness probe over the app's own address."""
    if url is None:
        return None
    from farrier.probe import probe

    status, line = probe(url, timeout=5.0)
    return status == 0, line
