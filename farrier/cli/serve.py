"""``farrier serve MODULE:APP``: Gunicorn, fitted. Takes every argument that ``gunicorn`` takes."""

from __future__ import annotations

import argparse
import os
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from farrier.errors import FarrierError

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
    _settle_web_concurrency(os.environ)
    from farrier.serve import quiet

    quiet.begin(os.environ)
    from farrier.serve.application import FarrierApplication

    FarrierApplication(argv).run()
    return 0


def _settle_web_concurrency(environ: MutableMapping[str, str]) -> None:
    """Gunicorn reads it while it is imported, and ends in a traceback on anything but a number."""
    given = environ.get("WEB_CONCURRENCY")
    if given is None:
        return
    if not given.strip():
        del environ["WEB_CONCURRENCY"]
        return
    try:
        int(given)
    except ValueError:
        raise FarrierError(
            f"WEB_CONCURRENCY={given}: must be a whole number of workers (unset it for the plan's)"
        ) from None
