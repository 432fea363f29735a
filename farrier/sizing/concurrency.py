"""How many workers and threads an app would like, if memory and database allowed it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from . import constants
from .units import counted, format_cpus
from .workload import LOOP_CLASSES, Workload


@dataclass(frozen=True)
class Wish:
    """Workers, and slots (threads or connections) a worker: what is wanted and the least that makes sense."""

    workers: int
    why: str
    bound_by: str
    slots: int
    slots_at_least: int
    slots_fixed: bool = False
    """A person set them: no fewer will do."""
    threads_why: str = ""
    """Where the number of threads comes from."""
    in_all: int | None = None
    """Threads of all workers together, where they are counted so."""


def wish(
    workload: Workload,
    worker_class: str,
    cpus: float,
    few: bool = False,
    development: bool = False,
    one_at_a_time: bool = False,
) -> Wish:
    """What CPU, kind and measurement ask for.

    ``few``: one worker with few threads, as low memory mode has it. ``one_at_a_time``: Cloud Run below one
    CPU.
    """
    if worker_class == "gthread" and workload.kind in constants.THREADS_A_CPU:
        ask = _threaded(workload, cpus)
    else:
        ask = Wish(*_workers(workload, worker_class, cpus), *_slots(workload.kind, worker_class))
    if development:
        why = "development runs 2 workers, enough to meet what only shows with several"
        return _with_workers(ask, 2, why, "environment")
    if one_at_a_time:
        why = "below one CPU Cloud Run sends one request at a time, which one worker answers"
        alone = _with_workers(ask, 1, why, "cloud run")
        return alone if worker_class != "gthread" else Wish(1, why, "cloud run", 1, 1)
    if few:
        ask = _with_workers(ask, 1, "low memory mode runs one worker", "memory")
        if worker_class == "gthread":
            threads = constants.LOW_MEMORY_THREADS[workload.kind]
            return Wish(1, ask.why, ask.bound_by, threads, 1, threads_why="few, as low memory mode has it")
    return ask


def with_choices(ask: Wish, workers: int | None, threads: int | None) -> Wish:
    """The wish of a person who set one or both: threads are those of all workers together."""
    if ask.in_all is None or threads is not None:
        count = ask.workers if workers is None else workers
        if workers is None and threads is not None and ask.in_all is not None:
            most = max(constants.WORKERS_WITH_FEW_THREADS, 2 * ask.workers)
            count = min(max(ask.workers, math.ceil(ask.in_all / threads)), most)
            why = f"{ask.in_all} threads of all workers together, {threads} of yours in each"
            ask = Wish(count, ask.why if count == ask.workers else why, ask.bound_by, ask.slots, 1)
        if threads is None:
            return Wish(count, ask.why, ask.bound_by, ask.slots, ask.slots_at_least)
        return Wish(count, ask.why, ask.bound_by, threads, threads, slots_fixed=True)
    if workers is None:
        return ask
    each = min(constants.THREADS_AT_MOST, max(ask.slots_at_least, math.ceil(ask.in_all / workers)))
    why = f"{ask.in_all} of all workers together, in {counted(workers, 'worker')} of yours"
    return Wish(workers, ask.why, ask.bound_by, each, ask.slots_at_least, False, why, ask.in_all)


def _with_workers(ask: Wish, workers: int, why: str, bound_by: str) -> Wish:
    return Wish(workers, why, bound_by, ask.slots, ask.slots_at_least, False, ask.threads_why)


def requests_at_once(workload: Workload, cpus: float, workers: int = 1) -> tuple[int, str, bool]:
    """(requests in hand that keep the CPUs busy, why, whether that was measured).

    While one request computes the others wait: cpus x (1 + wait / CPU), and a margin, which grows with the
    root of the ``workers`` that share them out (``BUSY_MARGIN``).
    """
    waits = workload.waits_a_cpu_second
    shown = counted(cpus, "CPU")
    if waits is not None and _tells(workload, waits):
        most = math.ceil(constants.AT_ONCE_A_CPU_MOST * max(1.0, cpus))
        margin = round(1 + (constants.BUSY_MARGIN - 1) * math.sqrt(min(workers, constants.SHARED_BY_MOST)), 2)
        exact = min(most, cpus * (1 + waits) * margin)
        cpu, wait = (milliseconds(each) for each in (workload.cpu_per_request, workload.wait_per_request))
        why = (
            f"measured {cpu} CPU + {wait} wait a request: {shown} x (1 + {waits:.3g}) x "
            f"{margin:g} keep the CPU busy"
        )
        return min(most, max(2, math.ceil(round(exact, 6)))), why, True
    per_cpu = constants.THREADS_A_CPU[workload.kind]
    name = {"io": "I/O-bound", "mixed": "mixed"}[workload.kind]
    return (
        math.ceil(per_cpu * max(1.0, cpus)),
        f"{name} and not measured: {per_cpu} in all for each CPU",
        False,
    )


def _tells(workload: Workload, waits: float) -> bool:
    """Whether what was measured goes with the kind: a front page that does nothing says nothing."""
    if workload.kind == "io":
        return waits >= constants.WAITS_FROM
    computes = (workload.cpu_per_request or 0.0) >= constants.COMPUTES_FROM
    return waits >= constants.COMPUTES_ONLY_BELOW and (computes or waits >= constants.WAITS_FROM)


def milliseconds(seconds: float | None) -> str:
    """``1.35 ms``."""
    return f"{1000 * (seconds or 0.0):.3g} ms"


def threads_at_most(cpus: float) -> int:
    """Threads of one worker that the plan goes to."""
    return constants.THREADS_AT_MOST if cpus <= 1 else constants.THREADS_AT_MOST_ON_MORE_CPUS


def _threaded(workload: Workload, cpus: float) -> Wish:
    """As few workers with threads as make sense: one a CPU, more where one would have too many threads."""
    workers = whole = max(1, math.ceil(cpus))
    most = threads_at_most(cpus)
    in_all, why, _ = requests_at_once(workload, cpus, workers)
    while in_all > workers * most:
        workers += whole
        in_all, why, _ = requests_at_once(workload, cpus, workers)
    each = math.ceil(in_all / workers)
    least = min(each, constants.THREADS_AT_LEAST[workload.kind])
    reason = f"{counted(cpus, 'CPU')}: one process a CPU computes at a time, and threads do the rest"
    if workers > whole:
        reason = f"{in_all} threads in all, of which a worker has at most {most}: {workers // whole} a CPU"
    return Wish(workers, reason, "cpu", each, least, False, why, in_all)


def _workers(workload: Workload, worker_class: str, cpus: float) -> tuple[int, str, str]:
    kind, shown = workload.kind, counted(cpus, "CPU")
    if kind == "async" or (worker_class in LOOP_CLASSES and kind != "cpu"):
        return _loops(cpus, shown)
    per_cpu = constants.WORKERS_PER_CPU.get((kind, worker_class), 1.0)
    by_cpu = max(1, math.ceil(round(per_cpu * cpus, 6)))
    least = constants.WORKERS_AT_LEAST[kind] if worker_class == "sync" else 1
    name = {"io": "I/O-bound", "cpu": "CPU-bound", "mixed": "mixed"}[kind]
    rule = f"{name} {worker_class} workers: {format_cpus(per_cpu)} a CPU x {shown}"
    if worker_class == "sync" and kind in constants.THREADS_A_CPU:
        at_once, why, measured = requests_at_once(workload, cpus)
        most = math.ceil(constants.SYNC_A_CPU_MOST * max(1.0, cpus))
        if measured and min(at_once, most) > by_cpu:
            return min(at_once, most), f"{why}; a sync worker takes one request at a time", "cpu"
    if by_cpu >= least:
        return by_cpu, f"{rule} = {by_cpu}", "cpu"
    return (
        least,
        f"{rule} = {by_cpu}, but at least {least}, so that one answers while the other is busy",
        ("practice"),
    )


def _loops(cpus: float, shown: str) -> tuple[int, str, str]:
    few, many = constants.LOOPS_AT_LEAST, constants.LOOPS_MANY
    if cpus <= few:
        why = f"event loops on {shown}: {few}, so that one answers while the other computes or is replaced"
        return few, why, "practice"
    if cpus > many:
        return math.ceil(cpus), f"event loops on {shown}: one a CPU beyond {many}", "cpu"
    workers = min(math.ceil(constants.LOOPS_PER_CPU * cpus), many)
    return workers, f"event loops on {shown}: from practice {few} up to 2 CPUs, 6 on 4, 12 on 8", "practice"


def _slots(kind: str, worker_class: str) -> tuple[int, int]:
    if worker_class == "sync":
        return 1, 1
    if worker_class in LOOP_CLASSES:
        return constants.CONNECTIONS_AT_MOST, constants.CONNECTIONS_AT_LEAST
    return constants.THREADS_COMPUTING, 1
