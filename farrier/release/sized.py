"""From a spec to a plan: the seam between this package and farrier.sizing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import FarrierError
from .layout import ETC

if TYPE_CHECKING:
    from ..sizing.budget import Budget
    from ..sizing.plan import Plan
    from ..sizing.settings import Settings
    from ..sizing.workload import Workload
    from .layout import Layout
    from .spec import Spec

SETTINGS_SOURCE = "settings.json"


def workload_of(given: Mapping[str, Any]) -> Workload:
    """The workload that a person described. Raises SizingError, for an unknown key too."""
    from ..sizing.workload import Workload

    return Workload.from_mapping(given)


def settings_of(spec: Spec, env: Mapping[str, str]) -> Settings:
    """A person's choices: names in the app's environment (WORKERS …) stand above the spec's settings."""
    from ..sizing.settings import Settings

    lower = Settings.from_mapping({"runtime": "systemd", **spec.settings}, SETTINGS_SOURCE)
    return Settings.merged(Settings.from_environ(env), lower)


def others(name: str) -> list[tuple[str, int]]:
    """The other apps of this host and the bytes that each is expected to take, by the plan it serves with.

    Standard library only, and no more than files are read: the Ansible side does the same without us.
    """
    found = []
    for path in sorted(ETC.glob("*/plan.json")):
        if path.parent.name == name:
            continue
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            found.append((path.parent.name, int(data["memory_deploy_peak"])))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def plan_for(spec: Spec, layout: Layout, measured: Mapping[str, Any], env: Mapping[str, str]) -> Plan:
    """The plan of this app on this host, now.

    `measured` holds what the import check saw (``app_memory`` in bytes, ``boot_seconds``); what a person
    stated in the spec's workload stands above it. Other apps keep what their plans take: where this one does
    not fit beside them as it would alone, it is planned with what they leave. Raises SizingError, and
    FarrierError where the given memory and theirs pass the host's.
    """
    from ..sizing.budget import read_budget
    from ..sizing.memory import share_of
    from ..sizing.plan import plan

    # The machine as its init sees it: a limit of the caller's own session is none of the app's.
    budget = read_budget(pid=1, ignore=(layout.slice,))
    workload, settings = workload_for(spec, measured), settings_of(spec, env)
    alone = plan(budget, workload, settings)
    beside = others(spec.name)
    taken = sum(size for _, size in beside)
    expected = int(str(alone.value("memory_deploy_peak")))
    # An app that was here first is planned as before, so that it stays as it is when another one comes.
    if expected + taken <= share_of(budget, workload, settings).available or not beside:
        return alone
    if "memory_limit" in settings or "memory_max" in settings:
        if expected + taken > budget.memory_bytes:
            raise FarrierError(_too_much(spec.name, expected, beside, budget.memory_bytes))
        return alone
    left = _less(budget, taken, beside)
    if left is None:
        raise FarrierError(_too_much(spec.name, expected, beside, budget.memory_bytes))
    found = plan(left, workload, settings)
    if found.verdict.level == "not viable":
        needed = int(str(found.value("memory_deploy_peak")))
        raise FarrierError(_too_much(spec.name, needed, beside, budget.memory_bytes))
    return found


def _less(budget: Budget, taken: int, beside: list[tuple[str, int]]) -> Budget | None:
    """The budget without what the other apps take; None where nothing is left."""
    if taken >= budget.memory_bytes:
        return None
    return replace(
        budget,
        memory_bytes=budget.memory_bytes - taken,
        machine_memory_bytes=budget.machine_memory_bytes - taken,
        taken_bytes=taken,
        memory_source=f"{budget.memory_source}, less {_named(beside)}",
    )


def _named(beside: list[tuple[str, int]]) -> str:
    """``138 MiB for api, 90 MiB for admin``."""
    from ..sizing.units import format_bytes

    return ", ".join(f"{format_bytes(size)} for {name}" for name, size in beside)


def _too_much(name: str, needed: int, beside: list[tuple[str, int]], memory: int) -> str:
    from ..sizing.units import format_bytes

    return (
        f"memory: {name} needs {format_bytes(needed)} beside {_named(beside)}, and this host has "
        f"{format_bytes(memory)} in all; lower settings.memory_limit (gunicorn_app_memory) of an app that "
        "needs less, or give the host more"
    )


def workload_for(spec: Spec, measured: Mapping[str, Any]) -> Workload:
    """What the person said of the app, then what the import check saw, then the profile."""
    given = dict(spec.workload)
    for name in ("framework", "worker_class"):
        if name not in given and measured.get(name):
            given[name] = measured[name]
    if spec.settings.get("worker_class"):
        given["worker_class"] = spec.settings["worker_class"]
    assumed = workload_of(given)
    # A bare import sees less than a warm process: it may only raise the profile's assumption.
    memory = int(measured.get("app_memory", 0))
    if "app_memory" not in given and memory > assumed.app_memory_bytes:
        given["app_memory"] = memory
    seconds = float(measured.get("boot_seconds", 0))
    if "boot_seconds" not in given and seconds > assumed.boot_seconds:
        given["boot_seconds"] = seconds
    return workload_of(given)
