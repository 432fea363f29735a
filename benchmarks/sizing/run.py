"""How close the plan is to the best there is, and how close the rules in use are.

    python3 benchmarks/sizing/run.py [--quick] [--only TEXT] [--again] [--minutes 150] [--every-cell]

Each cell (256 to 2048 MB x 0.5, 1, 2 CPUs x io, cpu, mixed, async) is a box with real Docker limits. The
plan is found as a person finds it: `farrier measure` in such a box, then the plan. The best of a cell is
found by successive halving over workers x threads x class; it, the plan and every rule then get five
windows, round by round. Cells of one kind and CPU are measured in one session of six to twenty minutes. What
is done is kept: a run that was stopped, or that would take longer than --minutes, goes on where it was when
it is called again (make bench-sizing); when only the sizing has changed, only plans that were not among the
points yet are measured. Writes samples.csv.gz, cells.csv, plots/, index.html and summary.json to
benchmarks/results/sizing/; a quick run (QUICK=1) and one of a few cells (--only) keep them out of the tree.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.box import PACKAGES, Boxes, versions  # noqa: E402 - the checkout is put on the path first
from benchmarks.sizing import cells, figures, judge, page, rules, store  # noqa: E402
from benchmarks.sizing.cells import Cell, Point  # noqa: E402
from benchmarks.sizing.plans import Planner  # noqa: E402
from benchmarks.sizing.session import FINALISTS, FULL, QUICK, Session, Shape  # noqa: E402
from benchmarks.sizing.store import Store  # noqa: E402
from lab import checkout  # noqa: E402
from lab.errors import LabError  # noqa: E402

#: Seconds that a session is thought to take, by kind and CPU, before one of its kind was seen.
GUESS = {
    ("io", 0.5): 520, ("io", 1.0): 500, ("io", 2.0): 500, ("async", 0.5): 400, ("async", 1.0): 360,
    ("async", 2.0): 360, ("mixed", 0.5): 840, ("mixed", 1.0): 560, ("mixed", 2.0): 540,
    ("cpu", 0.5): 1250, ("cpu", 1.0): 840, ("cpu", 2.0): 560,
}  # fmt: skip
#: Part of that which a session takes that only measures plans that changed.
AGAIN_SHARE = 0.4
#: How often a session is begun for what is still missing of its cells.
ATTEMPTS = 3


class Progress:
    """What is going on, with the time gone and an estimate of what is left."""

    def __init__(self, groups: list[list[Cell]]) -> None:
        self.began = self.since = time.monotonic()
        self.waiting = list(groups)
        self.sessions = len(groups)
        self.ratios: list[tuple[str, float]] = []
        """kind, and seconds over the guess, of every session that has ended."""
        self.now = 0.0
        self.title = ""

    def expected(self, group: list[Cell], whole: bool = True) -> float:
        """Seconds that a session is thought to take, by those of its kind that have ended, else by all."""
        kind, cpus = group[0].kind, group[0].cpus
        seen = [ratio for one, ratio in self.ratios if one == kind] or [ratio for _, ratio in self.ratios]
        ratio = sum(seen) / len(seen) if seen else 1.0
        return GUESS[kind, cpus] * ratio * (1.0 if whole else AGAIN_SHARE)

    def begin(self, group: list[Cell], whole: bool) -> None:
        if group in self.waiting:
            self.waiting.remove(group)
        self.since, self.now = time.monotonic(), self.expected(group, whole)
        number = self.sessions - len(self.waiting)
        self.title = f"[{number}/{self.sessions}] {group[0].kind} {group[0].cpus:g} CPU"
        self.say("begins" if whole else "begins, for what is missing yet")

    def end(self, group: list[Cell], whole: bool) -> None:
        guess = GUESS[group[0].kind, group[0].cpus]
        if whole:
            self.ratios.append((group[0].kind, (time.monotonic() - self.since) / guess))
        self.now = 0.0

    def left(self) -> float:
        """Seconds that the rest is thought to take."""
        rest = max(0.0, self.now - (time.monotonic() - self.since)) if self.now else 0.0
        return rest + sum(self.expected(group) for group in self.waiting)

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
    shape = QUICK if quick else FULL
    try:
        with Boxes("sizing") as boxes:

            def publish() -> str:
                found = [one for cell in wanted if (one := result(boxes, work, cell, options))]
                return page.write(found, out, versions(PACKAGES), wanted)

            whole = run(boxes, wanted, work, options, shape, publish, scratch / "failures.log")
            print(publish())
    except KeyboardInterrupt:
        print("\nstopped: the sessions that are done are kept, the same command goes on", file=sys.stderr)
        return 130
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    if not whole:
        print("not all of it is done: run the same command again to go on")
    return 0 if whole else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two cells, about 4 minutes (also QUICK=1)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cells whose name holds TEXT")
    parser.add_argument("--again", action="store_true", help="measure anew what is done; combine with --only")
    parser.add_argument(
        "--minutes", type=float, default=150, help="begin no session that would end after this"
    )
    parser.add_argument(
        "--every-cell", action="store_true", help="no box stands for a larger one that it never filled"
    )
    parser.add_argument("--out", type=Path, help="another folder for the results")
    return parser.parse_args()


def store_of(boxes: Boxes, work: Path, cell: Cell) -> Store:
    return Store(work, store.digest(boxes.contents, boxes.farrier, cell.interface), cell.kind, cell.cpus)


def run(
    boxes: Boxes, wanted: list[Cell], work: Path, options: argparse.Namespace, shape: Shape,
    publish: Callable[[], object] = lambda: None, failures: Path | None = None,
) -> bool:  # fmt: skip
    """Measures what is missing, as far as the time allows; whether all of it is there then.

    publish: called after every session. failures: a file for the tracebacks of sessions that were given up;
    one that failed comes again when the others are through, thrice in all.
    """
    groups = cells.groups(wanted)
    queue = [group for group in groups if any(missing(boxes, work, group, options, shape, options.again))]
    progress = Progress(queue)
    begun: dict[str, int] = {}
    finished: set[str] = set()
    while queue:
        group = queue.pop(0)
        name = group[0].name
        anew = options.again and name not in finished
        fresh, changed = missing(boxes, work, group, options, shape, anew)
        if not (fresh or changed) or begun.get(name, 0) >= ATTEMPTS:
            continue
        gone = time.monotonic() - progress.began
        if gone + progress.expected(group, bool(fresh)) > options.minutes * 60:
            continue  # a shorter one may still fit
        begun[name] = begun.get(name, 0) + 1
        progress.begin(group, bool(fresh))
        try:
            session(boxes, store_of(boxes, work, group[0]), fresh, changed, progress.say, options, shape)
            publish()
        except Exception as error:  # noqa: BLE001 - the other sessions do not wait for this one
            progress.say(f"given up for now: {error}")
            log(failures, progress.title)
            with contextlib.suppress(LabError):
                boxes.remove_all()
            queue.append(group)
        else:
            progress.end(group, bool(fresh))
            finished.add(name)
            # A box that filled its memory only in the end no longer stands for larger ones: those come again.
            queue.insert(0, group)
    return is_whole(boxes, work, groups, options, shape)


def is_whole(
    boxes: Boxes, work: Path, groups: list[list[Cell]], options: argparse.Namespace, shape: Shape
) -> bool:
    """Whether every cell has its plan, its best and its rules; says which have not."""
    short = [
        cell.name for group in groups for part in missing(boxes, work, group, options, shape) for cell in part
    ]
    if short:
        print(f"not all is measured of: {', '.join(short)}", flush=True)
    return not short


def log(path: Path | None, title: str) -> None:
    """The traceback of what is being handled, to be read later."""
    if path is None:
        traceback.print_exc()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {title}\n{traceback.format_exc()}\n")


def session(
    boxes: Boxes, kept: Store, fresh: list[Cell], changed: list[Cell], say: Callable[[str], None],
    options: argparse.Namespace, shape: Shape,
) -> None:  # fmt: skip
    """Measures cells that never were, or else those whose plan has changed."""
    planner = Planner(boxes, kept, say, options.every_cell)
    if fresh:
        Session(boxes, kept, fresh, say, planner, options.every_cell, shape).measure()
    else:
        again = Session(boxes, kept, changed, say, planner, options.every_cell, shape)
        again.again(lambda cell: finalists(kept, planner, cell, options.every_cell))


def missing(
    boxes: Boxes, work: Path, group: list[Cell], options: argparse.Namespace, shape: Shape,
    anew: bool = False,
) -> tuple[list[Cell], list[Cell]]:  # fmt: skip
    """Cells that were never measured (anew: all), and cells whose plan, best or a rule was not."""
    kept = store_of(boxes, work, group[0])
    if anew:
        return group, []
    planner = Planner(boxes, kept, lambda text: None, options.every_cell)
    fresh = [cell for cell in group if not kept.is_done(cell)]
    changed = []
    for cell in group:
        if cell in fresh:
            continue
        if planner.known(cell) is None or not is_covered(kept, planner, cell, options.every_cell, shape):
            changed.append(cell)
    return fresh, changed


def is_covered(kept: Store, planner: Planner, cell: Cell, every_cell: bool, shape: Shape) -> bool:
    """Whether there are all samples of the cell's plan and of each rule, as the sizing and the rules are now,
    and of the points that may be its best."""
    if kept.repeats(cell) < shape.repeats:
        return False
    found = figures.measured(kept, cell, every_cell)
    wanted = rules.rules_of(cell)
    rest = [point for key, point in wanted.items() if not shape.rules or key in shape.rules]
    return all(
        point in found for point in (planner.point(cell), *rest, *candidates(kept, cell, every_cell)[:1])
    )


def candidates(kept: Store, cell: Cell, every_cell: bool) -> list[Point]:
    """Our points, best first, as far as they are known: those that were measured for the cell, and those of
    smaller boxes that were thought to stand for it until they filled their memory."""
    found = figures.measured(kept, cell, every_cell)
    ours = {point: seen.windows for point, seen in found.items() if point.server == "farrier" and seen.is_up}
    for place in [] if every_cell else kept.fallen(cell):
        point, windows = Point(**place["point"]), kept.windows(place, cell)
        if point not in found and point.server == "farrier" and len(windows) >= kept.repeats(cell):
            ours[point] = windows
    return judge.order(ours)


def finalists(kept: Store, planner: Planner, cell: Cell, every_cell: bool) -> list[Point]:
    """The plan's point, and those that it is compared with."""
    best = candidates(kept, cell, every_cell)[:FINALISTS]
    return list(dict.fromkeys([planner.point(cell), *best, *rules.rules_of(cell).values()]))


def result(boxes: Boxes, work: Path, cell: Cell, options: argparse.Namespace) -> figures.Result | None:
    kept = store_of(boxes, work, cell)
    planner = Planner(boxes, kept, print, options.every_cell)
    if not kept.is_done(cell) or planner.known(cell) is None:
        return None
    return figures.result(kept, cell, planner, options.every_cell)


if __name__ == "__main__":
    sys.exit(main())
