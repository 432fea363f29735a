"""Finds the command, imports only that one, runs it, and prints errors as one line."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from farrier import __version__
from farrier.errors import FarrierError

# command: the line that help shows; the module of the same name in this package holds it
COMMANDS = {
    "plan": "compute the plan for this machine, or for the size you name",
    "explain": "say where one number of the plan comes from",
    "measure": "measure what an app takes, for the plan to go by",
    "serve": "run an app under Gunicorn with the plan (takes what gunicorn takes)",
    "probe": "ask a URL once: exit status 0 if it is healthy",
    "status": "what runs here now",
    "doctor": "what looks wrong here, and what to change",
    "release": "deploy, list, roll back and remove the apps of this host",
    "bench": "run a benchmark of this checkout",
    "completion": "print the completion script for a shell",
}


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see: {self.prog} --help)\n")


def build_parser(only: str | None = None) -> Parser:
    """The whole parser, or the one of a single command (its module alone is imported)."""
    parser = Parser(prog="farrier", description="Farrier fits Gunicorn to the machine it runs on.")
    parser.add_argument("--version", action="version", version=f"farrier {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name in [only] if only else COMMANDS:
        importlib.import_module(f"farrier.cli.{name}").register(subparsers)
    return parser


def overview() -> str:
    """What a bare ``farrier`` or ``farrier --help`` prints, without importing any command."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name.ljust(width)}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: farrier COMMAND [OPTIONS]",
            "",
            "Farrier fits Gunicorn to the machine it runs on.",
            "",
            *lines,
            "",
            "farrier COMMAND --help shows a command's options; farrier --version the version.",
        ]
    )


def dispatch(argv: Sequence[str]) -> int:
    """Run one command; returns its exit status."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    command = argv[0]
    if command == "serve":  # Gunicorn parses its own arguments, --help among them
        from farrier.cli.serve import serve

        return serve(list(argv[1:]))
    if not command.startswith("-") and command not in COMMANDS:
        raise FarrierError(f"farrier {command}: no such command; there are {', '.join(COMMANDS)}")
    parser = build_parser(command if command in COMMANDS else None)
    args = parser.parse_args(list(argv))
    status: int = args.run(args)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``farrier``. Exit status 2 means refused, 1 tried and failed."""
    from farrier.sizing.units import SizingError

    try:
        return dispatch(sys.argv[1:] if argv is None else argv)
    except FarrierError as error:
        print(f"farrier: {error}", file=sys.stderr)
        return error.status
    except SizingError as error:
        print(f"farrier: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # the reader of a pipe (head, less) has gone: not a failure of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
