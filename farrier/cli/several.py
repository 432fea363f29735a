"""``farrier plan --apps FILE``: several apps on one host, each with its part of the memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from farrier.errors import FarrierError

if TYPE_CHECKING:
    from farrier.sizing import Budget, Settings
    from farrier.sizing.together import Member, Placed

KEYS = ("name", "weight", "workload", "measurement", "settings")


def planned(data: object, budget: Budget, choices: Settings, source: str) -> tuple[list[Placed], list[str]]:
    """The plan of each app of a JSON list beside the others, and warnings of them all together.

    ``choices`` are the person's for all of them; those of an app stand above. Raises FarrierError and
    SizingError.
    """
    from farrier.sizing.together import planned_together, shared_database

    if not isinstance(data, list) or not data or not all(isinstance(one, dict) for one in data):
        raise FarrierError(f"{source}: must be a list of objects with {', '.join(KEYS)}")
    described = [_described(one, choices, f"{source}: app {number}") for number, one in enumerate(data, 1)]
    found = planned_together(budget, described)
    # an app whose own settings say how many connections it has was given its part, or has its own database
    undivided = [
        (placed.name, placed.plan)
        for placed, given in zip(found, data, strict=True)
        if given.get("settings", {}).get("database_max_connections") is None
    ]
    warning = shared_database(undivided)
    return found, [] if warning is None else [warning]


def _described(given: Mapping[str, Any], choices: Settings, where: str) -> Member:
    from farrier.sizing import Settings, SizingError, Workload, workload_of
    from farrier.sizing.apportion import WEIGHT
    from farrier.sizing.together import Member

    for key in given:
        if key not in KEYS:
            raise FarrierError(f"{where}: {key!r} is not known: allowed are {', '.join(KEYS)}")
    name = given.get("name")
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise FarrierError(f"{where}: name {name!r}: must be the name of the app")
    name = name.strip()
    for key in ("workload", "measurement", "settings"):
        if not isinstance(given.get(key, {}), dict):
            raise FarrierError(f"{where}: {key} {given[key]!r}: must be an object")
    settings = Settings.merged(
        Settings.from_mapping(given.get("settings", {}), f"{where}: settings"), choices
    )
    stated = dict(given.get("workload", {}))
    if "worker_class" in settings:
        stated["worker_class"] = settings.value("worker_class")
    weight = given.get("weight", WEIGHT)
    if "measurement" not in given:
        return Member(name, weight, Workload.from_mapping(stated, f"{where}: workload"), settings)
    try:
        return Member(name, weight, workload_of(given["measurement"], stated), settings)
    except SizingError as error:
        raise FarrierError(f"{where}: {error}") from None


def render(parts: list[Placed], budget: Budget, warnings: list[str]) -> str:
    """A short table, and under it the warnings of all and of each plan."""
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
    how = "by weight" if any(one.by_weight for one in parts) else "each as if it were alone, as all fit so"
    lines = [f"{counted(len(parts), 'app')} on {there}: {together} for them, {how}", ""]
    lines += ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    lines += [f"! {warning}" for warning in warnings]
    lines += [f"! {one.name}: {warning}" for one in parts for warning in one.plan.warnings]
    return "\n".join(line.rstrip() for line in lines)
