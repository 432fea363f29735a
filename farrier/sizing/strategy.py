"""Workers, slots, preload and deploy strategy that fit memory and database together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from . import constants
from .budget import Budget
from .concurrency import Wish, threads_at_most, wish, with_choices
from .database import (
    Connections,
    connections_least,
    connections_of,
    connections_wanted,
    threads_most,
    worker_count_in_deploy,
)
from .memory import Beside, Footprint, Share, footprint, runtime_of, share_of
from .settings import Settings
from .units import SizingError, counted, format_bytes
from .workload import ASGI_CLASSES, LOOP_CLASSES, Workload


@dataclass(frozen=True)
class Fit:
    """One arrangement of an app on its share. Slots are threads, or connections of an async worker."""

    workers: int
    slots: int
    strategy: str
    beside: Beside
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

    def runs(self, available: int) -> bool:
        """Whether so many bytes are enough at all: without headroom, with fewer mapped files in memory."""
        return self.steady - self.footprint.reclaimable <= available

    @property
    def queues(self) -> bool:
        """A deploy holds new requests back."""
        return self.strategy == "queue"


ALL, ALONE, REPLACING = Beside(replacement=True, one_off=True), Beside(), Beside(replacement=True)
LADDER = (ALL, REPLACING, Beside(one_off=True), ALONE)
"""In which order the plan does without."""


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
        # a part of a host is not a small host
        short = is_short_of_memory(budget, share.memory + budget.taken_bytes)
        low_memory = bool(settings.value("low_memory_mode", short))
        # what was measured needs no rule of thumb: memory itself decides, unless a person asked for the mode
        few = low_memory and ("low_memory_mode" in settings or workload.waits_a_cpu_second is None)
        one_at_a_time = runtime == "cloudrun" and cpus < 1
        ask = wish(workload, worker_class, cpus, few, development, one_at_a_time)
        ask = _with_choices(ask, worker_class, settings)
        least = connections_least(worker_class, workload.framework, ask.slots_at_least)
        problem = cls(
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
        return problem._computing() or problem

    def _computing(self) -> Problem | None:
        """With sync workers, where an app only computes: threads gain it nothing, one process as many as two.

        Nobody chose its class then, nobody the threads, and it is known to be safe to preload, without which
        more workers than CPUs cost more memory than they gain. As many as it asks for and fit, else as many
        as with threads; none where a deploy would queue that does not with threads.
        """
        load = self.workload
        chosen = any(name in self.settings for name in ("worker_class", "threads"))
        computes = load.any_class and load.only_computes and load.kind == "cpu" and load.preload_safe
        one_at_a_time = self.runtime == "cloudrun" and self.cpus < 1
        few = self.low_memory and not self.low_memory_chosen
        if chosen or not computes or few or self.development or one_at_a_time:
            return None
        if self.worker_class != "gthread":
            return None
        ask = _with_choices(wish(load, "sync", self.cpus), "sync", self.settings)
        least = connections_least("sync", load.framework, 1)
        threads = fit(self)

        def of(count: int) -> tuple[Problem, Fit]:
            own = ask
            if count < ask.workers:
                why = f"as many as fit with no worse a deploy; {ask.workers} wanted ({ask.why})"
                own = replace(ask, workers=count, why=why, bound_by="memory")
            other = replace(self, worker_class="sync", wish=own, least_connections=least)
            return other, fit(other)

        wanted, one = of(ask.workers)
        if one.workers == ask.workers and wanted._is_no_worse(one, threads):
            return wanted
        for count in dict.fromkeys((one.workers, threads.workers)):
            if count == ask.workers:
                continue  # that was it
            other, one = of(count)
            if other._is_no_worse(one, threads):
                return other
        return None

    def _is_no_worse(self, one: Fit, threads: Fit) -> bool:
        """Whether sync workers are as good as threads in all but the threads."""
        fewer = one.fits < threads.fits or one.workers < threads.workers
        alone = threads.beside.replacement and not one.beside.replacement and one.workers == threads.workers
        unshared = not one.preload and one.workers > max(threads.workers, self.workers_a_cpu)
        return not (fewer or alone or unshared or (one.queues and not threads.queues))

    def replaceable(self, one: Fit) -> bool:
        """Whether the database has connections for a replacement: if not, it is not for memory that there is
        none."""
        return self.database_allows(one.strategy, one.workers, beside=REPLACING)

    def strategies(self) -> tuple[str, ...]:
        """Strategies that may be used, best first."""
        if "strategy" in self.settings:
            return (str(self.settings.value("strategy")),)
        return constants.STRATEGIES if self.share.deploys_here else ("overlap",)

    def deploy_peak(self, shape: Footprint, strategy: str, workers: int, slots: int) -> int:
        """Bytes while one release follows another; elsewhere the next release brings its own memory."""
        return shape.deploy(strategy, workers, slots) if self.share.deploys_here else 0

    def memory_allows(
        self, shape: Footprint, strategy: str, workers: int, slots: int, beside: Beside
    ) -> bool:
        """Whether every peak stays within the target."""
        one_off = self.share.one_off if beside.one_off else 0
        gate = shape.gate(workers, slots) if beside.gate and self.share.deploys_here else 0
        peak = max(
            shape.steady(workers, slots, beside.replacement),
            shape.steady(workers, slots, False) + one_off,
            self.deploy_peak(shape, strategy, workers, slots),
            gate,
        )
        return peak <= self.share.target

    def database_allows(
        self, strategy: str, workers: int, slots: int | None = None, beside: Beside = ALONE
    ) -> bool:
        """Whether each worker of both generations gets the connections that its slots (least) need."""
        if self.connections is None:
            return True
        needed = self.least_connections if slots is None else self.connections_for(slots)
        return self.connections.each(strategy, workers, beside) >= needed

    def connections_for(self, slots: int) -> int:
        """Connections that so many slots of a worker need at least."""
        return connections_least(self.worker_class, self.workload.framework, slots)

    def slots_by_database(self, strategy: str, workers: int, beside: Beside = ALONE) -> int:
        """Slots of a worker, up to the wish, that its connections are enough for."""
        wanted = self.slots_wanted(workers)
        if self.connections is None or self.worker_class != "gthread":
            return wanted
        each = self.connections.each(strategy, workers, beside)
        return min(wanted, threads_most(self.workload.framework, each))

    def slots_wanted(self, workers: int) -> int:
        """Slots of each of so many workers: fewer than were wished for share out all threads."""
        ask = self.wish
        if ask.in_all is None or ask.slots_fixed or workers >= ask.workers:
            return ask.slots
        slots = ask.slots
        for count in range(ask.workers - 1, workers - 1, -1):
            # no more in all than one worker more would have
            slots = max(ask.slots, min(threads_at_most(self.cpus), (count + 1) * slots // count))
        return slots

    @property
    def counts_threads(self) -> bool:
        """Its slots are threads of which the plan itself says how many."""
        return self.worker_class == "gthread" and not self.wish.slots_fixed

    @property
    def slots_enough(self) -> int:
        """Slots of a worker with which a better deploy, or a replacement, is worth more than others."""
        if self.counts_threads:
            half = math.ceil(self.wish.slots * constants.SLOTS_SHARE)
            return min(self.wish.slots, max(half, constants.THREADS_COMPUTING))
        return self.wish.slots_at_least

    @property
    def threads_squeezed(self) -> int:
        """Threads of a worker that memory is made to hold at least, headroom or not."""
        return min(constants.SQUEEZED_THREADS, self.slots_enough)

    def slots_most(self, strategy: str, workers: int, beside: Beside = ALONE) -> int:
        """Slots of a worker whatever the memory."""
        if self.wish.slots_fixed:
            return self.wish.slots
        most = self.slots_by_database(strategy, workers, beside)
        if self.low_memory and self.connections and self.threads_keep_connections:
            most = min(most, constants.POOL_LOW_MEMORY)
        return max(1, most)

    def slots_before_worker(self, strategy: str, workers: int) -> int:
        """Slots that each worker has before there is one more: all its threads, or the least connections."""
        return self.slots_most(strategy, workers) if self.counts_threads else self.wish.slots_at_least

    @property
    def threads_keep_connections(self) -> bool:
        """Django without a pool: each thread opens a connection and keeps it."""
        return self.workload.framework == "django" and self.worker_class == "gthread"

    @property
    def workers_a_cpu(self) -> int:
        """One for each CPU that it has the whole of, and at least one: fewer leave a CPU idle."""
        return min(self.wish.workers, max(1, math.floor(self.cpus)))

    @property
    def workers_at_least(self) -> int:
        """Workers for which threads give way where both share too few connections: two a CPU."""
        per_cpu = constants.WORKERS_PER_CPU_AT_LEAST
        least = max(math.ceil(per_cpu * self.cpus), constants.WORKERS_AT_LEAST[self.workload.kind])
        return min(self.wish.workers, least)


def is_short_of_memory(budget: Budget, memory: int) -> bool:
    """Below 512 MB; a kernel keeps a part of a host's nominal memory out of MemTotal."""
    line: float = constants.LOW_MEMORY_BELOW
    if budget.scope == "host" and memory == budget.machine_memory_bytes + budget.taken_bytes:
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
    name = "worker_connections" if worker_class in LOOP_CLASSES else "threads"
    workers = settings.value("workers")
    slots = None if worker_class == "sync" else settings.value(name)
    return with_choices(
        ask,
        None if workers is None else int(str(workers)),
        None if slots is None else int(str(slots)),
    )


def fit(problem: Problem) -> Fit:
    """The most workers, then a deploy without a queue, then the rest that fits.

    Overlap instead of rolling comes after preload: it is not worth preloading an app that nobody vouched for.
    """
    strategies = problem.strategies()

    def rank(one: Fit) -> tuple[int, ...]:
        over = (0, 0, 0) if one.fits else (one.runs(problem.share.available), one.slots, -one.steady)
        liked = one.preload is bool(problem.workload.preload_safe)
        enough = min(one.slots, problem.slots_enough) if problem.counts_threads else 0
        better = (not one.queues, one.beside.gate, one.beside.replacement, one.beside.one_off)
        threads = one.slots if problem.counts_threads else 0
        strategy = -strategies.index(one.strategy)
        return (one.fits, *over, one.workers, enough, *better, threads, liked, strategy, one.slots)

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
    return math.ceil(most_workers(problem, shape, by_memory=False) * constants.WORKERS_SHARE_WITHOUT_QUEUE)


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

    def enough(workers: int, beside: Beside = ALL) -> bool:
        return any(
            problem.database_allows(name, workers)
            and problem.memory_allows(
                shape, name, workers, problem.slots_before_worker(name, workers), beside
            )
            for name in strategies
        )

    found, each = _largest(1, most, enough), min(most, problem.workers_a_cpu)
    if found >= each:
        return found
    # the others serve while one is replaced; a deploy's own command has no such way out
    return max(found, _largest(1, each, lambda workers: enough(workers, Beside(one_off=True))))


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
    if problem.counts_threads:
        return _with_threads(problem, shape, workers)
    strategies = problem.strategies()
    floor = _least_of_all(problem)
    for slots in dict.fromkeys((problem.wish.slots_at_least, floor)):
        every = (_fit_by(problem, shape, strategy, workers, slots) for strategy in strategies)
        found = [one for one in every if one]
        for one in found[1:]:
            if one.strategy == "rolling" and not is_enough(found[0].slots, one.slots):
                return one
        if found:
            return found[0]
    return _made(problem, shape, strategies[-1], workers, floor, ALONE, fits=False)


def _with_threads(problem: Problem, shape: Footprint, workers: int) -> Fit:
    """The same for threads: enough of them first, then a better deploy and what fits beside, then the rest.

    Where memory keeps a deploy or a replacement from being what it could be, a worker has no more than enough
    threads: so more memory never gives fewer.
    """

    def enough(one: Fit) -> int:
        most = problem.slots_most(one.strategy, workers, one.beside)
        # a second worker came only because each has all its threads
        several = workers > 1 and "workers" not in problem.settings
        return most if several else min(problem.slots_enough, most)

    options: list[Fit] = []
    for one in _thread_options(problem, shape, workers):
        if one.slots >= problem.slots_wanted(workers) and not _could_be_better(problem, one):
            return one  # all that there is to have
        options.append(one)
    if not options:
        return _squeezed(problem, shape, workers)
    good = [one for one in options if one.slots >= enough(one)]
    if not good:
        return max(options, key=lambda one: one.slots)
    best = good[0]
    if best.strategy == "overlap":
        rolling = (one for one in good if one.strategy == "rolling" and one.beside == best.beside)
        best = next((one for one in rolling if one.slots > best.slots), best)
    if _could_be_better(problem, best):
        return _made(problem, shape, best.strategy, workers, enough(best), best.beside)
    return best


def _thread_options(problem: Problem, shape: Footprint, workers: int) -> Iterator[Fit]:
    """Each strategy with each that has room beside it, best first, with the most threads it leaves."""
    strategies = problem.strategies()
    for strategy in strategies:
        if strategy != strategies[-1] and not problem.database_allows(strategy, workers):
            continue
        for rung in LADDER:
            for beside in (replace(rung, gate=True), rung) if strategy == "queue" else (rung,):
                most = problem.slots_most(strategy, workers, beside)
                least = min(most, problem.threads_squeezed)
                if _allowed(problem, shape, strategy, workers, least, beside):
                    slots = _most_slots(problem, shape, strategy, workers, least, beside)
                    yield _made(problem, shape, strategy, workers, slots, beside)


def _could_be_better(problem: Problem, one: Fit) -> bool:
    """Whether memory alone keeps an arrangement from a deploy without a queue, or from room beside it."""
    lossless = [name for name in problem.strategies() if name != "queue"]
    if one.queues and any(problem.database_allows(name, one.workers) for name in lossless):
        return True
    return not one.beside.one_off or (problem.replaceable(one) and not one.beside.replacement)


def _squeezed(problem: Problem, shape: Footprint, workers: int) -> Fit:
    """Without headroom, and with fewer of the mapped files in memory: a few threads, as they fit."""
    strategy = problem.strategies()[-1]
    room = problem.share.available + shape.reclaimable
    most = min(problem.slots_most(strategy, workers), problem.threads_squeezed)
    slots = _largest(1, most, lambda count: shape.steady(workers, count, False) <= room)
    return _made(problem, shape, strategy, workers, max(1, slots), ALONE, fits=False)


def is_enough(slots: int, instead_of: int) -> bool:
    """Whether so many slots are worth a better deploy."""
    return slots >= min(constants.SLOTS_ENOUGH, instead_of * constants.SLOTS_SHARE)


def _fit_by(problem: Problem, shape: Footprint, strategy: str, workers: int, slots: int) -> Fit | None:
    """The arrangement with one strategy and at least so many slots; none where it does not fit."""
    if strategy != problem.strategies()[-1] and not problem.database_allows(strategy, workers):
        return None
    for beside in LADDER:
        if not _allowed(problem, shape, strategy, workers, slots, beside):
            continue
        most = _most_slots(problem, shape, strategy, workers, slots, beside)
        gated = replace(beside, gate=True)
        if strategy == "queue" and _allowed(problem, shape, strategy, workers, slots, gated):
            fewer = _most_slots(problem, shape, strategy, workers, slots, gated)
            if is_enough(fewer, most):
                return _made(problem, shape, strategy, workers, fewer, gated)
        return _made(problem, shape, strategy, workers, most, beside)
    return None


def _allowed(
    problem: Problem, shape: Footprint, strategy: str, workers: int, slots: int, beside: Beside
) -> bool:
    """Whether memory, and the database for what it adds, allow these beside the app."""
    connected = beside.gate or beside.replacement
    if connected and not problem.database_allows(strategy, workers, beside=beside):
        return False
    return problem.memory_allows(shape, strategy, workers, slots, beside)


def _least_of_all(problem: Problem) -> int:
    """Slots below which a worker is of no use, or those that a person set."""
    if problem.wish.slots_fixed:
        return problem.wish.slots_at_least
    if problem.worker_class in LOOP_CLASSES:
        return min(problem.wish.slots_at_least, constants.CONNECTIONS_FLOOR)
    return 1


def _most_slots(
    problem: Problem, shape: Footprint, strategy: str, workers: int, least: int, beside: Beside
) -> int:
    """As many as memory and, for threads, the database allow."""
    most = max(least, problem.slots_most(strategy, workers, beside))
    return _largest(least, most, lambda slots: problem.memory_allows(shape, strategy, workers, slots, beside))


def _made(
    problem: Problem,
    shape: Footprint,
    strategy: str,
    workers: int,
    slots: int,
    beside: Beside,
    fits: bool = True,
) -> Fit:
    steady = shape.steady(workers, slots, beside.replacement)
    one_off = shape.steady(workers, slots, False) + problem.share.one_off if beside.one_off else 0
    gate = shape.gate(workers, slots) if beside.gate and problem.share.deploys_here else 0
    deploy = max(steady, one_off, gate, problem.deploy_peak(shape, strategy, workers, slots))
    return Fit(workers, slots, strategy, beside, fits, steady, deploy, shape)


def connections_each(problem: Problem, one: Fit) -> int:
    """Database connections one worker gets: what it has use for, within what the database allows."""
    if problem.connections is None:
        return 0
    wanted = connections_wanted(
        problem.workload.kind, problem.worker_class, problem.workload.framework, one.slots, problem.low_memory
    )
    return max(1, min(wanted, problem.connections.each(one.strategy, one.workers, one.beside)))


def strategy_reason(problem: Problem, one: Fit) -> tuple[str, str, str]:
    """The deploy strategy, why, and what bound it."""
    if not problem.share.deploys_here:
        return one.strategy, "the next release runs in a container of its own beside this one", "runtime"
    target, shape = format_bytes(problem.share.target), one.footprint
    if one.strategy == "overlap":
        both = format_bytes(shape.deploy("overlap", one.workers, one.slots))
        return one.strategy, f"old and new release together take {both} of {target}", "memory"
    more = f"{counted(one.workers + 1, 'worker')} and both arbiters"
    if one.strategy == "rolling":
        peak = format_bytes(shape.deploy("rolling", one.workers, one.slots))
        against, bound_by = _against_overlap(problem, one)
        return one.strategy, f"one worker at a time: {more} take {peak} of {target}; {against}", bound_by
    if not problem.database_allows("rolling", one.workers):
        return one.strategy, _too_many_connections(problem, "rolling", one.workers), "database"
    slots = min(problem.slots_enough, problem.slots_most("rolling", one.workers))
    peak = format_bytes(shape.deploy("rolling", one.workers, slots))
    return one.strategy, f"even one worker at a time, {more} would take {peak} of {target}", "memory"


def _against_overlap(problem: Problem, one: Fit) -> tuple[str, str]:
    """(why not overlap, what bound it) of a plan that exchanges workers one by one."""
    if not problem.database_allows("overlap", one.workers):
        return _too_many_connections(problem, "overlap", one.workers), "database"
    least = min(problem.slots_enough, problem.slots_most("overlap", one.workers))
    whole = _fit_by(problem, one.footprint, "overlap", one.workers, least)
    if whole is None:
        both = format_bytes(one.footprint.deploy("overlap", one.workers, least))
        return f"both releases whole would take {both}", "memory"
    what = "connections" if problem.worker_class in LOOP_CLASSES else "threads"
    wanted = problem.slots_wanted(one.workers)
    by_database = whole.slots == problem.slots_by_database("overlap", one.workers) < wanted
    why = f"both releases whole would leave a worker {whole.slots} {what} instead of {one.slots}"
    return why, "database" if by_database else "memory"


def _too_many_connections(problem: Problem, strategy: str, workers: int) -> str:
    """Why the database does not allow a strategy."""
    usable = problem.connections.usable if problem.connections else 0
    count = counted(worker_count_in_deploy(strategy, workers), "worker")
    whole = "both releases whole" if strategy == "overlap" else "even one worker at a time"
    return f"{whole} would need {count} x {problem.least_connections} of {usable} connections"
