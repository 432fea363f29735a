"""How close the plan is to the best there is, and how close the rules in use are.

    python3 benchmarks/sizing/run.py [--quick] [--only TEXT] [--again] [--minutes 120] [--every-cell]

Each cell (256 to 2048 MB x 0.5, 1, 2 CPUs x io, cpu, mixed, async) is a box with real Docker limits. The
plan is found as a person finds it: `farrier measure` in such a box, then the plan. The best of a cell is
found by successive halving over workers x threads x class; it, the plan and every rule then get five
windows, round by round. Cells of one kind and CPU are measured in one session of about eight minutes. What
is done is kept: a run that was stopped, or that would take longer than --minutes, goes on where it was when
it is called again (make bench-sizing); when only the sizing has changed, only plans that were not among the
points yet are measured. Writes samples.csv.gz, cells.csv, plots/, index.html and summary.json to
benchmarks/results/sizing/; a quick run (QUICK=1) and one of a few cells (--only) keep them out of the tree.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.box import PACKAGES, Boxes, versions  # noqa: E402 - the checkout is put on the path first
from benchmarks.sizing import cells, figures, page, rules, store  # noqa: E402
from benchmarks.sizing.cells import Cell, Point  # noqa: E402
from benchmarks.sizing.plans import Planner  # noqa: E402
from benchmarks.sizing.session import FULL, QUICK, Session, Shape  # noqa: E402
from benchmarks.sizing.store import Store  # noqa: E402
from lab import checkout  # noqa: E402
from lab.errors import LabError  # noqa: E402

#: Seconds that a session is thought to take before one was seen, by what it does: tiers, then the finals.
FIRST_GUESS = {"whole": 480.0, "again": 200.0}


class Progress:
    """What is going on, with the time gone and an estimate of what is left."""

    def __init__(self, sessions: int) -> None:
        self.began = time.monotonic()
        self.sessions = sessions
        self.finished: list[float] = []
        self.title = ""

    def begin(self, number: int, title: str) -> None:
        self.title = f"[{number}/{self.sessions}] {title}"
        self.say("begins")

    def left(self) -> float:
        """Seconds that the rest is thought to take."""
        each = sum(self.finished) / len(self.finished) if self.finished else FIRST_GUESS["whole"]
        gone = time.monotonic() - self.began - sum(self.finished)
        return max(0.0, each * (self.sessions - len(self.finished)) - gone)

    def say(self, text: str) -> None:
        gone = (time.monotonic() - self.began) / 60
        print(f"{self.title:22} {gone:5.1f} min gone, about {self.left() / 60:.0f} to go: {text}", flush=True)


def main() -> int:
    options = parse()
    if len(os.sched_getaffinity(0)) < 2:
        print("this machine has one CPU: the boxes and their load need one each", file=sys.stderr)
        return 1
    quick = options.quick or os.environ.get("QUICK") == "1"
    offered = cells.quick() if quick and not options.only else cells.every()
    wanted = [cell for cell in offered if options.only in cell.name]
    if not wanted:
        names = ", ".join(cell.name for cell in cells.every())
        print(f"--only: given {options.only!r}; allowed: a part of {names}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    results = ROOT / "benchmarks/results/sizing"
    scratch = checkout.cache_dir() / "bench-sizing" / checkout.identity()
    # The samples of a full run are committed: another machine of the same kind goes on from them.
    work = scratch / "quick" if quick else results / "sessions"
    partly = quick or len(wanted) < len(cells.every())
    out = options.out or (scratch / "page" if partly else results)
    try:
        with Boxes("sizing") as boxes:
            whole = run(boxes, wanted, work, options, QUICK if quick else FULL)
            found = [one for cell in wanted if (one := result(boxes, work, cell, options))]
    except KeyboardInterrupt:
        print("\nstopped: the sessions that are done are kept, the same command goes on", file=sys.stderr)
        return 130
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    print(page.write(found, out, versions(PACKAGES)))
    if not whole:
        print("not all of it is done: run the same command again to go on")
    return 0 if whole else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two cells, about 4 minutes (also QUICK=1)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cells whose name holds TEXT")
    parser.add_argument("--again", action="store_true", help="measure cells anew that are done")
    parser.add_argument(
        "--minutes", type=float, default=120, help="begin no session that would end after this"
    )
    parser.add_argument(
        "--every-cell", action="store_true", help="no box stands for a larger one that it never filled"
    )
    parser.add_argument("--out", type=Path, help="another folder for the results")
    return parser.parse_args()


def store_of(boxes: Boxes, work: Path, cell: Cell) -> Store:
    return Store(work, store.digest(boxes.image, boxes.farrier), cell.kind, cell.cpus)


def run(boxes: Boxes, wanted: list[Cell], work: Path, options: argparse.Namespace, shape: Shape) -> bool:
    """Measures what is missing, as far as the time allows; whether all of it is there then."""
    sessions = [(group, *missing(boxes, work, group, options)) for group in cells.groups(wanted)]
    sessions = [one for one in sessions if one[1] or one[2]]
    progress, whole = Progress(len(sessions)), True
    for number, (group, fresh, changed) in enumerate(sessions, 1):
        each = max(progress.finished, default=FIRST_GUESS["whole" if fresh else "again"])
        if time.monotonic() - progress.began + each > options.minutes * 60:
            return False
        progress.begin(number, f"{group[0].kind} {group[0].cpus:g} CPU")
        began = time.monotonic()
        try:
            session(boxes, store_of(boxes, work, group[0]), fresh, changed, progress.say, options, shape)
        except LabError as error:  # the other sessions do not wait for this one
            progress.say(f"given up: {error}")
            boxes.remove_all()
            whole = False
        progress.finished.append(time.monotonic() - began)
    return whole


def session(
    boxes: Boxes, kept: Store, fresh: list[Cell], changed: list[Cell], say: Callable[[str], None],
    options: argparse.Namespace, shape: Shape,
) -> None:  # fmt: skip
    """Measures cells that never were, then those whose plan has changed."""
    planner = Planner(boxes, kept, say, options.every_cell)
    if fresh:
        Session(boxes, kept, fresh, say, planner, options.every_cell, shape).measure()
    if changed:
        finals = {cell: finalists(kept, planner, cell, options.every_cell) for cell in changed}
        Session(boxes, kept, changed, say, planner, options.every_cell, shape).again(finals)


def missing(
    boxes: Boxes, work: Path, group: list[Cell], options: argparse.Namespace
) -> tuple[list[Cell], list[Cell]]:
    """Cells that were never measured, and cells whose plan (or a rule) is none of the points that were."""
    kept = store_of(boxes, work, group[0])
    if options.again:
        return group, []
    planner = Planner(boxes, kept, lambda text: None, options.every_cell)
    fresh = [cell for cell in group if not kept.is_done(cell)]
    changed = []
    for cell in group:
        if cell in fresh:
            continue
        if planner.known(cell) is None or not is_covered(kept, planner, cell, options.every_cell):
            changed.append(cell)
    return fresh, changed


def is_covered(kept: Store, planner: Planner, cell: Cell, every_cell: bool) -> bool:
    """Whether there are samples of the cell's plan and of each rule, as the sizing and the rules are now."""
    places = kept.places(cell, every_cell)
    for point in (planner.point(cell), *rules.rules_of(cell).values()):
        place = places.get(point)
        if place is None or (place["up"] and len(kept.windows(place)) < QUICK.repeats):
            return False
    return True


def finalists(kept: Store, planner: Planner, cell: Cell, every_cell: bool) -> list[Point]:
    """The plan's point, and those that it is compared with."""
    found = figures.measured(kept, cell, every_cell)
    best = figures.best_of(found)
    return list(
        dict.fromkeys([planner.point(cell), *([best] if best else []), *rules.rules_of(cell).values()])
    )


def result(boxes: Boxes, work: Path, cell: Cell, options: argparse.Namespace) -> figures.Result | None:
    kept = store_of(boxes, work, cell)
    planner = Planner(boxes, kept, print, options.every_cell)
    if not kept.is_done(cell) or planner.known(cell) is None:
        return None
    return figures.result(kept, cell, planner, options.every_cell)


if __name__ == "__main__":
    sys.exit(main())
