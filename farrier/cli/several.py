"""``farrier plan --apps FILE``: several apps on one host, each with its part of the memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from farrier.errors import FarrierError

if TYPE_CHECKING:
    from farrier.sizing import Budget, Plan, Settings

KEYS = ("name", "weight", "workload", "measurement", "settings")


@dataclass(frozen=True)
class Part:
    """One app, the bytes that it may take, and its plan on them."""

    name: str
    weight: int
    part: int
    plan: Plan


def planned(data: object, budget: Budget, choices: Settings, source: str) -> list[Part]:
    """The plan of each app of a JSON list, by weight. Raises FarrierError and SizingError.

    ``choices`` are the person's for all of them; those of an app stand above.
    """
    from farrier.sizing import App, apportion, needs, part_of, plan
    from farrier.sizing.memory import share_of

    if not isinstance(data, list) or not data or not all(isinstance(one, dict) for one in data):
        raise FarrierError(f"{source}: must be a list of objects with {', '.join(KEYS)}")
    described = [_described(one, choices, f"{source}: app {number}") for number, one in enumerate(data, 1)]
    shares = [share_of(budget, load, settings) for _, _, load, settings in described]
    available = min(share.available for share in shares)
    apps = [App(name, weight, *needs(budget, load, settings)) for name, weight, load, settings in described]
    parts = apportion(available, apps, budget.memory_bytes - available)
    return [
        Part(name, weight, parts[name], plan(part_of(budget, load, settings, parts[name]), load, settings))
        for name, weight, load, settings in described
    ]


def _described(given: Mapping[str, Any], choices: Settings, where: str) -> tuple[str, int, Any, Settings]:
    from farrier.sizing import Settings, Workload, workload_of
    from farrier.sizing.apportion import WEIGHT

    for key in given:
        if key not in KEYS:
            raise FarrierError(f"{where}: {key!r} is not known: allowed are {', '.join(KEYS)}")
    name = given.get("name")
    if not isinstance(name, str) or not name.strip():
        raise FarrierError(f"{where}: name {name!r}: must be the name of the app")
    for key in ("workload", "measurement", "settings"):
        if not isinstance(given.get(key, {}), dict):
            raise FarrierError(f"{where}: {key} {given[key]!r}: must be an object")
    settings = Settings.merged(
        Settings.from_mapping(given.get("settings", {}), f"{where}: settings"), choices
    )
    stated = dict(given.get("workload", {}))
    if "worker_class" in settings:
        stated["worker_class"] = settings.value("worker_class")
    if "measurement" in given:
        return name, given.get("weight", WEIGHT), workload_of(given["measurement"], stated), settings
    load = Workload.from_mapping(stated, f"{where}: workload")
    return name, given.get("weight", WEIGHT), load, settings


def render(parts: list[Part], budget: Budget) -> str:
    """A short table, and under it each plan's warnings."""
    from farrier.sizing import format_bytes
    from farrier.sizing.units import counted

    rows = [("app", "weight", "memory", "expected", "workers", "deploy", "verdict")]
    for one in parts:
        slots = one.plan.value("worker_connections" if one.plan.workload.is_async else "threads")
        rows.append(
            (
                one.name,
                str(one.weight),
                format_bytes(one.part),
                format_bytes(int(str(one.plan.value("memory_deploy_peak")))),
                f"{one.plan.value('workers')} x {slots}",
                str(one.plan.value("strategy")),
                f"{one.plan.verdict.level}: {one.plan.verdict.why}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    there = f"{format_bytes(budget.memory_bytes)}, {counted(budget.cpus, 'CPU')}"
    together = format_bytes(sum(one.part for one in parts))
    lines = [f"{counted(len(parts), 'app')} on {there}: {together} for them", ""]
    lines += ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    lines += [f"! {one.name}: {warning}" for one in parts for warning in one.plan.warnings]
    return "\n".join(line.rstrip() for line in lines)
