"""One cell: its server comes up, is loaded to 60 % of what it can do, and deployed to again and again."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.deploys import tally
from benchmarks.deploys.cells import LOADED, RATE_MOST, RATE_MOST_QUICK, WORKERS, Cell
from benchmarks.deploys.core import OTHERS_MOST, Core
from benchmarks.deploys.target import PORT, TODAY_PORT, Deploy, Target

LOAD = Path(__file__).parent / "load.py"
GROUPS = ("new-get", "new-post", "kept-get", "kept-post")
GENERATOR_CORE = 1
#: Clients of the closed loop in which a server's capacity is found; the best of these counts.
CLIENTS = (8, 16, 32)
#: Seconds until all kept-alive clients of an open loop have their connection.
SETTLE = 2.0
#: A HUP of others' servers has no end that they tell: what it does is seen within this, in seconds.
HUP_SECONDS = 3.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Shape:
    """How long and how often."""

    requests: int
    """Requests of a cell of ours at least."""
    deploys: int
    today_seconds: float
    recycling_seconds: float
    lead: float
    """Seconds before the first deploy, and at least so many (rest) between two."""
    rest: float
    capacity_seconds: float
    rate_most: float = RATE_MOST


FULL = Shape(
    requests=51_000, deploys=5, today_seconds=40, recycling_seconds=40, lead=8, rest=4, capacity_seconds=3
)
QUICK = Shape(
    requests=4_300, deploys=1, today_seconds=9, recycling_seconds=10, lead=3, rest=2, capacity_seconds=1.2,
    rate_most=RATE_MOST_QUICK,
)  # fmt: skip


class Generator:
    """load.py at work in a process of its own."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="farrier-load-")
        self.records = Path(self.folder.name) / "records"
        path = Path(self.folder.name) / "order.json"
        path.write_text(json.dumps({**order, "records": str(self.records), "core": GENERATOR_CORE}))
        self.process = subprocess.Popen(
            [sys.executable, str(LOAD), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        clocks = json.loads(self.process.stdout.readline())
        self.zero = clocks["time"] - clocks["monotonic"]

    def end(self, groups: Sequence[str]) -> tally.Run:
        """Stop it, or wait where it stops by itself, and read what it recorded."""
        try:
            said, _ = self.process.communicate("stop\n", timeout=120)
            return tally.Run.read(self.records, json.loads(said), groups, self.zero)
        finally:
            self.kill()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()


def groups_of(rate: float) -> list[dict[str, Any]]:
    """A quarter of the rate for each."""
    return [
        {
            "name": name,
            "post": name.endswith("post"),
            "kept": name.startswith("kept"),
            "rate": rate / len(GROUPS),
        }
        for name in GROUPS
    ]


def order(target: Target, cell: Cell, rate: float, **more: Any) -> dict[str, Any]:
    port = PORT if cell.ours else TODAY_PORT
    return {"address": target.host.address, "port": port, "groups": groups_of(rate), **more}


def capacity(target: Target, core: Core, cell: Cell, shape: Shape) -> float:
    """Requests a second that the cell's server answers at most, all groups at once.

    What a closed loop reaches is more than an open one could: it opens no connection too many, and its
    requests come when the server has time. So an open loop at 60 % of that says what a request costs, and
    the rate at which all of the CPU would be taken is the capacity, where that is less.
    """
    best = 0.0
    for clients in CLIENTS:
        generator = Generator(order(target, cell, 1, concurrency=clients, seconds=shape.capacity_seconds))
        run = generator.end(GROUPS)
        took = run.result["ended"] - run.result["began"]
        best = max(best, run.result["answered"] / took)
    rate = min(shape.rate_most, LOADED * best)
    generator = Generator(order(target, cell, rate))
    try:
        time.sleep(SETTLE)
        sample = core.sample()
        time.sleep(2 * shape.capacity_seconds)
        share = core.shares(sample)["host"]
        generator.end(GROUPS)
    finally:
        generator.kill()
    return min(best, rate / share) if share else best


def measure(
    target: Target, core: Core, cell: Cell, most: float, shape: Shape, records: Path, say: Say
) -> dict[str, Any]:
    """Load a cell's server (which is up), deploy to it meanwhile, and tell what came of it."""
    rate = min(shape.rate_most, most * LOADED)
    length = shape.requests / rate if cell.ours else shape.today_seconds
    length = max(length, shape.lead + shape.deploys * shape.rest)
    if not cell.deploys:
        length = shape.recycling_seconds
    began, sample = time.time(), core.sample()
    generator = Generator(order(target, cell, rate))
    try:
        deploys = deploy_again_and_again(target, cell, shape, began, length, say) if cell.deploys else []
        time.sleep(max(0.0, began + length - time.time()))
        shares = core.shares(sample)
        run = generator.end(GROUPS)
    finally:
        generator.kill()
    journal = target.journal(began) if cell.ours else []
    keep(run, records)
    records.with_suffix(".journal").write_text(target.said(began))
    disturbed = f"others took {shares['others']:.0%} of the host's core"
    return told(cell, run, deploys, journal) | {
        "rate": round(rate, 1),
        "capacity": round(most, 1),
        "core": shares,
        "not_counted": run.at_its_limit or (disturbed if shares["others"] > OTHERS_MOST else ""),
    }


def deploy_again_and_again(
    target: Target, cell: Cell, shape: Shape, began: float, length: float, say: Say
) -> list[Deploy]:
    """Spread evenly over the run; never two at once."""
    found: list[Deploy] = []
    period = (length - shape.lead) / shape.deploys
    for number in range(shape.deploys):
        at = began + shape.lead + number * period
        time.sleep(max(shape.rest if number else 0.0, at - time.time()))
        went = target.deploy(cell)
        found.append(went)
        say(f"deploy {number + 1} of {shape.deploys}: {went.failed or f'{went.ended - went.asked:.1f} s'}")
    time.sleep(shape.rest)
    return found


def keep(run: tally.Run, path: Path) -> None:
    """Every record, for whoever wants to look closer; not committed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wb", compresslevel=3) as file:
        file.write(run.records.tobytes())


def told(
    cell: Cell,
    run: tally.Run,
    deploys: Sequence[Deploy],
    journal: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """A cell's result as JSON holds it; its rows by second are in `seconds`."""
    records = run.records
    windows = [window(cell, one) for one in deploys]
    during = tally.between(records, windows)
    steady = ~tally.between(records, [(began, ended + 1.0) for began, ended in windows])
    base = tally.latencies(records[steady])
    ended = [event.get("reason") for event in journal if event["event"] == "worker_ended"]
    seen = len({one["worker"] for one in run.result["servers"]})
    return {
        "cell": asdict(cell),
        "began": float(records["due"].min()),
        "counts": tally.counts(records),
        "groups": {
            name: {**tally.counts(part), **tally.latencies(part)}
            for index, name in enumerate(run.groups)
            for part in [records[records["group"] == index]]
        },
        "idle_closed": run.idle_closed,
        "steady": base,
        "during": tally.latencies(records[during]),
        "deploys": [one_deploy(run, one, base, journal, window(cell, one)) for one in deploys],
        "recycled": 0 if cell.deploys else seen - WORKERS[cell.worker_class],
        "endings": {str(reason): ended.count(reason) for reason in sorted(set(map(str, ended)))},
        "generator": {
            "cpu": run.result["cpu"],
            "cpu_most": run.result["cpu_most"],
            "late_p99": round(tally.quantile(records["late"], 0.99), 5),
        },
        "failures": [{**one, "due": one["due"] + run.zero, "at": one["at"] + run.zero}
                     for one in run.result["failures"]],
        "trace": tally.trace(run),
        "seconds": tally.seconds(run),
    }  # fmt: skip


def window(cell: Cell, deploy: Deploy) -> tuple[float, float]:
    """When a deploy may be felt."""
    least = HUP_SECONDS if cell.strategy == "hup" else 0.0
    return deploy.asked, max(deploy.ended, deploy.asked + least)


def one_deploy(
    run: tally.Run,
    deploy: Deploy,
    steady: dict[str, float],
    journal: Sequence[dict[str, Any]],
    felt: tuple[float, float],
) -> dict[str, Any]:
    """What one deploy did to requests that were due meanwhile."""
    during = run.records[tally.between(run.records, [felt])]
    first = tally.first_new_answer(run, deploy.asked, deploy.release)
    counts = tally.counts(during)
    return {
        "asked": deploy.asked,
        "ended": deploy.ended,
        "seconds": round(deploy.ended - deploy.asked, 3),
        "release": deploy.release,
        "refused": deploy.failed,
        "first_new_answer": round(first[0], 3) if first else None,
        "app_boot": round(first[1], 3) if first else None,
        "longest": tally.latencies(during)["max"],
        "p50": tally.latencies(during)["p50"],
        "p99": tally.latencies(during)["p99"],
        "steady_p99": steady["p99"],
        "sent": counts["sent"],
        "failed": counts["sent"] - counts["ok"],
        "colours": tally.colour_times(journal, deploy.asked, deploy.ended),
        "steps": steps_felt(run, deploy),
    }


def steps_felt(run: tally.Run, deploy: Deploy) -> list[dict[str, Any]]:
    """Each step with the p99 of the requests that were due in it; the first is the command itself."""
    if not deploy.steps:
        return []
    first = {"name": "command", "began": deploy.asked, "ended": deploy.steps[0]["began"], "detail": ""}
    found = []
    for step in (first, *deploy.steps):
        inside = run.records[tally.between(run.records, [(step["began"], step["ended"])])]
        found.append({**step, "p99": tally.latencies(inside)["p99"]})
    return found
