"""Workers, slots, preload and deploy strategy that fit memory and database together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from . import constants
from .budget import Budget
from .concurrency import Wish, wish
from .database import (
    Connections,
    connections_least,
    connections_of,
    connections_wanted,
    threads_most,
    worker_count_in_deploy,
)
from .memory import Footprint, Share, footprint, runtime_of, share_of
from .settings import Settings
from .units import SizingError, counted, format_bytes
from .workload import ASGI_CLASSES, LOOP_CLASSES, Workload


@dataclass(frozen=True)
class Fit:
    """One arrangement of an app on its share. Slots are threads, or connections of an async worker."""

    workers: int
    slots: int
    strategy: str
    replacement: bool
    """A worker that is recycled gets its replacement started beside it."""
    one_off_fits: bool
    """A migration or a console has room beside the running app."""
    fits: bool
    """All of it stays within the target; else the plan is over, and says so."""
    steady: int
    """Bytes at work, every slot taken."""
    deploy: int
    """Bytes at the peak of a deploy, a one-off command included."""
    footprint: Footprint

    @property
    def preload(self) -> bool:
        """The master loads the app before it forks."""
        return self.footprint.preload


@dataclass(frozen=True)
class Problem:
    """All that decides the arrangement, worked out once from budget, workload and settings."""

    budget: Budget
    workload: Workload
    settings: Settings
    share: Share
    cpus: float
    runtime: str
    worker_class: str
    low_memory: bool
    low_memory_chosen: bool
    """By the plan itself, for want of memory."""
    development: bool
    wish: Wish
    connections: Connections | None
    least_connections: int

    @classmethod
    def of(cls, budget: Budget, workload: Workload, settings: Settings) -> Problem:
        """Raises SizingError where choices contradict the app."""
        worker_class = worker_class_of(workload, settings)
        cpus = min(budget.cpus, float(str(settings.value("cpu_limit", budget.cpus))))
        runtime = runtime_of(budget, settings)
        share = share_of(budget, workload, settings)
        development = settings.value("environment") == "development"
        short = is_short_of_memory(budget, share.memory)
        low_memory = bool(settings.value("low_memory_mode", short))
        ask = wish(
            workload.kind, worker_class, cpus, low_memory, development, runtime == "cloudrun" and cpus < 1
        )
        ask = _with_choices(ask, worker_class, settings)
        least = connections_least(worker_class, workload.framework, ask.slots_at_least)
        return cls(
            budget,
            workload,
            settings,
            share,
            cpus,
            runtime,
            worker_class,
            low_memory,
            low_memory and "low_memory_mode" not in settings,
            development,
            ask,
            connections_of(settings),
            least,
        )

    def strategies(self) -> tuple[str, ...]:
        """Strategies that may be used, best first."""
        if "strategy" in self.settings:
            return (str(self.settings.value("strategy")),)
        return constants.STRATEGIES if self.share.deploys_here else ("overlap",)

    def deploy_peak(self, shape: Footprint, strategy: str, workers: int, slots: int) -> int:
        """Bytes while one release follows another; elsewhere the next release brings its own memory."""
        return shape.deploy(strategy, workers, slots) if self.share.deploys_here else 0

    def memory_allows(
        self, shape: Footprint, strategy: str, workers: int, slots: int, replacement: bool, one_off: bool
    ) -> bool:
        """Whether every peak stays within the target."""
        beside = self.share.one_off if one_off else 0
        peak = max(
            shape.steady(workers, slots, replacement),
            shape.steady(workers, slots, False) + beside,
            self.deploy_peak(shape, strategy, workers, slots),
        )
        return peak <= self.share.target

    def database_allows(self, strategy: str, workers: int, slots: int | None = None) -> bool:
        """Whether each worker of both generations gets the connections that its slots (least) need."""
        if self.connections is None:
            return True
        needed = self.least_connections if slots is None else self.connections_for(slots)
        return self.connections.each(strategy, workers) >= needed

    def connections_for(self, slots: int) -> int:
        """Connections that so many slots of a worker need at least."""
        return connections_least(self.worker_class, self.workload.framework, slots)

    def slots_by_database(self, strategy: str, workers: int) -> int:
        """Slots of a worker, up to the wish, that its connections are enough for."""
        if self.connections is None or self.worker_class != "gthread":
            return self.wish.slots
        each = self.connections.each(strategy, workers)
        return min(self.wish.slots, threads_most(self.workload.framework, each))

    @property
    def threads_keep_connections(self) -> bool:
        """Django without a pool: each thread opens a connection and keeps it."""
        return self.workload.framework == "django" and self.worker_class == "gthread"

    @property
    def workers_at_least(self) -> int:
        """Workers for which threads give way where both share too few connections: two a CPU."""
        per_cpu = constants.WORKERS_PER_CPU_AT_LEAST
        least = max(math.ceil(per_cpu * self.cpus), constants.WORKERS_AT_LEAST[self.workload.kind])
        return min(self.wish.workers, least)


def is_short_of_memory(budget: Budget, memory: int) -> bool:
    """Below 512 MB; a kernel keeps a part of a host's nominal memory out of MemTotal."""
    line: float = constants.LOW_MEMORY_BELOW
    if budget.scope == "host" and memory == budget.machine_memory_bytes:
        line *= constants.LOW_MEMORY_HOST_SHARE
    return memory < line


def worker_class_of(workload: Workload, settings: Settings) -> str:
    """The class that will run: Gunicorn turns sync with more than one thread into gthread."""
    chosen = str(settings.value("worker_class", workload.worker_class))
    threads = settings.value("threads")
    if chosen == "sync" and isinstance(threads, int) and threads > 1:
        chosen = "gthread"
    if workload.framework == "fastapi" and chosen not in ASGI_CLASSES:
        raise SizingError(
            f"worker_class {chosen!r} cannot run FastAPI, which speaks ASGI: "
            f"allowed are {', '.join(ASGI_CLASSES)}"
        )
    if chosen == "gevent" and settings.value("preload_app") is True:
        raise SizingError(
            f"{settings['preload_app'].source}: preload_app true does not go with worker_class gevent, whose "
            "workers patch the standard library before they import the app: allowed is false"
        )
    return chosen


def _with_choices(ask: Wish, worker_class: str, settings: Settings) -> Wish:
    workers = settings.value("workers", ask.workers)
    name = "worker_connections" if worker_class in LOOP_CLASSES else "threads"
    if worker_class == "sync" or name not in settings:
        return Wish(int(str(workers)), ask.why, ask.bound_by, ask.slots, ask.slots_at_least)
    slots = int(str(settings.value(name)))
    return Wish(int(str(workers)), ask.why, ask.bound_by, slots, slots, slots_fixed=True)


def fit(problem: Problem) -> Fit:
    """The most workers, then the best strategy, then the most slots that fit."""
    strategies = problem.strategies()

    def rank(one: Fit) -> tuple[int, ...]:
        over = 0 if one.fits else one.steady
        liked = one.preload is bool(problem.workload.preload_safe)
        strategy = -strategies.index(one.strategy)
        return (one.fits, -over, one.workers, strategy, one.replacement, one.one_off_fits, liked, one.slots)

    return max((_fit(problem, preload) for preload in _preload_options(problem)), key=rank)


def _preload_options(problem: Problem) -> tuple[bool, ...]:
    chosen = problem.settings.value("preload_app")
    if chosen is not None:
        return (bool(chosen),)
    if problem.development or problem.workload.preload_safe is False or problem.worker_class == "gevent":
        return (False,)
    return (False, True)


def _fit(problem: Problem, preload: bool) -> Fit:
    frozen = bool(problem.settings.value("freeze_heap", True))
    shape = footprint(problem.workload, problem.worker_class, preload, frozen)
    chosen = "workers" in problem.settings
    workers = problem.wish.workers if chosen else most_workers(problem, shape)
    return _arranged(problem, shape, workers)


def most_workers(problem: Problem, shape: Footprint, by_memory: bool = True) -> int:
    """The most workers, up to the wish, that memory and database allow; at least one.

    With which a deploy holds no request back, if they are half of what the database allows; else up to that
    half, with a queue. Both halves are the same number, so more memory never gives fewer workers.
    """
    strategies = problem.strategies()
    lossless = [name for name in strategies if name != "queue"]
    by_database = most_by_database(problem, lossless or ["queue"])
    if not by_memory:
        return max(1, by_database)
    if not lossless:
        return max(1, _largest_for(problem, shape, ["queue"], by_database))
    half = workers_before_queue(problem, shape)
    beside = _largest_for(problem, shape, lossless, by_database)
    if beside >= half or "queue" not in strategies:
        return max(1, beside)
    return max(1, _largest_for(problem, shape, ["queue"], half))


def workers_before_queue(problem: Problem, shape: Footprint) -> int:
    """Fewer workers than these are not worth a deploy without a queue."""
    return math.ceil(most_workers(problem, shape, by_memory=False) * constants.OVERLAP_WORKERS_SHARE)


def most_by_database(problem: Problem, strategies: list[str]) -> int:
    """Workers, up to the wish, that the database allows; 0 for none.

    Where threads share a pool, workers give way first, down to two a CPU, then threads. Django's threads each
    keep a connection, so there is nothing to share: as many workers as the least threads allow.
    """
    wish = problem.wish

    def most(slots: int) -> int:
        return _largest(
            1,
            wish.workers,
            lambda count: any(problem.database_allows(name, count, slots) for name in strategies),
        )

    least = most(wish.slots_at_least)
    if problem.worker_class != "gthread" or problem.threads_keep_connections:
        return least
    return max(most(wish.slots), min(least, problem.workers_at_least))


def _largest_for(problem: Problem, shape: Footprint, strategies: list[str], most: int) -> int:
    """The most workers, up to ``most``, that go with one of the strategies; 0 for none."""
    least = problem.wish.slots_at_least

    def enough(workers: int) -> bool:
        return any(
            problem.database_allows(name, workers)
            and problem.memory_allows(shape, name, workers, least, True, True)
            for name in strategies
        )

    return _largest(1, most, enough)


def _largest(low: int, high: int, enough: Callable[[int], bool]) -> int:
    """The largest number from low to high that is enough, where all smaller ones are; low - 1 for none."""
    low -= 1
    while low < high:
        middle = (low + high + 1) // 2
        if enough(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _arranged(problem: Problem, shape: Footprint, workers: int) -> Fit:
    """The best that so many workers allow: strategy first, then a replacement, then a one-off command."""
    strategies, least = problem.strategies(), problem.wish.slots_at_least
    floor = _least_of_all(problem)
    for slots in dict.fromkeys((least, floor)):
        for strategy in strategies:
            if strategy != strategies[-1] and not problem.database_allows(strategy, workers):
                continue
            for one_off, replacement in ((True, True), (False, True), (True, False), (False, False)):
                if problem.memory_allows(shape, strategy, workers, slots, replacement, one_off):
                    slots = _most_slots(problem, shape, strategy, workers, slots, replacement, one_off)
                    return _made(problem, shape, strategy, workers, slots, replacement, one_off, True)
    return _made(problem, shape, strategies[-1], workers, floor, False, False, False)


def _least_of_all(problem: Problem) -> int:
    """Slots below which a worker is of no use, or those that a person set."""
    if problem.wish.slots_fixed:
        return problem.wish.slots_at_least
    if problem.worker_class in LOOP_CLASSES:
        return min(problem.wish.slots_at_least, constants.CONNECTIONS_FLOOR)
    return 1


def _most_slots(
    problem: Problem,
    shape: Footprint,
    strategy: str,
    workers: int,
    least: int,
    replacement: bool,
    one_off: bool,
) -> int:
    """As many as memory and, for threads, the database allow."""
    most = problem.wish.slots
    if not problem.wish.slots_fixed:
        most = min(most, problem.slots_by_database(strategy, workers))
        if problem.low_memory and problem.connections and problem.threads_keep_connections:
            most = min(most, constants.POOL_LOW_MEMORY)
        if most < least:
            return max(1, most)
    most = max(least, most)

    def enough(slots: int) -> bool:
        return problem.memory_allows(shape, strategy, workers, slots, replacement, one_off)

    return _largest(least, most, enough)


def _made(
    problem: Problem,
    shape: Footprint,
    strategy: str,
    workers: int,
    slots: int,
    replacement: bool,
    one_off: bool,
    fits: bool,
) -> Fit:
    steady = shape.steady(workers, slots, replacement)
    beside = shape.steady(workers, slots, False) + problem.share.one_off if one_off else 0
    deploy = max(steady, beside, problem.deploy_peak(shape, strategy, workers, slots))
    return Fit(workers, slots, strategy, replacement, one_off, fits, steady, deploy, shape)


def connections_each(problem: Problem, one: Fit) -> int:
    """Database connections one worker gets: what it has use for, within what the database allows."""
    if problem.connections is None:
        return 0
    wanted = connections_wanted(
        problem.workload.kind, problem.worker_class, problem.workload.framework, one.slots, problem.low_memory
    )
    return max(1, min(wanted, problem.connections.each(one.strategy, one.workers)))


def strategy_reason(problem: Problem, one: Fit) -> tuple[str, str, str]:
    """The deploy strategy, why, and what bound it."""
    if not problem.share.deploys_here:
        return one.strategy, "the next release runs in a container of its own beside this one", "runtime"
    target = format_bytes(problem.share.target)
    if one.strategy == "overlap":
        both = format_bytes(one.footprint.deploy("overlap", one.workers, one.slots))
        return one.strategy, f"old and new release together take {both} of {target}", "memory"
    if problem.connections is not None and not problem.database_allows("overlap", one.workers):
        both = counted(worker_count_in_deploy("overlap", one.workers), "worker")
        needs = f"{both} x {problem.least_connections}"
        return (
            one.strategy,
            f"both releases at once would need {needs} of {problem.connections.usable} connections",
            "database",
        )
    both = format_bytes(one.footprint.deploy("overlap", one.workers, problem.wish.slots_at_least))
    why = (
        f"old and new release together, {counted(one.workers, 'worker')} each, would take {both} of {target}"
    )
    return one.strategy, why, "memory"
