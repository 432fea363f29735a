"""What is measured: cells (memory x CPU x kind), the points that are tried in one, and how a point is run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

MIB = 2**20
MEMORY_MIB = (256, 512, 1024, 2048)
CPUS = (0.5, 1.0, 2.0)
SESSION_ORDER = (1.0, 2.0, 0.5)
#: Milliseconds of CPU and of waiting that a request takes, by kind.
KINDS = {"io": (1, 50), "cpu": (10, 0), "mixed": (4, 16), "async": (1, 50)}
CLIENTS = 100
SEARCH_SHARE = 0.6
"""Part of a window that one of the search lasts."""


def window_of(kind: str, cpus: float) -> float:
    """Seconds of a window: some 1,000 requests where there are so many, and three times the queue at least,
    which is CLIENTS x a request's CPU time / the quota (cpu at half a CPU: 2 s)."""
    if kind == "cpu":
        return 6.0 if cpus < 1 else 4.0 if cpus < 2 else 2.5
    if kind == "mixed":
        return 4.0 if cpus < 1 else 2.5
    return 2.0


def warmup_of(seconds: float) -> float:
    """Seconds of load before a window of so many."""
    return max(0.5, round(0.2 * seconds, 2))


@dataclass(frozen=True)
class Cell:
    """One size of a box and one kind of app."""

    kind: str
    memory_mib: int
    cpus: float

    @property
    def name(self) -> str:
        """`io-512m-1cpu`."""
        return f"{self.kind}-{self.memory_mib}m-{self.cpus:g}cpu"

    @property
    def interface(self) -> str:
        return interface_of(self.kind)


def interface_of(kind: str) -> str:
    """What an app of this kind speaks: wsgi or asgi."""
    return "asgi" if kind == "async" else "wsgi"


def every() -> list[Cell]:
    """All cells, those of one kind and CPU together: they are measured in one session."""
    return [Cell(kind, memory, cpus) for kind in KINDS for cpus in CPUS for memory in MEMORY_MIB]


def quick() -> list[Cell]:
    return [Cell("io", 512, 1.0), Cell("async", 256, 1.0)]


def groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells that share a session: one kind and CPU, memory ascending. Those of one CPU come first, for most
    small machines have it, then those of two, then of half of one."""
    found: dict[tuple[str, float], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.kind, cell.cpus), []).append(cell)
    ordered = sorted(found.values(), key=lambda group: SESSION_ORDER.index(group[0].cpus))
    return [sorted(group, key=lambda cell: cell.memory_mib) for group in ordered]


@dataclass(frozen=True, order=True)
class Point:
    """One way to serve the app. Two that are equal are the same configuration, whoever asked for it."""

    server: str
    """farrier, gunicorn (stock), uvicorn or granian."""
    worker_class: str
    workers: int
    threads: int = 1
    preload: bool = False
    connections: int = CLIENTS
    """worker_connections where an event loop serves; CLIENTS stands for all that never bind here."""
    timeout: int = 30
    arenas: int = 2
    """MALLOC_ARENA_MAX under farrier; stock servers run with glibc's default."""

    @property
    def name(self) -> str:
        """`farrier gthread 2x32 preload`."""
        size = f"{self.workers}x{self.threads}" if self.threads > 1 else f"{self.workers}"
        parts = [self.server, self.worker_class, size]
        if self.preload:
            parts.append("preload")
        if self.connections < CLIENTS:
            parts.append(f"connections {self.connections}")
        if self.timeout != 30:
            parts.append("no timeout" if not self.timeout else f"timeout {self.timeout}")
        if self.arenas != 2:
            parts.append("1 arena" if self.arenas == 1 else f"{self.arenas} arenas")
        return " ".join(part for part in parts if part)

    def command(self, interface: str) -> list[str]:
        """As a person types it; `{port}` stands for the port."""
        app = f"app:{interface}"
        if self.server == "uvicorn":
            return [
                "uvicorn", "--workers", str(self.workers), "--host", "127.0.0.1", "--port", "{port}",
                "--no-access-log", app,
            ]  # fmt: skip
        if self.server == "granian":
            return [
                "granian", "--interface", interface, "--workers", str(self.workers), "--host", "127.0.0.1",
                "--port", "{port}", app,
            ]  # fmt: skip
        flags = ["--workers", str(self.workers), "--timeout", str(self.timeout)]
        if self.threads > 1:
            flags += ["--threads", str(self.threads)]
        if self.preload:
            flags += ["--preload"]
        if self.server == "farrier":
            # Recycling off, and what a plan would shrink in low memory said aloud: only what the point
            # names differs.
            return [
                "farrier", "serve", *flags, "--worker-class", self.worker_class, "--max-requests", "0",
                "--worker-connections", str(1000 if self.connections >= CLIENTS else self.connections), app,
            ]  # fmt: skip
        classes = {"sync": "sync", "gthread": "gthread", "uvicorn": "uvicorn_worker.UvicornWorker"}
        return ["gunicorn", "--bind", "127.0.0.1:{port}", "-k", classes[self.worker_class], *flags, app]

    def environment(self) -> dict[str, str]:
        """What its server is told by variables."""
        if self.server != "farrier":
            return {}
        return {"LOW_MEMORY_MODE": "0", "MALLOC_ARENA_MAX": str(self.arenas)}


def grid(kind: str) -> list[Point]:
    """Workers x threads x class under `farrier serve`, fewer workers first."""
    shapes: list[tuple[str, int, int]] = []
    if kind == "async":
        shapes += [(name, workers, 1) for name in ("asgi", "uvicorn") for workers in (1, 2, 3, 4)]
    elif kind == "io":
        shapes += [("gthread", workers, threads) for workers in (1, 2, 3, 4) for threads in (16, 32)]
        shapes += [("gthread", 1, 64), ("gthread", 2, 64), ("gthread", 1, 100), ("gthread", 2, 50)]
        shapes += [("sync", 8, 1)]
    elif kind == "cpu":
        shapes += [("sync", workers, 1) for workers in (1, 2, 3, 4)]
        shapes += [("gthread", workers, threads) for workers in (1, 2) for threads in (2, 4)]
    else:
        shapes += [("sync", workers, 1) for workers in (4, 6, 8, 12)]
        shapes += [("gthread", workers, threads) for workers in (1, 2, 3, 4) for threads in (4, 8)]
        shapes += [("gthread", 1, 16), ("gthread", 2, 16)]
    points = [Point("farrier", name, workers, threads) for name, workers, threads in shapes]
    return sorted(points, key=lambda point: (point.workers, point.threads, point.worker_class))


def with_preload(point: Point) -> Point:
    """The same with the app loaded once, before the workers are forked."""
    return replace(point, preload=True)
