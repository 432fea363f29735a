"""From a spec to a plan: the seam between this package and farrier.sizing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def plan_for(spec: Spec, layout: Layout, measured: Mapping[str, Any], env: Mapping[str, str]) -> Plan:
    """The plan of this app on this host, now.

    `measured` holds what the import check saw (``app_memory`` in bytes, ``boot_seconds``); what a person
    stated in the spec's workload stands above it. Raises SizingError.
    """
    from ..sizing.budget import read_budget
    from ..sizing.plan import plan

    # The machine as its init sees it: a limit of the caller's own session is none of the app's.
    budget = read_budget(pid=1, ignore=(layout.slice,))
    return plan(budget, workload_for(spec, measured), settings_of(spec, env))


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
