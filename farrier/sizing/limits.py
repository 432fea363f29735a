"""Memory: what the plan expects, and what the units may take."""

from __future__ import annotations

from . import constants
from .sheet import Sheet
from .strategy import Fit, Problem
from .units import format_bytes


def fill_memory(sheet: Sheet) -> None:
    """memory_peak, memory_deploy_peak, memory_max, memory_high, candidate_memory_max."""
    one, shape = sheet.one, sheet.one.footprint
    beside = f" + {format_bytes(shape.worker)} for a replacement" if one.replacement else ""
    why = (
        f"{format_bytes(shape.mapped)} mapped files + {format_bytes(shape.master)} arbiter + {one.workers} x "
        f"({format_bytes(shape.worker)} + {one.slots} x {format_bytes(shape.slot)}){beside}"
    )
    sheet.add("memory_peak", one.steady, why, "workers")
    sheet.add("memory_deploy_peak", one.deploy, *_why_deploy_peak(sheet.problem, one))
    if sheet.problem.share.deploys_here:
        _shared_limits(sheet)
    else:
        _container_limits(sheet)


def _why_deploy_peak(problem: Problem, one: Fit) -> tuple[str, str]:
    of = f"of {format_bytes(problem.share.target)}"
    if not problem.share.deploys_here:
        return f"the next release brings memory of its own, so this is memory_peak, {of}", "runtime"
    during = problem.deploy_peak(one.footprint, one.strategy, one.workers, one.slots)
    if one.deploy > max(during, one.steady):
        return f"the app with a one-off command of {format_bytes(problem.share.one_off)}, {of}", "workers"
    if one.deploy > during:
        return f"a deploy by {one.strategy} takes less than memory_peak, {of}", "workers"
    return f"old and new release in a deploy by {one.strategy}, {of}", "strategy"


def _container_limits(sheet: Sheet) -> None:
    memory = sheet.problem.share.memory
    sheet.add("memory_max", memory, "the container's own limit", "memory")
    sheet.add("memory_high", None, "a container runtime sets no such limit", "runtime")
    sheet.add("candidate_memory_max", memory, "each release has a container of its own", "runtime")


def _shared_limits(sheet: Sheet) -> None:
    """Limits of one release's unit and of the candidate beside it: together never more than the share."""
    one, available = sheet.one, sheet.problem.share.available
    fresh = one.footprint.generation(one.workers, one.slots)
    candidate = min(available, int(fresh * constants.CANDIDATE_FACTOR))
    beside = 0
    if one.strategy == "overlap":
        candidate = max(min(candidate, available - one.steady), min(fresh, available // 2))
        beside = candidate
    expected = max(one.steady, one.deploy if one.strategy != "overlap" else 0)
    most = int(expected * constants.MEMORY_MAX_FACTOR)
    left = available - beside
    if most <= left:
        why = f"{constants.MEMORY_MAX_FACTOR:g} x {format_bytes(expected)}: room for error, none for a leak"
        maximum = sheet.add("memory_max", most, why, "practice")
    else:
        held = f", less {format_bytes(beside)} for the next release" if beside else ""
        why = f"all there is: {sheet.problem.share.sentence()}{held}"
        maximum = sheet.add("memory_max", left, why, "memory")
    high = max(min(expected, int(str(maximum))), int(int(str(maximum)) * constants.MEMORY_HIGH_SHARE))
    why = f"{constants.MEMORY_HIGH_SHARE:.0%} of memory_max: there the kernel reclaims before it kills"
    sheet.add("memory_high", high, why, "memory")
    why = f"a new release takes {format_bytes(fresh)}; what it takes beyond this would be the old one's"
    sheet.add("candidate_memory_max", candidate, why, "memory")
