"""Fills a snapshot from this host."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farrier.cli import apps
from farrier.doctor import snapshot as see
from farrier.doctor.snapshot import Snapshot

if TYPE_CHECKING:
    from farrier.release.layout import Layout
    from farrier.release.spec import Spec


def collect(name: str) -> Snapshot:
    """One app as it is now; what cannot be read stays ``None``."""
    spec = apps.spec(name)
    layout = apps.layout(name)
    state = see.read_json(layout.state_json) or {}
    instance = state.get("active")
    running: Mapping[str, Any] = see.read_json(layout.run_dir / f"{instance}.json") or {}
    in_force = running.get("settings")
    unit = see.systemctl_show(layout.service(instance) if instance else layout.socket)
    group = unit.get("ControlGroup") or ""
    limit, used, kills = see.cgroup_memory(group) if group else (None, None, None)
    files_open, files_limit = see.open_files(int(unit.get("MainPID") or 0) or -1)
    memory = see.meminfo()
    depth, room = see.listen_queue(spec.bind)
    tmp_dir = (in_force or {}).get("worker_tmp_dir") or "/tmp"  # noqa: S108  (where Gunicorn puts it)
    return Snapshot(
        name=name,
        plan=see.read_json(layout.current / "plan.json"),
        in_force=in_force,
        workers=tuple(running.get("workers") or ()),
        instance=instance,
        unit=unit,
        memory_limit=limit,
        memory_used=used,
        oom_kills=kills,
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
        disk_free=see.free_bytes(str(layout.root)),
        release_size=tree_size(layout.current),
        lock_age=lock_age(layout),
        health=ask_health(spec),
    )


def lock_age(layout: Layout) -> float | None:
    """Seconds since the deploy under way took the lock; None where none holds it."""
    from farrier.release.state import is_locked

    if not is_locked(layout):
        return None
    since = (see.read_json(layout.lock) or {}).get("since", time.time())
    return max(0.0, time.time() - float(since))


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


def ask_health(spec: Spec) -> tuple[bool, str] | None:
    """One readiness probe over the app's own address."""
    url = health_url(spec)
    if url is None:
        return None
    from farrier.probe import probe

    status, line = probe(url, timeout=5.0)
    return status == 0, line
