"""How many workers and threads an app would like, if memory and database allowed it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from . import constants
from .units import counted, format_cpus
from .workload import LOOP_CLASSES


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


def wish(
    kind: str, worker_class: str, cpus: float, low_memory: bool, development: bool, one_at_a_time: bool
) -> Wish:
    """What CPU, kind and practice ask for. ``one_at_a_time``: Cloud Run below one CPU."""
    workers, why, bound_by = _workers(kind, worker_class, cpus)
    if development:
        workers, why, bound_by = (
            2,
            "development runs 2 workers, enough to meet what only shows with several",
            "environment",
        )
    elif low_memory:
        workers, why, bound_by = 1, "low memory mode runs one worker", "memory"
    elif one_at_a_time:
        why = "below one CPU Cloud Run sends one request at a time, which one worker answers"
        workers, bound_by = 1, "cloud run"
    slots, least = _slots(kind, worker_class, low_memory)
    if one_at_a_time and worker_class == "gthread":
        slots, least = 1, 1
    return Wish(workers, why, bound_by, slots, least)


def _workers(kind: str, worker_class: str, cpus: float) -> tuple[int, str, str]:
    shown = counted(cpus, "CPU")
    if kind == "async":
        return _async_workers(cpus, shown)
    per_cpu = constants.WORKERS_PER_CPU.get((kind, worker_class), 1.0)
    by_cpu = math.ceil(round(per_cpu * cpus, 6))
    least = constants.WORKERS_AT_LEAST[kind]
    name = {"io": "I/O-bound", "cpu": "CPU-bound", "mixed": "mixed"}[kind]
    rule = f"{name} {worker_class} workers: {format_cpus(per_cpu)} a CPU x {shown}"
    if by_cpu >= least:
        return max(1, by_cpu), f"{rule} = {max(1, by_cpu)}", "cpu"
    return (
        least,
        f"{rule} = {by_cpu}, but at least {least}, so that one answers while the other is stuck",
        "practice",
    )


def _async_workers(cpus: float, shown: str) -> tuple[int, str, str]:
    if cpus < 1:
        return 2, f"async on {shown}: 2, so that one answers while the other is replaced", "practice"
    many = constants.ASYNC_WORKERS_MANY
    if cpus > many:
        return math.ceil(cpus), f"async on {shown}: one a CPU beyond {many}", "cpu"
    by_cpu = math.ceil(constants.ASYNC_WORKERS_PER_CPU * cpus)
    workers = min(max(constants.ASYNC_WORKERS_AT_LEAST, by_cpu), many)
    return workers, f"async on {shown}: from practice 3 on 1-2 CPUs, 6 on 4, 12 on 8 and more", "practice"


def _slots(kind: str, worker_class: str, low_memory: bool) -> tuple[int, int]:
    if worker_class == "sync":
        return 1, 1
    if worker_class in LOOP_CLASSES:
        return constants.CONNECTIONS_AT_MOST, constants.CONNECTIONS_AT_LEAST
    wanted = constants.LOW_MEMORY_THREADS[kind] if low_memory else constants.THREADS[kind]
    return wanted, min(wanted, 1 if low_memory else constants.THREADS_AT_LEAST[kind])
