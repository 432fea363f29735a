"""`python3 -m lab COMMAND`: what the Makefile calls."""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):
    sys.exit(
        f"lab: Python 3.11 or newer is needed, this is {sys.version.split()[0]}: try make PYTHON=python3.11"
    )

import argparse
import os
import signal

from lab import checks, engine, tools, up
from lab.errors import LabError
from lab.image import RELEASES, ensure_base
from lab.progress import Steps


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="lab", description="Hosts to try Farrier on, and to test it with.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, sentence in (
        ("up", _up, "a host with a real app on it"),
        ("down", _down, "take it away; caches stay"),
        ("clean", _clean, "take it away with all caches"),
        ("deploy", _deploy, "run the playbook on the running host again"),
        ("ssh", _ssh, "open a shell on the running host"),
        ("tools", _tools, "make .venv what requirements/dev.txt pins"),
        ("engine", _engine, "find, or install and start, a Docker engine"),
        ("test", _test, "run all tests"),
        ("lint", _lint, "run all checkers"),
    ):
        commands.add_parser(name, help=sentence).set_defaults(run=run)
    image = commands.add_parser("image", help="make a base image and print its name")
    image.add_argument("release", nargs="?", default="bookworm", choices=RELEASES)
    image.set_defaults(run=_image)
    args = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _end_by_exit)
    try:
        args.run(args)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlab: interrupted; `make up` goes on from here, `make down` takes it away", file=sys.stderr)
        return 130
    return 0


def _end_by_exit(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _up(_args: argparse.Namespace) -> None:
    up.up()


def _down(_args: argparse.Namespace) -> None:
    up.down()


def _clean(_args: argparse.Namespace) -> None:
    up.down(everything=True)


def _deploy(_args: argparse.Namespace) -> None:
    up.deploy()


def _ssh(_args: argparse.Namespace) -> None:
    host = up.running_host()
    os.execvp("ssh", ["ssh", "-t", *host.ssh_args])  # noqa: S606 (a person's shell)


def _tools(_args: argparse.Namespace) -> None:
    with Steps() as steps, steps.step(tools.STEP) as outcome:
        outcome.append(tools.ensure(steps))


def _engine(_args: argparse.Namespace) -> None:
    with Steps() as steps, steps.step("Docker engine") as outcome:
        found = engine.ensure(install=True, steps=steps)
        outcome.append(f"{found.version}, cgroup v{found.cgroup_version}")


def _image(args: argparse.Namespace) -> None:
    engine.ensure(install=True)
    print(ensure_base(args.release))


def _test(_args: argparse.Namespace) -> None:
    checks.test()


def _lint(_args: argparse.Namespace) -> None:
    checks.lint()


if __name__ == "__main__":
    sys.exit(main())
