"""``farrier measure MODULE:APP``: what an app takes, found by running it here."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from farrier.errors import FarrierError

if TYPE_CHECKING:
    from farrier.measure.session import Question

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

#: Seconds: what --seconds allows. Below the first not even an import would be over.
LEAST, MOST = 2.0, 3600.0


def register(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "measure",
        help="measure what an app takes, for the plan to go by",
        description="Boots the app as it will serve, sends it the requests that you name, and measures its "
        "memory, its growth, its times and whether preloading it is safe. All that it starts it ends.",
    )
    parser.add_argument("app", metavar="MODULE:APP", help="such as app.main:app or app.main:create_app()")
    parser.add_argument(
        "--request",
        metavar="REQUEST",
        action="append",
        default=[],
        help='"GET /" or "POST /orders {\\"id\\": 1}"; may be repeated (default GET /)',
    )
    parser.add_argument(
        "--header",
        metavar="HEADER",
        action="append",
        default=[],
        help='sent with each request, such as "Host: shop.example"; may be repeated',
    )
    parser.add_argument("--seconds", metavar="SECONDS", default="20", help="bound on all of it (default 20)")
    parser.add_argument(
        "--worker-class", metavar="CLASS", help="sync, gthread, asgi, uvicorn or gevent (default: the plan's)"
    )
    parser.add_argument("--memory", metavar="SIZE", help="plan for so much memory, such as 512MiB or 2g")
    parser.add_argument("--cpus", metavar="N", help="plan for so many CPUs, such as 1, 0.5 or 500m")
    parser.add_argument("--chdir", metavar="FOLDER", default=".", help="the app's folder (default: this one)")
    parser.add_argument("--pythonpath", metavar="PATHS", help="folders to import from, separated by commas")
    parser.add_argument(
        "--env",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a variable for the app beside those that are set here; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print the measurement as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    question = asked(args)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    from farrier.measure.server import AppFailed
    from farrier.measure.session import measure

    try:
        found = measure(question)
    except AppFailed as error:
        _show_log(error.log)
        raise
    log, failed = found.pop("log"), found["failed"]
    _print(found, args.json)
    if failed is not None:
        _show_log(log)
        raise FarrierError(failed, 1)
    return 0


def _leave(number: int, _frame: object) -> None:
    """Unwinds, so that everything that was started is ended."""
    raise SystemExit(128 + number)


def _print(found: dict[str, Any], as_json: bool) -> None:
    try:
        print(_text(found, as_json), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        # What could not be written would be tried again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise FarrierError(f"the measurement could not be written: {error.strerror}", 1) from None


def _text(found: dict[str, Any], as_json: bool) -> str:
    """A program reads one line, a person at a terminal an indented one."""
    if as_json:
        import json

        return json.dumps(found, indent=2 if sys.stdout.isatty() else None)
    import shutil

    from farrier.measure.table import render

    text = render(found, min(shutil.get_terminal_size((100, 24)).columns, 120))
    if found["failed"] is not None:
        return text
    return f"{text}\n\nTo plan with it: add --json > FILE, then farrier plan --measured FILE"


def _show_log(lines: list[str] | tuple[str, ...]) -> None:
    for line in lines:
        print(f"  | {line}", file=sys.stderr)


def asked(args: argparse.Namespace) -> Question:
    """Raises FarrierError or SizingError, one line that names the option."""
    from farrier.cli.inputs import read_machine
    from farrier.measure.asking import Request, parse_header
    from farrier.measure.session import Question

    environ = dict(os.environ)
    for pair in args.env:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise FarrierError(f"--env {pair}: give NAME=VALUE")
        environ[name] = value
    if ":" not in args.app and "." not in args.app and not args.app.isidentifier():
        raise FarrierError(f"{args.app}: give MODULE:APP, such as app.main:app or app.main:create_app()")
    if not os.path.isdir(args.chdir):  # noqa: PTH112 - as short as it gets
        raise FarrierError(f"--chdir {args.chdir}: must be a folder")
    return Question(
        app=args.app,
        requests=[Request.parse(text) for text in args.request or ["GET /"]],
        headers=[parse_header(text) for text in args.header],
        seconds=_seconds(args.seconds),
        worker_class=_worker_class(args.worker_class, environ),
        budget=read_machine(args),
        chdir=os.path.realpath(args.chdir),
        pythonpath=_absolute(args.pythonpath, args.chdir),
        environ=environ,
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not LEAST <= seconds <= MOST:
        raise FarrierError(f"--seconds {text}: must be a number of seconds from {LEAST:g} to {MOST:g}")
    return seconds


def _worker_class(option: str | None, environ: dict[str, str]) -> str | None:
    """As farrier serve takes it: the option, else WORKER_CLASS; None: nobody chose."""
    from farrier.sizing import Settings, normalise_worker_class

    if option is not None:
        return normalise_worker_class(option)
    chosen = Settings.from_environ(environ).value("worker_class")
    return None if chosen is None else str(chosen)


def _absolute(paths: str | None, folder: str) -> str | None:
    """As Gunicorn has them: relative to the app's folder."""
    if paths is None:
        return None
    return ",".join(os.path.realpath(os.path.join(folder, one)) for one in paths.split(",") if one)  # noqa: PTH118
