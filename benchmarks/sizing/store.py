"""What was measured, kept as it comes: one file of JSON lines for each kind and CPU.

Records, by `type`: `session` (where, when and how thoroughly what follows was measured), `measurement` (of
the app in a box of so much memory), `place` (a point in a box of so much memory: whether it came up, and what
it used), `window` (one window of load on a place), `done` (a tier). Each bears the name of its session. Those
of a session that was stopped before its end count for nothing; nor do those from before a cell was last
measured as a whole, nor those of a machine of another size (processors, architecture, memory).

A file belongs to a digest of all that decides how a server performs: farrier's serving code as far as the
kind's worker classes use it, the app, the load, the points' commands, the box and the versions. Where one of
those changes its samples are void and a new file begins. The sizing code is not among them: a plan that
changed is a point like any other, measured if it is not among the samples yet.
"""

from __future__ import annotations

import datetime
import hashlib
import inspect
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import summary
from benchmarks.box import Boxes
from benchmarks.sizing import cells
from benchmarks.sizing.cells import Cell, Point
from lab import checkout

ROOT = checkout.ROOT
SITE = ROOT / "benchmarks/sizing/site"
LOAD = ROOT / "benchmarks/closed_loop.py"
#: interface -> what of farrier's serving code no worker class of the grid loads that speaks it.
FOREIGN = {
    "wsgi": (
        "serve/workers/asgi.py", "serve/workers/uvicorn.py", "serve/workers/loop.py",
        "serve/workers/calls.py", "serve/workers/gevent.py", "serve/workers/greenlets.py", "health/asgi.py",
    ),
    "asgi": (
        "serve/workers/gthread.py", "serve/workers/sync.py", "serve/workers/single.py",
        "serve/workers/gevent.py", "serve/workers/greenlets.py",
    ),
}  # fmt: skip


@cache
def digest(contents: str, farrier: Path, interface: str) -> str:
    """What the samples depend on: the versions in the image (not its name, which tells of the month and the
    mirrors), how a box and a point's server are started, the load, and the copy of farrier in the boxes as
    far as an app of this interface is served by it.

    Worked out once in a run, for the tree may change meanwhile and the boxes do not.
    """
    total = hashlib.sha256(contents.encode() + SITE.joinpath("app.py").read_bytes() + LOAD.read_bytes())
    total.update(repr((cells.KINDS, cells.CLIENTS, cells.SEARCH_SHARE)).encode())
    for source in (Boxes.start, Point.command, Point.environment, cells.window_of, cells.warmup_of):
        total.update(inspect.getsource(source).encode())
    for part in ("serve", "health"):
        _add(total, farrier / "farrier" / part, FOREIGN[interface])
    return total.hexdigest()[:12]


@cache
def measuring(contents: str, farrier: Path, interface: str) -> str:
    """What a measurement of the app depends on besides."""
    total = hashlib.sha256(digest(contents, farrier, interface).encode())
    _add(total, farrier / "farrier/measure")
    return total.hexdigest()[:12]


def _add(total: hashlib._Hash, folder: Path, without: Iterable[str] = ()) -> None:
    left_out = {folder.parent / name for name in without}
    for path in sorted(set(folder.rglob("*.py")) - left_out):
        total.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())


def machine(docker: str = "") -> dict[str, Any]:
    """This machine, as a session's first record has it. docker: the engine's version."""
    return size() | {"kernel": platform.release(), "cpu_model": _cpu_model(), "docker": docker}


def size() -> dict[str, Any]:
    """What of a machine has to be equal for its samples to be gone on from."""
    return {
        "cpus": os.cpu_count(), "architecture": platform.machine(), "memory_gib": summary.memory_gib()
    }  # fmt: skip


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "processor unknown"


def phrase(machine: Mapping[str, Any]) -> str:
    """A machine in words."""
    return (
        f"{machine['cpus']} CPUs {machine['architecture']} ({machine['cpu_model']}), {machine['memory_gib']} "
        f"GiB, Linux {machine['kernel']}, Docker {machine['docker']}"
    )


class Store:
    """The records of one kind and CPU."""

    def __init__(self, folder: Path, digest: str, kind: str, cpus: float) -> None:
        self.interface = cells.interface_of(kind)
        self.path = folder / digest / f"{kind}-{cpus:g}cpu.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.records: list[dict[str, Any]] = []
        self.session: dict[str, Any] | None = None
        """That which is being measured now."""
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                try:
                    self.records.append(json.loads(line))
                except ValueError:  # cut off when the run was
                    continue

    def add(self, type: str, **values: Any) -> None:
        record = {"type": type, "session": self.session and self.session["session"], **values}
        self.records.append(record)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def begin(self, whole: bool, repeats: int, docker: str = "") -> str:
        """A session; its name. whole: it measures its cells from the search on, and does without what was."""
        now = datetime.datetime.now(datetime.timezone.utc)
        name = f"{now:%Y%m%dT%H%M%S}-{os.urandom(2).hex()}"
        self.session = {
            "session": name, "whole": whole, "repeats": repeats, "machine": machine(docker),
            "date": now.date().isoformat(), "version": summary.version(),
        }  # fmt: skip
        self.add("session", **self.session)
        return name

    def end(self, done: Iterable[Cell]) -> None:
        """The session is over: from now on it counts, for these cells."""
        for cell in done:
            self.add("done", memory_mib=cell.memory_mib)
        self.session = None

    def of(self, type: str) -> Iterable[dict[str, Any]]:
        return (record for record in self.records if record["type"] == type)

    def counted(self, cell: Cell) -> dict[str, dict[str, Any]]:
        """name -> session of those whose records count for a cell."""
        here = size()
        known = {record["session"]: record for record in self.of("session")}
        done: dict[str, set[int]] = {}
        for record in self.of("done"):
            done.setdefault(record["session"], set()).add(record["memory_mib"])
        ended = [
            name
            for name, one in known.items()
            if name in done and all(one["machine"][key] == value for key, value in here.items())
        ]
        whole = [name for name in ended if known[name]["whole"] and cell.memory_mib in done[name]]
        return {name: known[name] for name in ended[ended.index(whole[-1]) :]} if whole else {}

    def is_done(self, cell: Cell) -> bool:
        return bool(self.counted(cell))

    def repeats(self, cell: Cell) -> int:
        """Windows that a point of the cell has to have."""
        return max((one["repeats"] for one in self.counted(cell).values()), default=1)

    def measurements(self, cell: Cell, by: str) -> list[dict[str, Any]]:
        """Records of measurements that count for the cell and were made by this version of the code."""
        if self.session is not None and self.session["whole"]:
            counted = {self.session["session"]}
        else:
            counted = {*self.counted(cell), *([self.session["session"]] if self.session else [])}
        return [one for one in self.of("measurement") if one["session"] in counted and one["by"] == by]

    def places(self, cell: Cell, every_cell: bool = False) -> dict[Point, dict[str, Any]]:
        """point -> its place for a cell: in a box of the cell's memory, or of less that it never filled."""
        # The last that was said of a box counts: it may have filled its memory late.
        latest = self.latest(cell)
        found: dict[Point, dict[str, Any]] = {}
        for (point, memory), record in sorted(latest.items(), key=lambda item: item[0][1]):
            stands = memory < cell.memory_mib and record["never_full"] and not every_cell
            if memory == cell.memory_mib or stands:
                found[point] = record
        return found

    def latest(self, cell: Cell) -> dict[tuple[Point, int], dict[str, Any]]:
        """(point, MiB) -> what was last said of that box, in the sessions that count for the cell."""
        counted = self.counted(cell)
        return {
            (Point(**record["point"]), record["memory_mib"]): record
            for record in self.of("place")
            if record["session"] in counted
        }

    def fallen(self, cell: Cell) -> list[dict[str, Any]]:
        """Places of smaller boxes that filled their memory in the end, so that they do not stand for the cell
        although they may have been thought to."""
        return [
            record
            for (_, memory), record in self.latest(cell).items()
            if memory < cell.memory_mib and record["up"] and not record["never_full"]
        ]

    def windows(self, place: Mapping[str, Any], cell: Cell) -> list[dict[str, Any]]:
        """The windows of a place that count for a cell, without those of the search."""
        counted = self.counted(cell)
        return [
            record
            for record in self.of("window")
            if record["session"] in counted
            and record["point"] == place["point"]
            and record["memory_mib"] == place["memory_mib"]
            and not record["round"].endswith("search")
        ]


def as_record(point: Point) -> dict[str, Any]:
    return asdict(point)
