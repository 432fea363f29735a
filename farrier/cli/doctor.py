"""``farrier doctor``: what looks wrong here, and what to change. Exit status 1 when something is wrong."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING

from farrier.cli import apps
from farrier.release.layout import ETC

if TYPE_CHECKING:
    from farrier.doctor import Finding

MARKS = {"ok": "ok   ", "look": "look ", "wrong": "WRONG", "unknown": "?    "}
# Arbiters tell their figures once a second: long enough to see what is answered now.
WATCH_SECONDS = 2.0
COLOURS = {"ok": "32", "look": "33", "wrong": "31;1", "unknown": "2"}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="what looks wrong here, and what to change",
        description="Examines the apps that farrier deployed to this host, and else the server beside it "
        "(in a container: by FARRIER_RUN_DIR and FARRIER_PLAN): settings in force against the plan, "
        "limits, memory and swap, the listen queue, descriptors, /dev/shm, disk and health. Changes nothing.",
    )
    parser.add_argument("app", nargs="?", metavar="NAME", help="one app (default: all of this host)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from farrier.doctor import examine
    from farrier.doctor.collect import again, collect, collect_here

    names = apps.chosen(args.app)
    looked = [collect(name) for name in names] or [collect_here(os.environ)]
    if any(one.traffic for one in looked):
        time.sleep(WATCH_SECONDS)
    seen = [again(one) for one in looked]
    found = {one.name: examine(one) for one in seen}
    if not names:
        here, findings = seen[0], found[seen[0].name]
        if here.pid is None:
            where = "FARRIER_RUN_DIR is not set" if not os.environ.get("FARRIER_RUN_DIR") else "none runs"
            print(f"No app of farrier's here (looked in {ETC}; {where}): only the machine is examined.")
            findings = [finding for finding in findings if finding.level != "unknown"]
        found = {here.name: findings}
    if args.json:
        import json
        from dataclasses import asdict

        print(json.dumps({name: [asdict(f) for f in findings] for name, findings in found.items()}, indent=2))
    else:
        for name, findings in found.items():
            print(report(name, findings, colour=sys.stdout.isatty()))
    return 1 if any(f.level == "wrong" for findings in found.values() for f in findings) else 0


def report(name: str, findings: list[Finding], colour: bool = False) -> str:
    """Findings as lines, what is wrong first."""
    order = ["wrong", "look", "unknown", "ok"]
    lines = [f"{name}: {summary(findings)}"]
    for finding in sorted(findings, key=lambda f: order.index(f.level)):
        mark = MARKS[finding.level]
        if colour:
            mark = f"\033[{COLOURS[finding.level]}m{mark}\033[0m"
        lines.append(f"  {mark}  {finding.check:<12}{finding.seen}")
        if finding.change:
            lines.append(f"         {'':<12}-> {finding.change}")
    return "\n".join(lines)


def summary(findings: list[Finding]) -> str:
    wrong = sum(f.level == "wrong" for f in findings)
    look = sum(f.level == "look" for f in findings)
    if not wrong and not look:
        return "nothing to change"
    parts = [f"{wrong} wrong"] if wrong else []
    parts += [f"{look} worth a look"] if look else []
    return ", ".join(parts)
