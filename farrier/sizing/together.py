"""The plans of several apps of one host, each beside the others, as deploys would make them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .apportion import WEIGHT, App, apportion, needs, part_of
from .budget import Budget
from .database import connections_of, workers_at_once
from .memory import Beside, share_of
from .plan import Plan, plan
from .settings import Settings
from .workload import Workload

OWN_LIMITS = ("memory_limit", "memory_max")
"""A person's own limit of an app's memory is taken as given: no weight moves it."""


@dataclass(frozen=True)
class Member:
    """One of the apps of a host, before its plan."""

    name: str
    weight: int
    workload: Workload
    settings: Settings

    @property
    def has_own_limit(self) -> bool:
        """Whether a person set how much memory it may take."""
        return any(name in self.settings for name in OWN_LIMITS)


@dataclass(frozen=True)
class Placed:
    """The plan of an app beside the others, and the bytes that it may count on."""

    name: str
    weight: int
    part: int
    plan: Plan
    by_weight: bool
    """Its plan is made for its part; else for the whole host, of which it takes no more than its part."""


@dataclass(frozen=True)
class Neighbour:
    """Another app of a host, by the plan it serves with or is about to."""

    name: str
    taken: int
    """Bytes that it is expected to take: its plan's peak in a deploy, and no more than its slice may have."""
    weight: int = WEIGHT
    workload: Workload | None = None
    """None, and settings too: it keeps what it has, by a person's own limit or a plan that cannot be read."""
    settings: Settings | None = None

    def wish(self, budget: Budget) -> int:
        """Bytes that it would take if it were alone on the host."""
        if self.workload is None or self.settings is None:
            return self.taken
        return taken(plan(budget, self.workload, self.settings))

    def needs(self, budget: Budget) -> tuple[int, int]:
        """The least with which it runs, and what it can use, in bytes."""
        if self.workload is None or self.settings is None:
            return self.taken, self.taken
        return needs(budget, self.workload, self.settings)


def available_to_all(budget: Budget, members: Sequence[Member]) -> int:
    """Bytes that all apps may take together: after the largest reserves, and before any app's own limit."""
    shares = [share_of(budget, one.workload, _without_limits(one.settings)) for one in members]
    return min(share.available for share in shares)


def planned_together(budget: Budget, members: Sequence[Member]) -> list[Placed]:
    """The plan of each app: as if it were alone where all fit so, else of its part by weight.

    An app with a limit of its own keeps that: what it takes comes off before the others share the rest.
    Raises SizingError that says what does not fit and what would.
    """
    if not members:
        return []
    available = available_to_all(budget, members)
    alone = {one.name: plan(budget, one.workload, one.settings) for one in members}
    takes = {one.name: taken(alone[one.name], one.has_own_limit) for one in members}
    apps = [App(one.name, one.weight, takes[one.name], takes[one.name]) for one in members]
    fits = sum(takes.values()) <= available and len(alone) == len(members)
    parts = {} if fits else _parts(budget, members, apps, available)
    found = []
    for one in members:
        part = parts.get(one.name, takes[one.name])
        made = alone[one.name]
        if one.name in parts:
            made = plan(part_of(budget, one.workload, one.settings, part), one.workload, one.settings)
        found.append(Placed(one.name, one.weight, part, made, one.name in parts))
    return found


def _parts(budget: Budget, members: Sequence[Member], apps: Sequence[App], available: int) -> dict[str, int]:
    """Bytes of each app that has no limit of its own. ``apps`` say what each would take alone."""
    needed = [
        app if one.has_own_limit else App(one.name, one.weight, *needs(budget, one.workload, one.settings))
        for app, one in zip(apps, members, strict=True)
    ]
    reserved = budget.memory_bytes - available
    apportion(available, needed, reserved)  # refuses two of one name, and what does not fit
    limited = sum(app.minimum for app, one in zip(needed, members, strict=True) if one.has_own_limit)
    free = [app for app, one in zip(needed, members, strict=True) if not one.has_own_limit]
    return apportion(available - limited, free, reserved + limited)


def taken(made: Plan, limited: bool = False) -> int:
    """Bytes that an app is expected to take in a deploy by its plan; ``limited``: no more than it may."""
    peak, most = int(str(made.value("memory_deploy_peak"))), made.value("memory_max")
    return min(peak, int(str(most))) if limited and most is not None else peak


def connections_taken(made: Plan) -> tuple[int, int]:
    """The most database connections that an app holds: at work, a replacement included, and in a deploy."""
    if connections_of(made.settings) is None:
        return 0, 0
    workers = int(str(made.value("workers")))
    beside = Beside(replacement=made.value("recycling") == "replace-first")
    each = int(str(made.value("db_pool_size"))) + int(str(made.value("db_max_overflow")))
    strategy = str(made.value("strategy"))
    return each * workers_at_once("queue", workers, beside), each * workers_at_once(strategy, workers, beside)


def shared_database(plans: Sequence[tuple[str, Plan]]) -> str | None:
    """A warning where apps that share one database hold more connections than it has; None where they do not.

    Of ``plans`` each was made as if it had the database for itself. All are at work, and one deploys: that
    which takes most for it.
    """
    limits = [limit for _, made in plans if (limit := connections_of(made.settings)) is not None]
    using = {name: connections_taken(made) for name, made in plans if connections_taken(made)[1]}
    if len(using) < 2:
        return None
    least = min(limits, key=lambda limit: limit.usable)
    deploys = max(using, key=lambda name: using[name][1] - using[name][0])
    counts = {name: peak if name == deploys else steady for name, (steady, peak) in using.items()}
    total = sum(counts.values())
    if total <= least.usable:
        return None
    named = " + ".join(f"{name} {count}" for name, count in counts.items())
    each = least.usable // len(using) + least.reserved
    return (
        f"{named} = {total} connections, more than {least.sentence()}, if they share one database: set "
        f"database_max_connections in the settings of each, such as {each} ({each - least.reserved} and the "
        f"{least.reserved} in reserve), or raise the database's own to {total + least.reserved}"
    )


def _without_limits(settings: Settings) -> Settings:
    return Settings({name: one for name, one in settings.items() if name not in OWN_LIMITS})
