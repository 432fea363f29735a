"""Where runs are kept: one JSON file and one raw log each, named by the run and stamped with what it ran.

A run of ours belongs to the digest of the farrier package and of the benchmark; one of Gunicorn's to the
benchmark's alone. A result of another digest is stale: it is measured anew, and the page does not show it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.matrix.tiers import Run

ROOT = Path(__file__).resolve().parents[2]
#: What decides what a run does. The page, its plots and its rules may change without a new run.
OWN = ("site/main.py", "image.py", "target.py", "load.py", "scenarios.py", "tiers.py")


def digest(ours: bool) -> str:
    """Twelve hex digits of everything that was under test."""
    here = Path(__file__).parent
    files = [here / name for name in OWN]
    if ours:
        files += sorted(path for path in (ROOT / "farrier").rglob("*.py") if "/cli/" not in str(path))
    total = hashlib.sha256()
    for path in files:
        total.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:12]


class Store:
    """The results of one kind of run (full or quick) in a folder."""

    def __init__(self, folder: Path, committed: Path | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.digests = {True: digest(True), False: digest(False)}
        if committed is not None:
            self._take_over(committed)

    def _take_over(self, committed: Path) -> None:
        """What is committed and not kept here: another machine of the same kind goes on from it."""
        try:
            results = json.loads(gzip.decompress((committed / "runs.json.gz").read_bytes()))
        except (OSError, ValueError):
            return
        for one in results:
            kept, log = self.folder / f"{one['run']}.json", f"{one['run']}.log.gz"
            if not kept.exists() and (committed / "logs" / log).exists():
                (self.folder / log).write_bytes((committed / "logs" / log).read_bytes())
                kept.write_text(json.dumps(one))

    def path(self, run: Run) -> Path:
        return self.folder / f"{run.name}.json"

    def log(self, run: Run) -> Path:
        return self.folder / f"{run.name}.log.gz"

    def read(self, run: Run, keep: bool = False) -> dict[str, Any] | None:
        """A run's result, if it was made with what is under test now. keep: whatever it was made with."""
        try:
            found: dict[str, Any] = json.loads(self.path(run).read_text())
        except (OSError, ValueError):
            return None
        return found if keep or found.get("digest") == self.digests[run.ours] else None

    def stale(self, runs: Iterable[Run]) -> list[str]:
        """Runs whose result is there but of another digest."""
        return [run.name for run in runs if self.path(run).exists() and self.read(run) is None]

    def write(self, run: Run, result: dict[str, Any], log: str) -> None:
        """Keep a run; whoever reads sees all of it or none."""
        with gzip.GzipFile(self.log(run), "wb", mtime=0) as file:
            file.write(log.encode())
        draft = self.path(run).with_suffix(".draft")
        draft.write_text(json.dumps({**result, "digest": self.digests[run.ours]}))
        draft.replace(self.path(run))
