"""What a release with an older runtime reads: it refuses a plan with a key that it does not know.

A rollback, the guard's way back, a HUP of what serves and an app that gives way write the plan of today for a
server of then. Versions from 0.3.0 on pass over what they do not know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# The first version that reads plans of later ones, and the first that has ``farrier measure``.
FORWARD = (0, 3, 0)
# What 0.2.0 knows of a workload (its farrier.sizing.workload.Workload.to_dict), of a budget, of each of its
# limits, of a verdict and of a field.
WORKLOAD = (
    "kind",
    "worker_class",
    "framework",
    "app_memory_bytes",
    "shared_fraction",
    "request_memory_bytes",
    "connection_memory_bytes",
    "boot_seconds",
    "preload_safe",
    "measured",
    "profile",
)
BUDGET = (
    "memory_bytes",
    "cpus",
    "memory_source",
    "cpu_source",
    "machine_memory_bytes",
    "memory_high_bytes",
    "swap_bytes",
    "limits",
    "scope",
    "taken_bytes",
)
LIMIT = ("kind", "value", "source")
VERDICT = ("level", "serves", "users", "minimum_memory_bytes", "recommended_memory_bytes", "why")
FIELD = ("value", "unit", "why", "bound_by", "source")
# Settings, and fields of a plan, that it does not have yet.
NO_SETTINGS = ("malloc_trim_threshold",)


def reads_less(runtime: str) -> bool:
    """Whether a release of this runtime is older than :data:`FORWARD`; one without a version is not."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", runtime)
    return found is not None and tuple(int(part or 0) for part in found.groups()) < FORWARD


def plan(made: Mapping[str, Any], runtime: str) -> dict[str, Any]:
    """A plan as :meth:`Plan.to_dict` gives it, with what that runtime reads. Pure."""
    if not reads_less(runtime):
        return dict(made)
    inputs = made["inputs"]
    budget = _only(inputs["budget"], BUDGET)
    budget["limits"] = [_only(limit, LIMIT) for limit in budget.get("limits") or ()]
    return {
        **settings(made, runtime),
        "fields": {name: _only(one, FIELD) for name, one in settings(made["fields"], runtime).items()},
        "verdict": _only(made["verdict"], VERDICT),
        "inputs": {
            "budget": budget,
            "workload": _only(inputs["workload"], WORKLOAD),
            "settings": settings(inputs["settings"], runtime),
        },
    }


def settings(chosen: Mapping[str, Any], runtime: str) -> dict[str, Any]:
    """A person's settings, or the values of a plan, without those that the runtime does not have. Pure."""
    if not reads_less(runtime):
        return dict(chosen)
    return {name: value for name, value in chosen.items() if name not in NO_SETTINGS}


def _only(found: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name in known}
