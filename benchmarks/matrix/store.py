"""Where runs are kept: one JSON file and one raw log each, named by the run and stamped with what it ran.

A run of ours belongs to the digest of what decides it in the farrier package and of the benchmark; one of
Gunicorn's to the benchmark's alone. A result of another digest is stale: it is measured anew, and the page
does not show it. Whether a run is as it should be is judged anew each time that it is read, from its figures.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import summary
from benchmarks.matrix import tally
from benchmarks.matrix.tiers import Run

ROOT = Path(__file__).resolve().parents[2]
#: What decides what a run does. The page, its plots and its rules may change without a new run.
OWN = ("site/main.py", "image.py", "target.py", "load.py", "scenarios.py", "tiers.py", "watch.py")
#: Of farrier: what deploys, sizes, measures and serves. The version's number and the other commands do not.
OURS = ("database.py", "errors.py", "probe.py", "health", "measure", "release", "serve", "sizing")
#: A run that broke is tried so many times, and then left until it is asked for with --again.
TRIES = 2
#: Share by which the memory of machines of one kind may differ: kernels keep different amounts.
ABOUT = 0.05


def digest(ours: bool) -> str:
    """Twelve hex digits of everything that was under test."""
    here, package = Path(__file__).parent, ROOT / "farrier"
    files = [here / name for name in OWN]
    if ours:
        for name in OURS:
            path = package / name
            files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    total = hashlib.sha256()
    for path in files:
        total.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:12]


def kind() -> dict[str, Any]:
    """This machine, as far as figures depend on it: CPUs, architecture, bytes of memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpus": os.cpu_count(), "architecture": platform.machine(), "memory": memory}


def same_kind(one: Any, other: dict[str, Any]) -> bool:
    """Whether two machines' figures may stand beside each other; not where one is unknown."""
    if not isinstance(one, dict):
        return False
    alike = all(one.get(name) == other[name] for name in ("cpus", "architecture"))
    return alike and abs(one.get("memory", 0) - other["memory"]) <= ABOUT * other["memory"]


class Store:
    """The results of one kind of run (full or quick) in a folder."""

    def __init__(self, folder: Path, committed: Path | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.foreign = 0
        """Committed runs of a machine of another kind: they are not gone on from."""
        self.committed = 0
        self.stamp()
        if committed is not None:
            self._take_over(committed)

    def stamp(self) -> None:
        """What is under test now."""
        self.digests = {True: digest(True), False: digest(False)}

    def _take_over(self, committed: Path) -> None:
        """What is committed and not kept here: another machine of the same kind goes on from it."""
        try:
            results = json.loads(gzip.decompress((committed / "runs.json.gz").read_bytes()))
        except (OSError, ValueError):
            return
        here = kind()
        self.committed = len(results)
        for one in results:
            if not same_kind(one.get("kind"), here):
                self.foreign += 1
                continue
            if self._rank(one) > self._rank(self._load(one["run"])):
                log = f"{one['run']}.log.gz"
                if (committed / "logs" / log).exists():
                    (self.folder / log).write_bytes((committed / "logs" / log).read_bytes())
                self._save(one)

    def _rank(self, one: dict[str, Any] | None) -> int:
        """Which of two results of a run is kept: a measured one of now, a broken one of now, an old one."""
        if one is None or one.get("shape") != tally.SHAPE:
            return 0
        fresh = one.get("digest") == self.digests[one.get("who") == "farrier"]
        return 1 + (2 if fresh else 0) + (0 if one.get("broken") else 1)

    def _load(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None
        return found

    def _save(self, one: dict[str, Any]) -> None:
        path = self.folder / f"{one['run']}.json"
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(one))
        draft.replace(path)

    def path(self, run: Run) -> Path:
        return self.folder / f"{run.name}.json"

    def log(self, run: Run) -> Path:
        return self.folder / f"{run.name}.log.gz"

    def read(self, run: Run, keep: bool = False) -> dict[str, Any] | None:
        """A run's result, if it was made with what is under test now; judged by the rules of now.

        keep: whatever it was made with; `earlier` says whether that was something else.
        """
        found = self._load(run.name)
        if found is None or found.get("shape") != tally.SHAPE:
            return None
        earlier = found.get("digest") != self.digests[run.ours]
        if earlier and not keep:
            return None
        return found | {"earlier": earlier, "holds": tally.verdict(found)}

    def done(self, run: Run, keep: bool = False) -> bool:
        """Whether there is nothing to measure: it was, or it broke as often as it is tried."""
        found = self.read(run, keep)
        return found is not None and (not found.get("broken") or found.get("tries", 1) >= TRIES)

    def stale(self, runs: Iterable[Run]) -> list[str]:
        """Runs whose result is there but of another digest."""
        return [run.name for run in runs if self.path(run).exists() and self.read(run) is None]

    def write(self, run: Run, result: dict[str, Any], log: str) -> None:
        """Keep a run with the machine that it was made on; whoever reads sees all of it or none."""
        with gzip.GzipFile(self.log(run), "wb", mtime=0) as file:
            file.write(log.encode())
        if result.get("broken"):
            before = self.read(run) or {}
            result = result | {"tries": before.get("tries", 1) + 1 if before.get("broken") else 1}
        self._save(
            {**result, "run": run.name, "digest": self.digests[run.ours], "machine": summary.machine(),
             "kind": kind()}
        )  # fmt: skip
