"""What was measured, kept as it comes: one file of JSON lines for each kind and CPU.

Records, by `type`: `measurement` (of the app in a box of so much memory), `place` (a point in a box of so
much memory: whether it came up, and what it used), `window` (one window of load on a place), `done` (a
tier).

A file belongs to a digest of all that decides how a server performs: farrier's serving code, the app, the
load and the versions. Where one of those changes its samples are void and a new file begins. The sizing
code is not among them: a plan that changed is a point like any other, measured if it is not among the
samples yet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.sizing.cells import Cell, Point
from lab import checkout

ROOT = checkout.ROOT
SITE = ROOT / "benchmarks/sizing/site"
LOAD = ROOT / "benchmarks/closed_loop.py"


@cache
def digest(image: str, farrier: Path) -> str:
    """What the samples depend on: the image (which names the versions), and the copy of farrier in the boxes.

    Worked out once in a run, for the tree may change meanwhile and the boxes do not.
    """
    total = hashlib.sha256(image.encode() + SITE.joinpath("app.py").read_bytes() + LOAD.read_bytes())
    for part in ("serve", "health"):
        _add(total, farrier / "farrier" / part)
    return total.hexdigest()[:12]


@cache
def measuring(image: str, farrier: Path) -> str:
    """What a measurement of the app depends on besides."""
    total = hashlib.sha256(digest(image, farrier).encode())
    _add(total, farrier / "farrier/measure")
    return total.hexdigest()[:12]


def _add(total: hashlib._Hash, folder: Path) -> None:
    for path in sorted(folder.rglob("*.py")):
        total.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())


class Store:
    """The records of one kind and CPU."""

    def __init__(self, folder: Path, digest: str, kind: str, cpus: float) -> None:
        self.path = folder / digest / f"{kind}-{cpus:g}cpu.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.records: list[dict[str, Any]] = []
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                try:
                    self.records.append(json.loads(line))
                except ValueError:  # cut off when the run was
                    continue

    def add(self, type: str, **values: Any) -> None:
        record = {"type": type, **values}
        self.records.append(record)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def forget(self) -> None:
        """Begin anew."""
        self.path.unlink(missing_ok=True)
        self.records.clear()

    def of(self, type: str) -> Iterable[dict[str, Any]]:
        return (record for record in self.records if record["type"] == type)

    def is_done(self, cell: Cell) -> bool:
        return any(record["memory_mib"] == cell.memory_mib for record in self.of("done"))

    def measurement(self, cell: Cell, by: str) -> dict[str, Any] | None:
        """The last measurement in a box of the cell's size that was made by this version of the code."""
        found = [
            record["measurement"]
            for record in self.of("measurement")
            if record["memory_mib"] == cell.memory_mib and record["by"] == by
        ]
        return found[-1] if found else None

    def places(self, cell: Cell, every_cell: bool = False) -> dict[Point, dict[str, Any]]:
        """point -> its place for a cell: in a box of the cell's memory, or of less that it never filled."""
        # The last that was said of a box counts: it may have filled its memory late.
        latest = {(Point(**record["point"]), record["memory_mib"]): record for record in self.of("place")}
        found: dict[Point, dict[str, Any]] = {}
        for (point, memory), record in sorted(latest.items(), key=lambda item: item[0][1]):
            stands = memory < cell.memory_mib and record["never_full"] and not every_cell
            if memory == cell.memory_mib or stands:
                found[point] = record
        return found

    def windows(self, place: Mapping[str, Any], finals: bool = True) -> list[dict[str, Any]]:
        """The windows of a place that count; those of the search only where finals is False."""
        return [
            record
            for record in self.of("window")
            if record["point"] == place["point"]
            and record["memory_mib"] == place["memory_mib"]
            and not (finals and record["round"].endswith("search"))
        ]


def as_record(point: Point) -> dict[str, Any]:
    return asdict(point)
