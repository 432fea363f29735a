"""What is measured: one cell for each worker class and strategy, and beside them what people do today."""

from __future__ import annotations

from dataclasses import dataclass

CLASSES = ("sync", "gthread", "asgi", "uvicorn", "gevent")
STRATEGIES = ("overlap", "rolling", "queue", "reload")
#: Workers of each class, ours and theirs. One sync worker has one request in hand; it takes more of them.
WORKERS = {"sync": 4, "gthread": 2, "asgi": 2, "uvicorn": 2, "gevent": 2}
THREADS = 4
RECYCLE_AFTER = 500
#: The share of what a server can do at most with which it is loaded.
LOADED = 0.6
#: Requests a second above which one generator on one core is not asked to go.
RATE_MOST = 1200.0
#: A quick run is for finding failures on a machine that may be busy with other tests; it is no measurement.
RATE_MOST_QUICK = 420.0


@dataclass(frozen=True)
class Cell:
    """One server under load, and what is done to it meanwhile."""

    name: str
    worker_class: str
    """Ours: the class. Theirs: the class of ours whose load it gets."""
    strategy: str
    """Ours: how it deploys, or "recycling". Theirs: "hup", "restart" or "recycling"."""
    ours: bool = True
    server: str = ""
    """Theirs: the command's name in today.SERVERS."""
    label: str = ""

    @property
    def deploys(self) -> bool:
        """Whether something is deployed in it; in the others workers are recycled."""
        return self.strategy != "recycling"


def ours() -> list[Cell]:
    """Every class and strategy, and recycling of every class."""
    return [
        Cell(f"{name}-{strategy}", name, strategy, label=f"farrier {name}, {strategy}")
        for name in CLASSES
        for strategy in (*STRATEGIES, "recycling")
    ]


def theirs() -> list[Cell]:
    """What people do today."""
    rows = (
        ("sync", "hup", "gunicorn-sync", "gunicorn (its default, sync), HUP"),
        ("gthread", "hup", "gunicorn-gthread", "gunicorn gthread, HUP"),
        ("uvicorn", "hup", "gunicorn-uvicorn", "gunicorn uvicorn-worker, HUP"),
        ("sync", "restart", "gunicorn-sync", "gunicorn sync, systemctl restart"),
        ("gthread", "restart", "gunicorn-gthread", "gunicorn gthread, systemctl restart"),
        ("uvicorn", "restart", "gunicorn-uvicorn", "gunicorn uvicorn-worker, systemctl restart"),
        ("gthread", "recycling", "gunicorn-gthread", "gunicorn gthread, max_requests=500"),
        ("uvicorn", "recycling", "gunicorn-uvicorn", "gunicorn uvicorn-worker, max_requests=500"),
        ("uvicorn", "restart", "uvicorn", "uvicorn --workers 2, systemctl restart"),
        ("uvicorn", "hup", "granian", "granian --workers 2, HUP"),
        ("uvicorn", "restart", "granian", "granian --workers 2, systemctl restart"),
    )
    return [
        Cell(f"today-{server}-{strategy}", name, strategy, False, server, label)
        for name, strategy, server, label in rows
    ]


#: A quick run: every class, every strategy, each pair of a class and a strategy in turns.
QUICK = (
    "sync-overlap", "sync-queue",
    "gthread-rolling", "gthread-overlap", "gthread-recycling",
    "asgi-overlap", "asgi-reload",
    "uvicorn-queue", "uvicorn-rolling", "uvicorn-recycling",
    "gevent-overlap", "gevent-reload",
    "today-gunicorn-gthread-restart", "today-gunicorn-uvicorn-hup",
)  # fmt: skip


def every() -> list[Cell]:
    """All cells, those of one class together: its releases are built once."""
    beside = {name: [cell for cell in theirs() if cell.worker_class == name] for name in CLASSES}
    return [
        cell
        for name in CLASSES
        for cell in (*(one for one in ours() if one.worker_class == name), *beside[name])
    ]


def quick() -> list[Cell]:
    """The quick run's cells."""
    return [cell for cell in every() if cell.name in QUICK]
