"""What the database allows each worker."""

from __future__ import annotations

import math
from dataclasses import dataclass

from . import constants
from .memory import Beside
from .settings import Settings


@dataclass(frozen=True)
class Connections:
    """Connections that all workers of all generations may hold together; None: no database."""

    maximum: int
    reserved: int
    given: bool
    """A person stated the maximum; else PostgreSQL's default is assumed."""

    @property
    def usable(self) -> int:
        """What is left for the app."""
        return max(0, self.maximum - self.reserved)

    def each(self, strategy: str, workers: int, beside: Beside | None = None) -> int:
        """Connections one worker may hold, a deploy and what has room beside the app included."""
        beside = beside or Beside()
        trial = constants.CANDIDATE_SLOTS if beside.gate else 0
        return max(0, self.usable - trial) // workers_at_once(strategy, workers, beside)

    def sentence(self) -> str:
        """``100 (PostgreSQL's default) less 5 in reserve = 95``."""
        whence = "yours" if self.given else "PostgreSQL's default"
        return f"{self.maximum} connections ({whence}) less {self.reserved} in reserve = {self.usable}"


def connections_of(settings: Settings) -> Connections | None:
    """What the database allows, from a person's settings or PostgreSQL's defaults."""
    if settings.value("uses_database") is False:
        return None
    maximum = settings.value("database_max_connections", constants.DATABASE_MAX_CONNECTIONS)
    spare = constants.DATABASE_RESERVED_CONNECTIONS + constants.DATABASE_SPARE_CONNECTIONS
    reserved = settings.value("database_reserved_connections", spare)
    return Connections(int(str(maximum)), int(str(reserved)), "database_max_connections" in settings)


def worker_count_in_deploy(strategy: str, workers: int) -> int:
    """Workers of both generations together while a deploy runs."""
    if strategy == "overlap":
        return 2 * workers
    return workers + 1 if strategy in ("rolling", "reload") else workers


def workers_at_once(strategy: str, workers: int, beside: Beside) -> int:
    """The most workers that run together: in a deploy, or while one replaces another."""
    return max(worker_count_in_deploy(strategy, workers), workers + beside.replacement)


def connections_least(worker_class: str, framework: str | None, slots: int) -> int:
    """Connections below which a worker with so many slots makes its requests wait for one."""
    if worker_class == "sync":
        return 1
    if worker_class != "gthread":
        return min(slots, constants.CONNECTIONS_WITH_THREADS)
    if framework == "django":  # each thread keeps a connection of its own
        return slots
    shared = math.ceil(slots / constants.THREADS_A_CONNECTION)
    return min(slots, max(shared, constants.CONNECTIONS_WITH_THREADS))


def threads_most(framework: str | None, connections: int) -> int:
    """The inverse: threads of a worker with so many connections."""
    if framework == "django" or connections < constants.CONNECTIONS_WITH_THREADS:
        return connections
    return connections * constants.THREADS_A_CONNECTION


def connections_wanted(
    kind: str, worker_class: str, framework: str | None, slots: int, low_memory: bool
) -> int:
    """Connections one worker has use for."""
    if worker_class == "sync":
        return 1
    if worker_class == "gthread" and framework == "django":
        return slots  # no pool by default: each thread keeps its own connection
    if low_memory:
        least = connections_least(worker_class, framework, slots)
        return min(slots, max(constants.POOL_LOW_MEMORY, least))
    if worker_class == "gthread":
        return min(slots, max(constants.POOL_AT_MOST, connections_least(worker_class, framework, slots)))
    return min(slots, constants.POOL_ASYNC)


def pool(connections: int) -> tuple[int, int]:
    """(pool_size, max_overflow) of so many connections."""
    size = max(1, math.ceil(connections * constants.POOL_SHARE))
    return min(size, max(1, connections)), max(0, connections - size)
