"""``farrier probe URL``: is it healthy? Exit status 0 yes, 1 no, 2 the question was wrong."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "probe",
        help="ask a URL once and say whether it is healthy",
        description="One request, one line, exit status 0 (healthy), 1 (not), 2 (wrong question).",
    )
    parser.add_argument("url", help="http://…, https://… or unix:/run/app.sock:/health")
    parser.add_argument(
        "--timeout", type=float, default=5.0, metavar="SECONDS", help="for all of it (default 5)"
    )
    parser.add_argument(
        "--expect",
        type=statuses,
        default=(200,),
        metavar="STATUS",
        help="status that means healthy, or several: 200,204 (default 200)",
    )
    parser.add_argument("--insecure", action="store_true", help="do not verify the certificate")
    parser.add_argument("--ca", metavar="FILE", help="PEM file of the authorities to trust")
    parser.add_argument("--quiet", "-q", action="store_true", help="say nothing when healthy")
    parser.set_defaults(run=run)


def statuses(text: str) -> tuple[int, ...]:
    found = tuple(int(word) for word in text.split(",") if word.strip().isdigit())
    if not found or len(found) != len(text.split(",")) or not all(100 <= status <= 599 for status in found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a status from 100 to 599 (or several: 200,204)")
    return found


def run(args: argparse.Namespace) -> int:
    from farrier.probe import probe

    status, line = probe(args.url, args.timeout, args.expect, args.insecure, args.ca)
    if status or not args.quiet:
        print(line, file=sys.stderr if status else sys.stdout)
    return status
