"""Where the memory goes: what others need, what the app's processes need, what a deploy needs."""

from __future__ import annotations

from dataclasses import dataclass

from . import constants
from .budget import Budget
from .settings import Settings
from .units import format_bytes
from .workload import LOOP_CLASSES, Workload


@dataclass(frozen=True)
class Share:
    """The app's part of the memory, in bytes, and what the rest is for."""

    memory: int
    """All that there is, after a person's own memory_limit."""
    reserves: tuple[tuple[str, int], ...]
    one_off: int
    """Kept for a migration or a console beside the app."""
    on_host: bool
    """The system shares this memory."""
    deploys_here: bool
    """Old and new release share this memory while a deploy runs."""

    @property
    def reserved(self) -> int:
        """Bytes for all that is not the app."""
        return sum(size for _, size in self.reserves)

    @property
    def available(self) -> int:
        """Bytes the app's processes may take at all."""
        return max(0, self.memory - self.reserved)

    @property
    def target(self) -> int:
        """Bytes the plan fills at most: the rest of ``available`` is headroom."""
        return int(self.available * (1 - constants.HEADROOM_SHARE))

    def sentence(self) -> str:
        """``512 MiB less 93 MiB system, 16 MiB proxy = 403 MiB``."""
        parts = ", ".join(f"{format_bytes(size)} {name}" for name, size in self.reserves if size)
        return f"{format_bytes(self.memory)} less {parts or 'nothing'} = {format_bytes(self.available)}"


def runtime_of(budget: Budget, settings: Settings) -> str:
    """What stops the app: as set, else systemd on a host, Docker in a container."""
    chosen = settings.value("runtime")
    if chosen is not None:
        return str(chosen)
    return "docker" if budget.scope == "container" else "systemd"


def share_of(budget: Budget, workload: Workload, settings: Settings) -> Share:
    """The app's share of the budget after every reserve."""
    runtime = runtime_of(budget, settings)
    given_host = budget.scope == "given" and runtime in ("systemd", "none")
    on_host = budget.scope == "host" or given_host
    caps = [int(str(settings.value(name))) for name in ("memory_limit", "memory_max") if name in settings]
    memory = min([budget.memory_bytes, *caps])
    machine = max(budget.machine_memory_bytes, memory) if budget.scope != "given" else budget.memory_bytes
    reserves = _reserves(budget, memory, machine, on_host, settings)
    one_off_default = workload.app_memory_bytes if on_host else 0
    return Share(
        memory=memory,
        reserves=reserves,
        one_off=int(str(settings.value("one_off_memory", one_off_default))),
        on_host=on_host,
        deploys_here=on_host or runtime == "systemd",
    )


def _reserves(
    budget: Budget, memory: int, machine: int, on_host: bool, settings: Settings
) -> tuple[tuple[str, int], ...]:
    """What others need of ``memory``; a limit below the machine's size leaves them the difference already."""
    database = int(str(settings.value("database_memory", 0)))
    limited = machine > memory
    if "reserve_memory" in settings:
        return (("reserve", int(str(settings.value("reserve_memory")))), ("database", database))
    if not on_host and not (limited and budget.scope == "container"):
        return (("container", constants.CONTAINER_RESERVE), ("database", database))
    others = (
        ("system", _system(machine + budget.taken_bytes, nominal=budget.scope == "given")),
        ("proxy", constants.PROXY_MEMORY),
        ("log shipper", constants.LOG_SHIPPER_MEMORY),
        ("database", database),
    )
    if not limited:
        return others
    beyond = sum(size for _, size in others) - (machine - memory)
    return (("others", max(beyond, constants.CONTAINER_RESERVE)),)


def _system(machine: int, nominal: bool) -> int:
    base = constants.SYSTEM_BASE if nominal else constants.SYSTEM_BASE_READ
    share = constants.SYSTEM_SHARE if nominal else constants.SYSTEM_SHARE_READ
    return min(base + int(machine * share), constants.SYSTEM_MAXIMUM)


@dataclass(frozen=True)
class Beside:
    """What has room beside the app at work."""

    replacement: bool = False
    """A worker that takes over from one that is recycled, before that one ends."""
    one_off: bool = False
    """A migration or a console."""
    gate: bool = False
    """Before a queue: one worker of a new release, with two requests."""


@dataclass(frozen=True)
class Footprint:
    """Memory of the processes of one app, in bytes, by the model of docs/sizing.md."""

    mapped: int
    """Files mapped by all processes, counted once."""
    master: int
    worker: int
    """One worker at rest."""
    slot: int
    """One more request (thread) or connection in a worker."""
    preload: bool = False
    frozen: bool = False
    """Preloaded with a frozen heap."""

    @property
    def reclaimable(self) -> int:
        """Mapped files that the kernel drops where memory is short, and reads again where it must."""
        return int(self.mapped * constants.RECLAIMABLE_SHARE)

    def generation(self, workers: int, slots: int) -> int:
        """One arbiter and its workers, each with all its slots taken."""
        return self.master + workers * (self.worker + slots * self.slot)

    def steady(self, workers: int, slots: int, replacement: bool) -> int:
        """Every slot taken and, where it fits, one worker being replaced beside the old one."""
        beside = self.worker if replacement else 0
        return self.mapped + self.generation(workers, slots) + beside

    def deploy(self, strategy: str, workers: int, slots: int) -> int:
        """The peak while one release follows another; under ``reload``, while its settings do."""
        if strategy == "overlap":
            return self.mapped + 2 * self.generation(workers, slots)
        if strategy == "rolling":  # both arbiters, and one worker more than at work
            return self.mapped + self.master + self.generation(workers + 1, slots)
        return self.steady(workers, slots, replacement=strategy == "reload")

    def gate(self, workers: int, slots: int) -> int:
        """The app at work and beside it a new release with one worker that answers two requests."""
        return self.mapped + self.generation(workers, slots) + self.trial(slots)

    def trial(self, slots: int) -> int:
        """That new release alone."""
        return self.generation(1, min(slots, constants.CANDIDATE_SLOTS))


def footprint(workload: Workload, worker_class: str, preload: bool, frozen: bool = True) -> Footprint:
    """The memory model of one app with one way of starting its workers."""
    app = workload.app_memory_bytes
    unshared = int(app * constants.UNSHARED_SHARE)
    if workload.private_memory_bytes is not None:
        unshared = min(app, workload.private_memory_bytes)
    master = constants.ARBITER_MEMORY
    if preload:
        master = max(master, unshared)
        if frozen and workload.shared_base_bytes is not None:
            base = workload.shared_base_bytes - (app - unshared)
            master = min(master, max(constants.ARBITER_MEMORY, base))
    return Footprint(
        mapped=app - unshared,
        master=master,
        worker=_forked(workload, app, unshared, frozen) if preload else unshared,
        slot=slot_memory(workload, worker_class),
        preload=preload,
        frozen=preload and frozen,
    )


def _forked(workload: Workload, app: int, unshared: int, frozen: bool) -> int:
    """Bytes that a worker forked from a preloaded master does not share."""
    shared_fraction = workload.shared_fraction
    if not frozen:
        shared_fraction = min(shared_fraction, constants.SHARED_FRACTION_UNFROZEN)
    elif workload.shared_private_bytes is not None:
        return min(unshared, int(workload.shared_private_bytes * constants.MEASURED_SHARED_FACTOR))
    return int(app * (1 - shared_fraction))


def slot_memory(workload: Workload, worker_class: str) -> int:
    """Bytes that one more request at once takes: a thread with its request, or a connection."""
    if worker_class in LOOP_CLASSES:
        return workload.connection_memory_bytes
    thread = constants.THREAD_MEMORY if worker_class == "gthread" else 0
    return thread + workload.request_memory_bytes
