"""For whom a machine serves an app, how well, and which sizes would do."""

from __future__ import annotations

from dataclasses import replace

from . import constants
from .fields import Verdict
from .strategy import Fit, Problem, fit, most_workers
from .units import MIB, counted, format_bytes


def level_of(problem: Problem, one: Fit) -> tuple[str, str]:
    """(level, why): comfortable, tight or not viable."""
    share = problem.share
    needed = format_bytes(one.steady)
    workers = f"{counted(one.workers, 'worker')} {'needs' if one.workers == 1 else 'need'}"
    if not one.fits and not one.runs(share.available):
        return (
            "not viable",
            f"{workers} {needed} and there are {format_bytes(share.available)}",
        )
    if not one.fits:
        return (
            "tight",
            f"{workers} {needed}: no headroom left of {format_bytes(share.available)}",
        )
    if problem.low_memory_chosen:
        there = format_bytes(share.memory + problem.budget.taken_bytes)
        return "tight", f"{there} is below 512 MiB: low memory mode"
    if share.deploys_here and one.queues and "strategy" not in problem.settings:
        lacks = "room" if problem.database_allows("rolling", one.workers) else "connections"
        return "tight", f"no {lacks} to exchange even one worker at a time, so that a deploy queues"
    if few := _few_connections(problem, one):
        return "tight", few
    if not one.beside.one_off:
        return "tight", f"no room for a one-off command ({format_bytes(share.one_off)}) beside the app"
    if "workers" not in problem.settings and not problem.development and _held_back_by_memory(problem, one):
        return "tight", f"memory allows {one.workers} of the {problem.wish.workers} workers it would take"
    if not one.beside.replacement and problem.replaceable(one):
        last = "; a worker that is recycled ends before its replacement starts"
    else:
        last = ""
    return "comfortable", f"all that the app would take fits, a deploy included{last}"


def _few_connections(problem: Problem, one: Fit) -> str:
    """Where a worker gets fewer than its threads need, or than the least of them that makes sense."""
    if problem.connections is None:
        return ""
    each = problem.connections.each(one.strategy, one.workers, one.beside)
    slots = max(one.slots, problem.wish.slots_at_least)
    needed = problem.connections_for(slots)
    if each >= needed:
        return ""
    there = counted(each, "database connection")
    return f"{there} for each worker, and {counted(slots, 'thread')} would need {needed}"


def _held_back_by_memory(problem: Problem, one: Fit) -> bool:
    return one.workers < most_workers(problem, one.footprint, by_memory=False)


def verdict(problem: Problem, one: Fit) -> Verdict:
    """The verdict, with the smallest and the recommended memory found by planning for other sizes."""
    level, why = level_of(problem, one)
    minimum, recommended = sizes(problem)
    serves, users = _serves(problem)
    if level == "not viable":
        smallest = (
            f"the smallest size that is: {format_bytes(minimum)}" if minimum else "no size that is was found"
        )
        why = f"{why}; {smallest}{_kept_for_others(problem)}"
    return Verdict(level, serves, users, minimum, recommended, why)


def _kept_for_others(problem: Problem) -> str:
    """What is kept for programs that may not run here, and how to say so; empty where a person did."""
    reserves = {name: size for name, size in problem.share.reserves if size}
    if "proxy" not in reserves:
        return ""
    also = " and database_memory" if "database" in reserves else ""
    return (
        f"; {format_bytes(problem.share.reserved)} are kept for {', '.join(reserves)}: set "
        f"reserve_memory{also} where they use less or do not run"
    )


def sizes(problem: Problem) -> tuple[int | None, int | None]:
    """(minimum, recommended) memory in bytes of a machine of the same kind and CPUs; None where none will do.

    More memory never makes a verdict worse, so each is found by halving.
    """
    levels: dict[int, str] = {}

    def first(good: tuple[str, ...], low: int) -> int:
        high = len(constants.SIZES_MIB)
        while low < high:
            middle = (low + high) // 2
            if middle not in levels:
                levels[middle] = _level_at(problem, constants.SIZES_MIB[middle] * MIB)
            if levels[middle] in good:
                high = middle
            else:
                low = middle + 1
        return low

    minimum = first(("tight", "comfortable"), 0)
    found = (minimum, first(("comfortable",), minimum))
    smallest, recommended = (
        constants.SIZES_MIB[index] * MIB if index < len(constants.SIZES_MIB) else None for index in found
    )
    return smallest, recommended


def _level_at(problem: Problem, size: int) -> str:
    """The level of the same app on ``size`` bytes, without a limit that only this machine has."""
    other = {
        name: setting
        for name, setting in problem.settings.items()
        if name not in ("memory_limit", "memory_max")
    }
    settings = type(problem.settings)(other)
    budget = replace(
        problem.budget, memory_bytes=size, machine_memory_bytes=size, memory_high_bytes=None, limits=()
    )
    at_size = Problem.of(budget, problem.workload, settings)
    return level_of(at_size, fit(at_size))[0]


def _serves(problem: Problem) -> tuple[str, str]:
    share = constants.SERVES_HOST_SHARE if problem.budget.scope == "host" else 1.0
    tier = max(
        index for index, (least, _, _) in enumerate(constants.SERVES) if problem.share.memory >= least * share
    )
    for cpus, highest in constants.SERVES_BY_CPUS:
        if problem.cpus < cpus:
            tier = min(tier, highest)
            break
    _, name, users = constants.SERVES[tier]
    return name, users
