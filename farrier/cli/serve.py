"""``farrier serve MODULE:APP``: Gunicorn, fitted. Takes every argument that ``gunicorn`` takes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "serve",
        help="serve MODULE:APP with Gunicorn, sized to this machine",
        description="Takes what gunicorn takes; what is not given comes from the plan.",
        add_help=False,
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="as for gunicorn")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    return serve(args.arguments)


def serve(argv: list[str]) -> int:
    """Run until stopped. ``argv`` is what follows ``farrier serve``; the exit status is Gunicorn's."""
    from farrier.serve.application import FarrierApplication

    FarrierApplication(argv).run()
    return 0
