"""Memory: what the plan expects, and what the units may take."""

from __future__ import annotations

from . import constants
from .sheet import Sheet
from .strategy import Fit, Problem
from .units import format_bytes


def fill_memory(sheet: Sheet) -> None:
    """memory_peak, memory_deploy_peak, memory_max, memory_high, candidate_memory_max."""
    one, shape = sheet.one, sheet.one.footprint
    beside = f" + {format_bytes(shape.worker)} for a replacement" if one.beside.replacement else ""
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
    """``memory_max`` holds the slice that both releases share, and the one that serves.

    The candidate beside it gets less. So an app that takes more than was estimated has all that is there,
    and if both together reach the limit the kernel takes the candidate, which has the higher OOM score.
    """
    one, available = sheet.one, sheet.problem.share.available
    expected = max(one.steady, one.deploy)
    maximum = _maximum(sheet, expected, available)
    high = high_of(maximum, one)
    share = f"{constants.MEMORY_HIGH_SHARE:.0%} of memory_max"
    if high > int(maximum * constants.MEMORY_HIGH_SHARE):
        share = "what the app is expected to take"
    sheet.add("memory_high", high, f"{share}: from there the kernel reclaims before it kills", "memory")
    candidate, why = _candidate(one, available)
    sheet.add("candidate_memory_max", candidate, why, "memory")


def maximum_of(problem: Problem, one: Fit) -> int:
    """Bytes that the plan itself gives the slice which both releases share."""
    expected = max(one.steady, one.deploy)
    return min(int(expected * constants.MEMORY_MAX_FACTOR), problem.share.available)


def high_of(maximum: int, one: Fit) -> int:
    """Bytes from which the kernel reclaims, below that maximum."""
    return max(int(maximum * constants.MEMORY_HIGH_SHARE), min(max(one.steady, one.deploy), maximum))


def _candidate(one: Fit, available: int) -> tuple[int, str]:
    """What the next release may take until it is promoted: whole, while it grows, or for its trial."""
    shape = one.footprint
    whole = min(available, int(shape.generation(one.workers, one.slots) * constants.CANDIDATE_FACTOR))
    if one.strategy == "rolling":
        why = (
            "a new release grows to all its workers while the old one gives up its own; the slice bounds both"
        )
        return whole, why
    if one.queues and one.beside.gate:
        trial = shape.trial(one.slots)
        left = available - shape.steady(one.workers, one.slots, False)
        why = f"{format_bytes(trial)} for one worker, tried beside the old release; then memory_max holds"
        return max(trial, min(int(trial * constants.CANDIDATE_FACTOR), left)), why
    at_rest = shape.generation(one.workers, min(one.slots, constants.CANDIDATE_SLOTS))
    if one.strategy == "overlap":
        whole = max(min(whole, available - one.steady), min(at_rest, available // 2))
    why = f"a new release takes {format_bytes(at_rest)} until it is promoted; more would be the old one's"
    return whole, why


def _maximum(sheet: Sheet, expected: int, available: int) -> int:
    most = int(expected * constants.MEMORY_MAX_FACTOR)
    if most <= available:
        why = (
            f"{constants.MEMORY_MAX_FACTOR:g} x the {format_bytes(expected)} expected: an estimate may be "
            "wrong, and a leak is ended before it takes the machine's memory"
        )
        return int(str(sheet.add("memory_max", most, why, "practice")))
    why = f"all there is: {sheet.problem.share.sentence()}"
    return int(str(sheet.add("memory_max", available, why, "memory")))
