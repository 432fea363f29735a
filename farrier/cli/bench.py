"""``farrier bench NAME``: runs a benchmark of the checkout that one stands in, with that checkout's tools.

The benchmarks need Docker, plots and pinned tools; they come with the repository and are in no wheel.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from farrier.errors import FarrierError

#: Each is benchmarks/NAME/run.py of a checkout.
BENCHMARKS = {"matrix": "what an app does on 256 MB to 8 GB, beside Gunicorn as it is usually configured"}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "bench",
        help="run a benchmark of this checkout",
        description="Runs a benchmark of the checkout that you stand in. What is done is kept, so that a run "
        "that was stopped goes on when it is called again.",
    )
    parser.add_argument(
        "benchmark", choices=list(BENCHMARKS), help="; ".join(f"{k}: {v}" for k, v in BENCHMARKS.items())
    )
    parser.add_argument("--only", metavar="TEXT", help="only runs whose name holds TEXT")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="begin nothing that would end after N minutes"
    )
    parser.add_argument("--again", action="store_true", help="measure anew what is done")
    parser.add_argument("--keep", action="store_true", help="what an earlier farrier did is done too")
    parser.add_argument("--quick", action="store_true", help="a few runs of seconds, to see that it works")
    parser.add_argument("--page", action="store_true", help="measure nothing, only write the page")
    parser.add_argument("--list", action="store_true", help="the names of the runs, and which are done")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    root = checkout(Path.cwd())
    if root is None:
        raise FarrierError(
            f"bench {args.benchmark}: given {Path.cwd()}; allowed: a checkout of the repository, "
            "for the benchmarks come with it",
            2,
        )
    # The child hears Ctrl-C itself and ends what it started; we wait for it.
    child = subprocess.Popen([str(python(root)), str(root / script(args.benchmark)), *options(args)])
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue


def script(benchmark: str) -> str:
    """A benchmark's program, from the checkout's root."""
    return f"benchmarks/{benchmark}/run.py"


def checkout(start: Path) -> Path | None:
    """The checkout that a folder lies in, or the one that this very package is part of."""
    for folder in (start, *start.parents, Path(__file__).resolve().parents[2]):
        if all((folder / script(name)).is_file() for name in BENCHMARKS) and (folder / "lab").is_dir():
            return folder
    return None


def python(root: Path) -> Path:
    """The checkout's own interpreter, which has the pinned tools (`make tools`), else this one."""
    own = root / ".venv" / "bin" / "python"
    return own if own.exists() else Path(sys.executable)


def options(args: argparse.Namespace) -> list[str]:
    """What was given, as the program itself takes it."""
    found = [f"--{name}" for name in ("again", "keep", "quick", "page", "list") if getattr(args, name)]
    for name in ("only", "minutes"):
        if (value := getattr(args, name)) is not None:
            found += [f"--{name}", f"{value:g}" if isinstance(value, float) else value]
    return found
