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


def settings_of(spec: Spec) -> Settings:
    """A person's choices."""
    from ..sizing.settings import Settings

    return Settings.from_mapping({"runtime": "systemd", **spec.settings}, SETTINGS_SOURCE)


def plan_for(spec: Spec, layout: Layout, measured: Mapping[str, Any] | None = None) -> Plan:
    """The plan of this app on this host, now.

    `measured` holds what the import check saw (``app_memory`` in bytes, ``boot_seconds``); what a person
    stated in the spec's workload stands above it. Raises SizingError.
    """
    from ..sizing.budget import read_budget
    from ..sizing.plan import plan

    workload = workload_for(spec, measured or {})
    return plan(read_budget(ignore=(layout.slice,)), workload, settings_of(spec))


def workload_for(spec: Spec, measured: Mapping[str, Any]) -> Workload:
    given = dict(spec.workload)
    chosen = spec.settings.get("worker_class")
    if chosen and "worker_class" not in given:
        given["worker_class"] = chosen
    assumed = workload_of(given)
    # A bare import sees less than a warm process: it may only raise the profile's assumption.
    memory = int(measured.get("app_memory", 0))
    if "app_memory" not in given and memory > assumed.app_memory_bytes:
        given["app_memory"] = memory
    if "boot_seconds" not in given and measured.get("boot_seconds", 0) > assumed.boot_seconds:
        given["boot_seconds"] = float(measured["boot_seconds"])
    if "framework" not in given and measured.get("framework"):
        given["framework"] = measured["framework"]
    return workload_of(given)
