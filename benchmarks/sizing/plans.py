"""The plan of a cell, come to as a person comes to it: `farrier measure` in a box of that size, then
plan()."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.box import Boxes
from benchmarks.sizing import store as stores
from benchmarks.sizing.cells import CLIENTS, KINDS, MIB, Cell, Point
from benchmarks.sizing.store import Store
from farrier.sizing.budget import Budget
from farrier.sizing.measurement import workload_of
from farrier.sizing.plan import Plan, plan
from farrier.sizing.settings import Settings
from lab.errors import LabError

SITE = Path(__file__).parent / "site"
#: Seconds that a measurement may take before the run gives up; it bounds itself to 20.
PATIENCE = 90


def environment_of(cell: Cell) -> dict[str, str]:
    """What makes the one app into this kind."""
    cpu, wait = KINDS[cell.kind]
    return {"BENCH_CPU": str(cpu), "BENCH_WAIT": str(wait), "BENCH_INTERFACE": cell.interface}


class Planner:
    """Measures the app of one kind and CPU, and plans for its cells."""

    def __init__(
        self,
        run: Boxes,
        store: Store,
        say: Callable[[str], None],
        every_cell: bool = False,
        seconds: float = 20,
    ) -> None:
        self.run = run
        self.store = store
        self.say = say
        self.every_cell = every_cell
        self.seconds = seconds
        self.by = stores.measuring(run.contents, run.farrier, store.interface)
        self._plans: dict[Cell, Plan] = {}

    def plan(self, cell: Cell) -> Plan:
        """The plan for a container of the cell's size, of the app as it was measured there."""
        if cell not in self._plans:
            self._plans[cell] = plan_of(cell, self.measurement(cell))
        return self._plans[cell]

    def point(self, cell: Cell) -> Point:
        """The plan's own point."""
        return point_of(self.plan(cell))

    def measurement(self, cell: Cell) -> dict[str, Any]:
        known = self.known(cell)
        return known if known is not None else self.measure(cell)

    def known(self, cell: Cell) -> dict[str, Any] | None:
        """What is stored of the cell's own box, or of a smaller one whose memory was never full."""
        records = self.store.measurements(cell, self.by)
        own = [one["measurement"] for one in records if one["memory_mib"] == cell.memory_mib]
        if own or self.every_cell:
            return own[-1] if own else None
        stand = [
            one["measurement"] for one in records if one["memory_mib"] < cell.memory_mib and one["never_full"]
        ]
        return stand[-1] if stand else None

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Runs `farrier measure` in a box of the cell's size."""
        self.say(f"measuring the app in {cell.memory_mib} MiB")
        box = self.run.start(
            ["farrier", "measure", f"app:{cell.interface}", "--request", "GET /", "--json",
             "--seconds", f"{self.seconds:g}"],
            memory=cell.memory_mib * MIB, cpus=cell.cpus, cpuset="0" if cell.cpus <= 1 else "0-1",
            app=SITE, environment=environment_of(cell), name=f"measure-{cell.name}",
        )  # fmt: skip
        try:
            status, said = box.result(PATIENCE)
            usage = box.usage()
            if status or not said.startswith("{"):
                raise LabError(f"farrier measure in {cell.name}: status {status}: {box.logs()[-300:]}")
        finally:
            self.run.remove(box)
        measurement: dict[str, Any] = json.loads(said)
        self.store.add(
            "measurement", memory_mib=cell.memory_mib, by=self.by, measurement=measurement,
            never_full=not usage.times_full and not usage.oom_kills,
        )  # fmt: skip
        return measurement


def plan_of(cell: Cell, measurement: dict[str, Any]) -> Plan:
    """plan() for a container that Docker runs, whose app has no database; nothing else is chosen."""
    budget = Budget.given(cell.memory_mib * MIB, cell.cpus, scope="container")
    chosen = Settings.from_mapping({"runtime": "docker", "uses_database": False}, "benchmark")
    return plan(budget, workload_of(measurement), chosen)


def point_of(made: Plan) -> Point:
    """What decides how a plan performs, as a point; recycling is off in all of them."""
    connections = made.value("worker_connections")
    return Point(
        "farrier",
        str(made.value("worker_class")),
        int(made.value("workers")),
        int(made.value("threads") or 1),
        bool(made.value("preload_app")),
        min(CLIENTS, int(connections or CLIENTS)),
        arenas=int(made.value("malloc_arena_max")),
    )
