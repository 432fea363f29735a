"""What is run: tiers x scenarios x apps x who, and what each may take of time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Tier:
    """A size of machine, and the users that its verdict promises to serve."""

    name: str
    memory_mib: int
    cpus: int
    users: int

    @property
    def memory(self) -> str:
        """As Docker writes it."""
        return f"{self.memory_mib}m"

    @property
    def label(self) -> str:
        return f"{self.memory_mib} MB" if self.memory_mib < 1024 else f"{self.memory_mib // 1024} GB"


TIERS = (
    Tier("256", 256, 1, 5),
    Tier("512", 512, 1, 10),
    Tier("768", 768, 1, 20),
    Tier("1024", 1024, 1, 50),
    Tier("2048", 2048, 1, 100),
    Tier("4096", 4096, 2, 200),
    Tier("8192", 8192, 2, 200),
)
APPS = ("heavy", "light", "postgres")
APP_LABELS = {"heavy": "150 MB app", "light": "light app", "postgres": "150 MB app with PostgreSQL"}
WHO = ("farrier", "gunicorn")
SCENARIOS = ("startup", "health", "lifecycle", "load", "oom", "deploy", "sustained")
#: Objects that the import makes, in MiB: with Python and Flask the process has about 150 MB.
BALLAST = {"heavy": 115, "light": 0, "postgres": 115}
#: 1 MB per 100 requests.
LEAK_KIB = 10

#: Published by an investigation of a Flask app with PostgreSQL beside it: timeouts in % by default and after
#: optimising by hand, startup and answers in seconds from .. to. None: not published.
PUBLISHED: dict[str, dict[str, tuple[float, float] | float | None]] = {
    "256": {"default": 60, "optimised": 40, "startup": (75, 195), "answers": (10, 40)},
    "512": {"default": 70, "optimised": 0, "startup": (45, 75), "answers": (4, 15)},
    "768": {"default": 30, "optimised": 0, "startup": (33, 48), "answers": (2, 6)},
    "1024": {"default": 5, "optimised": 0, "startup": (26, 36), "answers": (1, 3)},
    "2048": {"default": 0, "optimised": 0, "startup": (20, 25), "answers": (0.5, 2)},
    "4096": {"default": None, "optimised": None, "startup": (17, 21), "answers": (0.2, 1)},
    "8192": {"default": None, "optimised": None, "startup": None, "answers": None},
}


@dataclass(frozen=True)
class Run:
    """One cell of the matrix."""

    tier: Tier
    app: str
    who: str
    scenario: str

    @property
    def name(self) -> str:
        """What --only looks into, and the name of its files."""
        return f"{self.tier.name}-{self.app}-{self.who}-{self.scenario}"

    @property
    def ours(self) -> bool:
        return self.who == "farrier"


@dataclass(frozen=True)
class Shape:
    """How long each scenario lasts, in seconds, and how often a start is repeated."""

    load: float = 60
    health: float = 25
    settle: float = 8
    """Between two steps of the life cycle, and around a deploy."""
    starts: int = 3
    start_most: float = 90
    """After so many seconds a server counts as one that does not come up."""
    sustained: float = 600
    sustained_today: float = 240
    burst_most: float = 60
    """Seconds in which enough requests are sent that workers are recycled."""
    hogs: int = 2


FULL = Shape()
QUICK = Shape(
    load=8,
    health=4,
    settle=3,
    starts=1,
    start_most=20,
    sustained=12,
    sustained_today=8,
    burst_most=12,
    hogs=1,
)


def scenarios_of(app: str, who: str, tier: Tier) -> tuple[str, ...]:
    """Ours: all with the 150 MB app, start and load with the others. Gunicorn: what there is to compare."""
    if app != "heavy":
        return ("startup", "load") if who == "farrier" or app == "postgres" else ()
    if who == "farrier":
        return SCENARIOS
    return ("startup", "load", "oom", *(("sustained",) if tier.memory_mib <= 1024 else ()))


def every() -> list[Run]:
    """All runs, one tier after the other."""
    return [
        Run(tier, app, who, scenario)
        for tier in TIERS
        for app in APPS
        for who in WHO
        for scenario in scenarios_of(app, who, tier)
    ]


#: A quick run: what is most likely to break, at both ends.
QUICK_RUNS = (
    "256-heavy-farrier-startup", "256-heavy-farrier-load", "256-heavy-farrier-oom",
    "256-heavy-gunicorn-startup", "256-heavy-gunicorn-load", "512-postgres-farrier-startup",
    "512-postgres-farrier-load", "512-heavy-farrier-sustained",
)  # fmt: skip
#: Of one tier, whose runs come first when the time is cut into slices.
IMPORTANT = (
    ("heavy", "farrier"), ("postgres", "farrier"), ("light", "farrier"), ("heavy", "gunicorn"),
    ("postgres", "gunicorn"),
)  # fmt: skip
#: And of one host.
PLAYED = ("load", "startup", "deploy", "oom", "lifecycle", "health")


def jobs(runs: list[Run]) -> list[list[Run]]:
    """Runs that share a host: one host for each (tier, app, who); sustained runs have hosts of their own.

    Tiers in their order, of each what matters most first.
    """
    found: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        if run.scenario != "sustained":
            found.setdefault((run.tier.name, run.app, run.who), []).append(run)
    order = [tier.name for tier in TIERS]
    for job in found.values():
        job.sort(key=lambda run: PLAYED.index(run.scenario))
    return sorted(
        found.values(),
        key=lambda job: (order.index(job[0].tier.name), IMPORTANT.index((job[0].app, job[0].who))),
    )


def groups(runs: list[Run]) -> Iterator[list[Run]]:
    """Sustained runs that go side by side: what they take of CPU together fits two cores.

    A request takes about 3.5 ms of CPU with Flask and Gunicorn. Up to 2 GB 185 users send 185 requests a
    second: 0.65 of a core; 4 and 8 GB 400: 1.4. Gunicorn's hosts, some of which do nothing but start workers
    that are killed, go by themselves.
    """
    sustained = [run for run in runs if run.scenario == "sustained"]
    for part in (
        [run for run in sustained if run.ours and run.tier.cpus == 1],
        [run for run in sustained if run.ours and run.tier.cpus > 1],
        [run for run in sustained if not run.ours],
    ):
        if part:
            yield part


def estimate(run: Run, shape: Shape) -> float:
    """Seconds that a run is expected to take; what it really took is known after it."""
    return {
        "startup": 8 * shape.starts + 12,
        "health": shape.health + 4,
        "lifecycle": 5 * shape.settle + shape.burst_most + 6,
        "load": shape.load + 6,
        "oom": shape.hogs * (shape.settle + 8) + 10,
        "deploy": 2 * (shape.settle + 35) + 6,
        "sustained": (shape.sustained if run.ours else shape.sustained_today) + 60,
    }[run.scenario]


#: Seconds until a host is up and serves for the first time.
SETUP = {"farrier": 50.0, "gunicorn": 15.0}
