"""One session: all cells of a kind and CPU, with every point's box up at once, so that repeats cost a window.

1. Each tier, smallest memory first: the app is measured in a box of that size and the plan made; every point
   that does not stand there yet is started and gets its first window. A box that never filled its memory (the
   kernel counts how often a limit was reached: not once) stands for the larger tiers too, because there the
   limit is just as far from it. Where memory binds, the same with preload is tried.
2. The search: each tier's points are halved, worse half first, with another window for those that stay.
3. The finals: the best of each tier, its plan, and every rule get REPEATS windows, round by round, each round
   in an order drawn anew.

A point whose workers the kernel keeps killing would disturb the others: it is measured at once and taken
away.
"""

from __future__ import annotations

import math
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import box as boxes
from benchmarks.box import Box, Boxes
from benchmarks.closed_loop import Order, measure
from benchmarks.sizing import judge, plans, rules
from benchmarks.sizing.cells import (
    CLIENTS,
    KINDS,
    MIB,
    SEARCH_SHARE,
    Cell,
    Point,
    grid,
    warmup_of,
    window_of,
    with_preload,
)
from benchmarks.sizing.store import Store, as_record
from lab.errors import LabError

SITE = Path(__file__).parent / "site"
FINALISTS = 3
UP_SECONDS = 25
BOOTING = 4
"""Boxes that boot at once."""
KILLS_ENOUGH = 30
"""OOM kills without an answer after which a point is not waited for any longer."""
OTHERS_MOST = 0.10
"""Share of the boxes' cores that others may have in a window; else it is measured again."""
QUIET_SECONDS = 120
"""Seconds at most that a session waits for others to be done before it does so."""


@dataclass(frozen=True)
class Shape:
    """How thorough a session is."""

    repeats: int = 5
    tries: int = 3
    """How often a window is measured in which others had the cores; the last counts whatever it was."""
    window_share: float = 1.0
    grid: int | None = None
    """So many points of the grid only, spread over it."""
    rules: tuple[str, ...] = ()
    """Only these rules; none means all."""


FULL = Shape()
#: Two cells in some four minutes, maybe on a busy machine.
QUICK = Shape(repeats=2, tries=1, window_share=0.6, grid=7)


@dataclass(eq=False)
class Place:
    """A point in a box of so much memory, and what is known of it."""

    point: Point
    memory_mib: int
    box: Box | None
    record: dict[str, Any]
    windows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_up(self) -> bool:
        return self.box is not None

    @property
    def never_full(self) -> bool:
        return bool(self.record["never_full"])


class Session:
    """One kind and CPU at work. `say` tells a person."""

    def __init__(
        self, run: Boxes, store: Store, cells: list[Cell], say: Callable[[str], None], planner: plans.Planner,
        every_cell: bool = False, shape: Shape = FULL,
    ) -> None:  # fmt: skip
        self.run = run
        self.store = store
        self.cells = cells
        self.say = say
        self.planner = planner
        self.every_cell = every_cell
        self.shape = shape
        self.kind, self.cpus = cells[0].kind, cells[0].cpus
        self.interface = cells[0].interface
        cpu, wait = KINDS[self.kind]
        self.environment = {
            "BENCH_CPU": str(cpu), "BENCH_WAIT": str(wait), "BENCH_INTERFACE": self.interface,
        }  # fmt: skip
        self.places: list[Place] = []
        self.tiers: dict[Cell, dict[Point, Place]] = {}
        self.name = ""
        self.random = random.Random(f"{self.kind}{self.cpus}")

    # --- all of it ------------------------------------------------------------------------------------

    def measure(self) -> None:
        """A whole session; the store has it all afterwards."""
        self.begin(whole=True)
        finals: dict[Cell, list[Point]] = {}
        for cell in self.cells:
            self.tiers[cell] = self.tier(cell)
        search = {cell: [p for p in self.tiers[cell] if p.server == "farrier"] for cell in self.cells}
        for left in (FINALISTS * 2, FINALISTS):
            search = {cell: self.halve(cell, points, left) for cell, points in search.items()}
            if left > FINALISTS:
                chosen = {self.tiers[cell][p] for cell, points in search.items() for p in points}
                self.round(chosen, "search", SEARCH_SHARE)
        for cell in self.cells:
            wanted = [*search[cell], *self.must(cell)]
            finals[cell] = [point for point in dict.fromkeys(wanted) if point in self.tiers[cell]]
        self.finish(finals)

    def again(self, points: Callable[[Cell], list[Point]]) -> None:
        """Only these points of each cell, for a plan that has changed since the others were measured."""
        self.begin(whole=False)
        finals = {cell: points(cell) for cell in self.cells}
        for cell in self.cells:
            self.tiers[cell] = self.start_missing(cell, finals[cell])
        self.finish(finals)

    def begin(self, whole: bool) -> None:
        self.name = self.store.begin(whole, self.shape.repeats, self.run.docker.version)

    def finish(self, finals: dict[Cell, list[Point]]) -> None:
        chosen = {self.tiers[cell][point] for cell, points in finals.items() for point in points}
        self.take_away(place for place in self.places if place not in chosen)
        for number in range(1, self.shape.repeats + 1):
            self.round(chosen, str(number))
        for place in self.places:
            self.close(place)
        self.store.end(self.cells)
        self.take_away(list(self.places))

    # --- a tier ---------------------------------------------------------------------------------------

    def tier(self, cell: Cell) -> dict[Point, Place]:
        """Starts what a cell needs and does not have yet; each point's place."""
        wanted = [*self.grid(), *self.must(cell)]
        return self.start_missing(cell, list(dict.fromkeys(wanted)), search=True)

    def grid(self) -> list[Point]:
        points = grid(self.kind)
        return points if self.shape.grid is None else points[:: -(-len(points) // self.shape.grid)]

    def must(self, cell: Cell) -> list[Point]:
        """What is measured to the end whatever the search says: the plan and the rules."""
        wanted = self.shape.rules
        found = [point for key, point in rules.rules_of(cell).items() if not wanted or key in wanted]
        return [self.planner.point(cell), *found]

    def start_missing(self, cell: Cell, wanted: list[Point], search: bool = False) -> dict[Point, Place]:
        found: dict[Point, Place] = {}
        queue = list(wanted)
        must = self.must(cell)
        hopeless: dict[tuple[str, str, bool], int] = {}
        while queue:
            batch, queue = queue[:BOOTING], queue[BOOTING:]
            missing = []
            for point in batch:
                standing = self.standing(point, cell)
                family = (point.server, point.worker_class, point.preload)
                if standing is not None:
                    found[point] = standing
                elif search and point not in must and point.workers >= hopeless.get(family, 10**6):
                    if with_preload(point) not in (point, *queue, *found):
                        queue.append(with_preload(point))
                else:
                    missing.append(point)
            for place in self.start(missing, cell):
                point = place.point
                found[point] = place
                self.store_place(place, cell)
                binds = not place.is_up or not place.never_full
                if not place.is_up or place.record["oom_kills"]:
                    family = (point.server, point.worker_class, point.preload)
                    hopeless[family] = min(hopeless.get(family, 10**6), point.workers)
                forked = with_preload(point)
                known = (point, *queue, *found)
                if (
                    search
                    and binds
                    and point.server == "farrier"
                    and point.workers > 1
                    and forked not in known
                ):
                    queue.append(forked)
        return found

    def standing(self, point: Point, cell: Cell) -> Place | None:
        """A place of this session that stands for the point in this cell."""
        for place in self.places:
            if place.point == point and place.is_up:
                same = place.memory_mib == cell.memory_mib
                if same or (place.never_full and not self.every_cell and place.memory_mib < cell.memory_mib):
                    return place
        return None

    def start(self, points: list[Point], cell: Cell) -> list[Place]:
        """Boots boxes side by side on both cores, and then gives each its first window on its own."""
        begun = [(point, self.boot(point, cell), time.monotonic()) for point in points]
        places = []
        for point, one, when in begun:
            place = self.await_up(point, one, when, cell)
            places.append(place)
            self.places.append(place)
        up = [place.box.container for place in places if place.box is not None]
        if up and self.cpus <= 1:
            self.run.docker.call("update", "--cpuset-cpus", "0", *up)
        # What the kernel keeps killing goes first, and away.
        for place in sorted(places, key=lambda place: not place.record["oom_kills"]):
            if place.is_up:
                self.first_windows(place)
        return places

    def boot(self, point: Point, cell: Cell) -> Box:
        return self.run.start(
            point.command(self.interface), memory=cell.memory_mib * MIB, cpus=cell.cpus, cpuset="0-1",
            app=SITE, environment=self.environment | point.environment(),
            name=f"{cell.name}-{len(self.places)}",
        )  # fmt: skip

    def await_up(self, point: Point, one: Box, began: float, cell: Cell) -> Place:
        """Waits for its first answer; never up is an outcome like any other."""
        record: dict[str, Any] = {"never_full": False, "up": False, "boot_seconds": None}
        while time.monotonic() - began < UP_SECONDS:
            if boxes.answers(one.port, "/", timeout=3):
                record |= {"up": True, "boot_seconds": round(time.monotonic() - began, 2)}
                break
            try:
                if one.usage().oom_kills >= KILLS_ENOUGH or not one.is_running():
                    break
            except (LabError, OSError):
                break
            time.sleep(0.1)
        record |= self.used(one)
        place = Place(point, cell.memory_mib, one, record)
        if not record["up"]:
            record["said"] = one.logs()[-400:]
            self.say(f"{point.name} in {cell.memory_mib} MiB: never up, {record['oom_kills']} OOM kills")
            self.run.remove(one)
            place.box = None
        return place

    def used(self, one: Box) -> dict[str, Any]:
        try:
            usage = one.usage()
        except (LabError, OSError, AssertionError):
            return {"oom_kills": 0, "peak": 0, "rss": 0, "never_full": False}
        return {
            "oom_kills": usage.oom_kills, "peak": usage.peak, "rss": usage.rss,
            "never_full": not usage.times_full and not usage.oom_kills,
        }  # fmt: skip

    def first_windows(self, place: Place) -> None:
        """One window; all that a restless point gets, for it goes then."""
        assert place.box is not None
        self.window(place, "search", SEARCH_SHARE)
        place.record |= self.used(place.box)
        if place.record["oom_kills"]:
            for number in range(1, self.shape.repeats + 1):
                self.window(place, f"alone-{number}")
            place.record |= self.used(place.box)
            self.say(f"{place.point.name} in {place.memory_mib} MiB: {place.record['oom_kills']} OOM kills")
            self.run.remove(place.box)
            place.box = None

    # --- rounds ---------------------------------------------------------------------------------------

    def halve(self, cell: Cell, points: list[Point], left: int) -> list[Point]:
        """The better half of them, at least `left`; what is measured and gone already stays out."""
        there = {point: self.tiers[cell][point].windows for point in points if self.tiers[cell][point].is_up}
        return judge.order(there)[: max(left, math.ceil(len(there) / 2)) if left > FINALISTS else left]

    def round(self, chosen: Iterable[Place], name: str, share: float = 1.0) -> None:
        """One window for each, in an order drawn anew."""
        places = sorted((place for place in chosen if place.is_up), key=lambda place: place.point)
        self.random.shuffle(places)
        self.say(f"round {name}: {len(places)} points")
        for place in places:
            self.window(place, name, share)

    def window(self, place: Place, name: str, share: float = 1.0) -> None:
        """One window of load, measured again where others had the boxes' cores."""
        assert place.box is not None
        cores = (0,) if self.cpus <= 1 else (0, 1)
        seconds = round(window_of(self.kind, self.cpus) * share * self.shape.window_share, 2)
        order = Order(
            place.box.port, clients=CLIENTS, seconds=seconds, warmup=warmup_of(seconds),
            core=1 if self.cpus <= 1 else None,
        )  # fmt: skip
        for attempt in range(self.shape.tries):
            before, busy, began = self.usage(place), busy_seconds(cores), time.monotonic()
            try:
                seen = measure(order)
            except (subprocess.SubprocessError, OSError) as error:  # the load itself, not the server
                if attempt == self.shape.tries - 1:
                    raise
                self.say(f"{place.point.name}: the load failed ({error}), once more")
                continue
            passed = time.monotonic() - began
            after, busy = self.usage(place), busy_seconds(cores) - busy
            spent = after["cpu_seconds"] - before["cpu_seconds"]
            load = seen.cpu * passed if self.cpus > 1 else 0.0
            others = round(max(0.0, busy - spent - load) / passed / len(cores), 3)
            if others <= OTHERS_MOST or attempt == self.shape.tries - 1:
                break
            self.await_quiet(cores)
        values = {
            "point": as_record(place.point), "memory_mib": place.memory_mib,
            "round": f"{self.name}:{name}", "seconds": order.seconds,
            "throughput": round(seen.throughput, 2), "answered": seen.answered,
            "requests": len(seen.latencies), "p50": seen.percentile(0.5), "p90": seen.percentile(0.9),
            "p99": seen.percentile(0.99), "max": seen.percentile(1.0), "cut": seen.cut,
            "failed": sum(seen.failed.values()), "failures": seen.failed, "load_cpu": seen.cpu,
            "anew": seen.anew,
            "box_cpu": round(spent / passed, 3),
            "throttled": round((after["throttled"] - before["throttled"]) / passed, 3),
            "others": others, "oom_kills": after["oom_kills"] - before["oom_kills"],
        }  # fmt: skip
        self.store.add("window", **values)
        place.windows.append(values)

    def await_quiet(self, cores: Sequence[int]) -> None:
        """Waits until the cores are free again, or for QUIET_SECONDS: the next try would be as bad."""
        end, told = time.monotonic() + QUIET_SECONDS, False
        while time.monotonic() < end:
            began, busy = time.monotonic(), busy_seconds(cores)
            time.sleep(1)
            share = (busy_seconds(cores) - busy) / (time.monotonic() - began) / len(cores)
            if share <= OTHERS_MOST:
                return
            if not told:
                told = True
                self.say(f"others have {share:.0%} of the boxes' cores: it waits for them")

    @staticmethod
    def usage(place: Place) -> dict[str, float]:
        assert place.box is not None
        try:
            now = place.box.usage()
        except (LabError, OSError):
            return {"cpu_seconds": 0.0, "throttled": 0.0, "oom_kills": 0}
        return {
            "cpu_seconds": now.cpu_seconds, "throttled": now.throttled_seconds, "oom_kills": now.oom_kills
        }  # fmt: skip

    # --- the end of a place -----------------------------------------------------------------------------

    def store_place(self, place: Place, cell: Cell) -> None:
        self.store.add("place", point=as_record(place.point), memory_mib=cell.memory_mib, **place.record)

    def close(self, place: Place) -> None:
        """What it has used by the end, which may be more than after its first window."""
        if place.box is None:
            return
        was_free = place.never_full
        place.record |= self.used(place.box)
        if was_free and not place.never_full:
            self.say(f"{place.point.name}: filled its {place.memory_mib} MiB only later")
        self.store.add("place", point=as_record(place.point), memory_mib=place.memory_mib, **place.record)

    def take_away(self, places: Iterable[Place]) -> None:
        gone = [place for place in places if place.box is not None]
        self.run.remove(*[place.box for place in gone if place.box is not None])
        for place in gone:
            place.box = None


def busy_seconds(cores: Iterable[int]) -> float:
    """CPU seconds that processes had of these processors, and that a hypervisor stole."""
    names = {f"cpu{core}" for core in cores}
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name in names:
            user, nice, system, *_, steal = (int(tick) for tick in ticks[:8])
            total += user + nice + system + steal
    return total / os.sysconf("SC_CLK_TCK")
