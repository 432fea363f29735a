"""What a deploy costs those who ask meanwhile: every worker class and strategy, and what people do today.

    python3 benchmarks/deploys/run.py [--quick] [--only TEXT] [--again] [--minutes 58]

A systemd host in a container is the machine: one whole CPU (core 0, by cpuset: a CFS quota would throttle it
in slices and be measured instead of us) and 512 MB. The load comes from core 1. Cells that are done are kept,
so a run that was stopped, or that would take longer than --minutes, goes on where it was when it is called
again (make bench-deploys). Writes requests.csv.gz, deploys.csv, plots/, index.html and summary.json to
benchmarks/results/deploys/; a quick run (QUICK=1) keeps them out of the tree.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.deploys import cells, figures, measure, page  # noqa: E402 - the checkout is put on the path first
from benchmarks.deploys.cells import Cell  # noqa: E402
from benchmarks.deploys.core import Core  # noqa: E402
from benchmarks.deploys.target import Target  # noqa: E402
from lab import checkout  # noqa: E402
from lab.host import Host  # noqa: E402

MEMORY = "512m"
MACHINE_CORE = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few cells, about 50,000 requests, 4 minutes")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only cells whose name holds TEXT (of all cells)"
    )
    parser.add_argument("--again", action="store_true", help="measure cells anew that are done")
    parser.add_argument("--minutes", type=float, default=58, help="begin no cell that would end after this")
    parser.add_argument("--cgroup", default="", help="put the host in this cgroup, to give it more weight")
    parser.add_argument("--out", type=Path, help="another folder for the results")
    options = parser.parse_args()
    quick = options.quick or os.environ.get("QUICK") == "1"
    if len(os.sched_getaffinity(0)) < 2:
        print("this machine has one CPU: the server and its load need one each", file=sys.stderr)
        return 1
    work = checkout.cache_dir() / "bench-deploys" / checkout.identity() / ("quick" if quick else "full")
    work.mkdir(parents=True, exist_ok=True)
    offered = cells.quick() if quick and not options.only else cells.every()
    wanted = [cell for cell in offered if options.only in cell.name]
    if not wanted:
        print(
            f"--only: given {options.only!r}; allowed: a part of {', '.join(c.name for c in cells.every())}"
        )
        return 2
    left = [cell for cell in wanted if options.again or quick or not done(work, cell)]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the host goes away with us
    try:
        whole = run(left, work, quick, options.minutes * 60, options.cgroup)
    except KeyboardInterrupt:
        print("\nstopped: what is done is kept, the same command goes on", file=sys.stderr)
        return 130
    results = [json.loads(path(work, cell).read_text()) for cell in wanted if path(work, cell).exists()]
    out = options.out or (work / "page" if quick else ROOT / "benchmarks/results/deploys")
    print(page.write(results, out, quick))
    if not whole:
        print("not all of it is done: run the same command again to go on")
    failed = sum(figures.failed(one) for one in results if one["cell"]["ours"])
    return 1 if failed or not whole else 0


def path(work: Path, cell: Cell) -> Path:
    return work / f"{cell.name}.json"


def done(work: Path, cell: Cell) -> bool:
    """Measured, and it counts: the generator was not at its limit, nobody else had the core."""
    try:
        return not json.loads(path(work, cell).read_text())["not_counted"]
    except (OSError, ValueError, KeyError):
        return False


def run(left: list[Cell], work: Path, quick: bool, seconds: float, cgroup: str) -> bool:
    """Measure what is left, as far as the time allows; whether all of it was."""
    shape = measure.QUICK if quick else measure.FULL
    began, took = time.monotonic(), list[float]()
    if not left:
        return True
    options = ["--cgroup-parent", cgroup] if cgroup else []
    with Host(
        "bench", memory=MEMORY, cpuset=str(MACHINE_CORE), options=options, capabilities=["SYS_NICE"]
    ) as host:
        target, core = Target(host), Core.of(host, MACHINE_CORE)
        target.prepare()
        most: dict[str, float] = {}
        for number, cell in enumerate(left):
            each = sum(took) / len(took) if took else 60.0
            passed = time.monotonic() - began
            if passed + 1.5 * each > seconds:
                return False
            print(
                f"[{number + 1}/{len(left)}] {cell.name:34} {passed / 60:5.1f} min gone, "
                f"about {each * (len(left) - number) / 60:.0f} to go",
                flush=True,
            )
            result = one(target, core, cell, most, shape, work)
            took.append(time.monotonic() - began - passed)
            tell(result)
    return True


def one(
    target: Target, core: Core, cell: Cell, most: dict[str, float], shape: measure.Shape, work: Path
) -> dict[str, Any]:
    """A cell from start to its file."""
    target.serve(cell)
    if cell.worker_class not in most:
        most[cell.worker_class] = measure.capacity(target, core, cell, shape)
    records = work / "records" / f"{cell.name}.gz"
    result = measure.measure(
        target,
        core,
        cell,
        most[cell.worker_class],
        shape,
        records,
        lambda text: print(f"      {text}", flush=True),
    )
    result |= {"versions": figures.versions(target.version), "memory": MEMORY, "date": time.strftime("%F")}
    draft = path(work, cell).with_suffix(".draft")
    draft.write_text(json.dumps(result))
    draft.replace(path(work, cell))
    return result


def tell(result: dict[str, Any]) -> None:
    """A cell's outcome in a line, and its first failures."""
    counts, generator = result["counts"], result["generator"]
    kinds = {name: counts[name] for name in ("refused", "reset", "closed", "unanswered", "status", "body")}
    failed = ", ".join(f"{count} {name}" for name, count in kinds.items() if count) or "0 failed"
    during = result["during"]
    felt = f", {during['p99']:.3f} during, longest {during['max']:.3f}" if result["deploys"] else ""
    if result["cell"]["ours"] and not result["deploys"]:
        felt = f", {result['recycled']} workers recycled"
    print(
        f"      {counts['sent']} requests at {result['rate']:.0f}/s, {failed}; "
        f"p99 {result['steady']['p99']:.3f} s steady{felt}; "
        f"generator {generator['cpu']:.0%}, late p99 {generator['late_p99'] * 1000:.1f} ms"
        + (f"; NOT COUNTED: {result['not_counted']}" if result["not_counted"] else ""),
        flush=True,
    )
    for failure in result["failures"][:3] if result["cell"]["ours"] else []:
        print(f"      FAILED {json.dumps(failure)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
