"""Several apps share the memory of one host by weight. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from . import constants
from .budget import Budget
from .memory import share_of
from .settings import Settings
from .strategy import Problem, fit
from .units import GIB, MIB, SizingError, format_bytes
from .verdict import level_of
from .workload import Workload

WEIGHT = 100
"""Of an app for which nobody chose one."""
WEIGHTS = (1, 1000)
"""The least and the most that may be chosen."""

_LARGEST = 1024 * GIB


@dataclass(frozen=True)
class App:
    """One of the apps of a host. Bytes; ``needs()`` works out the last two."""

    name: str
    weight: int
    minimum: int
    """Below this not even one worker runs."""
    wanted: int
    """From here on the verdict is comfortable."""

    def __post_init__(self) -> None:
        least, most = WEIGHTS
        if (
            isinstance(self.weight, bool)
            or not isinstance(self.weight, int)
            or not least <= self.weight <= most
        ):
            raise SizingError(
                f"{self.name}: weight {self.weight!r} is not allowed: allowed is a whole number from {least} "
                f"to {most}"
            )


def apportion(available: int, apps: Sequence[App], reserved: int = 0) -> dict[str, int]:
    """Bytes for each app: its minimum, then the rest by weight up to what each wants, then by weight alone.

    ``available`` is what all apps may take together (``share_of(…).available`` of the host), and
    ``reserved`` what the host keeps beside it, for the size that is named where the apps do not fit. What an
    app does not want goes to the others; where all have what they want, the rest goes to all by weight. The
    sum is never above ``available``. Raises SizingError that says what does not fit and what would.
    """
    doubled = sorted({app.name for app in apps if sum(app.name == other.name for other in apps) > 1})
    if doubled:
        raise SizingError(f"{', '.join(doubled)}: named twice, and each app of a host has a name of its own")
    least = sum(app.minimum for app in apps)
    if least > available:
        raise SizingError(_too_much(available, apps, least, reserved))
    parts = {app.name: app.minimum for app in apps}
    limits = {app.name: max(app.minimum, app.wanted) for app in apps}
    left = _fill(parts, apps, available - least, limits)
    _fill(parts, apps, left, dict.fromkeys(parts, available + 1))
    return parts


def _fill(parts: dict[str, int], apps: Sequence[App], left: int, limits: Mapping[str, int]) -> int:
    """Give out ``left`` by weight, to none more than its limit; what nobody wants any more."""
    hungry = [app for app in apps if parts[app.name] < limits[app.name]]
    while hungry:
        weights = sum(app.weight for app in hungry)
        lacking = {app.name: limits[app.name] - parts[app.name] for app in hungry}
        full = [app for app in hungry if lacking[app.name] * weights <= left * app.weight]
        if not full:
            for app in hungry:
                parts[app.name] += left * app.weight // weights
            return 0
        for app in full:
            parts[app.name] = limits[app.name]
            left -= lacking[app.name]
        hungry = [app for app in hungry if app not in full]
    return left


def _too_much(available: int, apps: Sequence[App], least: int, reserved: int) -> str:
    first, *rest = apps
    named = [f"{first.name} (minimum {format_bytes(first.minimum)})"]
    named += [f"{app.name} ({format_bytes(app.minimum)})" for app in rest]
    if len(named) == 1:
        what, them = f"{named[0]} needs", "it"
    else:
        what = f"{', '.join(named[:-1])} and {named[-1]} need"
        them = "both" if len(named) == 2 else f"all {len(named)}"
    machine = available + reserved
    size = next(
        (
            size * MIB
            for size in constants.SIZES_MIB
            if size * MIB - reserved - max(0.0, size * MIB - machine) * constants.SYSTEM_SHARE >= least
        ),
        None,
    )
    kept = (
        f"; {format_bytes(reserved)} are kept for the rest of the host: set reserve_memory and "
        "database_memory where that uses less"
        if reserved
        else ""
    )
    would = f"the smallest size that takes {them} is {format_bytes(size)}" if size else "no size takes them"
    return (
        f"{what} {format_bytes(least)} of {format_bytes(available)}; {would}: give the host more, or put "
        f"{'it' if len(named) == 1 else 'one of them'} on another{kept}"
    )


def part_of(budget: Budget, workload: Workload, settings: Settings, part: int) -> Budget:
    """The budget of an app that gets ``part`` bytes of what the host has for apps: ``plan()`` makes its plan.

    What the others have counts as taken, so that the system's reserve stays that of the whole host.
    """
    taken = share_of(budget, workload, settings).available - part
    return replace(
        budget,
        memory_bytes=budget.memory_bytes - taken,
        machine_memory_bytes=budget.machine_memory_bytes - taken,
        taken_bytes=budget.taken_bytes + taken,
    )


def needs(budget: Budget, workload: Workload, settings: Settings) -> tuple[int, int]:
    """(minimum, wanted) bytes of an app on this host, each the smallest whole MiB that will do.

    Minimum: one worker is viable; wanted: its verdict is comfortable. A machine with low memory is never
    called so: there, and where a database holds the app back, it wants what it can use. Raises SizingError
    where no part will do at all.
    """

    def good(part: int, levels: tuple[str, ...]) -> bool:
        problem = Problem.of(part_of(budget, workload, settings, part), workload, settings)
        return level_of(replace(problem, low_memory_chosen=False), fit(problem))[0] in levels

    minimum = _smallest(lambda part: good(part, ("tight", "comfortable")), MIB)
    if minimum is None:
        raise SizingError(
            f"no size was found on which one worker of {format_bytes(workload.app_memory_bytes)} runs"
        )
    wanted = _smallest(lambda part: good(part, ("comfortable",)), minimum)
    if wanted is None:
        one = fit(Problem.of(part_of(budget, workload, settings, _LARGEST), workload, settings))
        wanted = max(minimum, math.ceil(one.deploy / (1 - constants.HEADROOM_SHARE) / MIB) * MIB)
    return minimum, wanted


def _smallest(enough: Callable[[int], bool], low: int) -> int | None:
    """The smallest whole MiB from ``low`` that is enough, where all larger ones are; None for none."""
    high = low
    while not enough(high):
        if high >= _LARGEST:
            return None
        low, high = high + MIB, min(_LARGEST, 2 * high)
    below, above = low // MIB, high // MIB
    while below < above:
        middle = (below + above) // 2
        if enough(middle * MIB):
            above = middle
        else:
            below = middle + 1
    return above * MIB
