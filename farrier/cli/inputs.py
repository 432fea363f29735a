"""The options that describe a machine, an app and a person's choices, shared by plan and explain."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from farrier.errors import FarrierError

if TYPE_CHECKING:
    from farrier.sizing import Budget, Plan, Settings, Workload

KINDS = ("io", "cpu", "mixed", "async")


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the sizing options. Nothing is converted here: sizing itself says what is wrong with a value."""
    machine = parser.add_argument_group("the machine (default: what this process really gets)")
    machine.add_argument("--memory", metavar="SIZE", help="memory, such as 512MiB or 2g")
    machine.add_argument("--cpus", metavar="N", help="CPUs, such as 1, 0.5 or 500m")
    machine.add_argument(
        "--runtime",
        metavar="RUNTIME",
        help="what stops the app: systemd, docker, cloudrun, kubernetes or none",
    )
    app = parser.add_argument_group(
        "the app (default: a Flask- or Django-sized one that waits for a database)"
    )
    app.add_argument("--workload", metavar="KIND", help=f"what it does: {', '.join(KINDS)}")
    app.add_argument("--worker-class", metavar="CLASS", help="sync, gthread, asgi, uvicorn or gevent")
    app.add_argument("--framework", metavar="NAME", help="django, flask or fastapi")
    app.add_argument("--app-memory", metavar="SIZE", help="memory of one process after its import")
    app.add_argument(
        "--measured", metavar="FILE", help="what farrier measure --json printed of it; - reads standard input"
    )
    choices = parser.add_argument_group(
        "your choices (default: WORKERS, WEB_CONCURRENCY … as serve reads them)"
    )
    choices.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a setting of yours, such as workers=3 or database_max_connections=100; may be repeated",
    )
    choices.add_argument(
        "--no-environment", action="store_true", help="leave WORKERS and the like in the environment out"
    )


def given(args: argparse.Namespace) -> bool:
    """Whether any sizing option was used."""
    names = ("memory", "cpus", "runtime", "workload", "worker_class", "framework", "app_memory", "measured")
    return bool(args.set) or any(getattr(args, name) is not None for name in names)


def read_inputs(args: argparse.Namespace) -> tuple[Budget, Workload, Settings]:
    """Budget, workload and settings from the options, this machine and its environment."""
    settings = read_settings(args)
    _check_app(args)
    return read_machine(args), _read_workload(args, settings), settings


def _read_workload(args: argparse.Namespace, settings: Settings) -> Workload:
    from farrier.sizing import Workload, workload_of

    setting = settings.get("worker_class")
    given = {
        "kind": args.workload,
        "worker_class": None if setting is None else str(setting.value),
        "framework": args.framework,
        "app_memory": args.app_memory,
    }
    if args.measured is None:
        return Workload.profile(**given)
    measurement = read_json(args.measured, "--measured")
    if not isinstance(measurement, dict):
        raise FarrierError(
            f"--measured {args.measured}: must be the object that farrier measure --json prints"
        )
    try:
        return workload_of(measurement, given)
    except ValueError as error:
        raise FarrierError(f"--measured {args.measured}: {error}") from None


def read_json(path: str, option: str) -> object:
    """What a file holds, or standard input for ``-``. Raises FarrierError that names the option."""
    import json
    import sys
    from pathlib import Path

    def refuse(name: str) -> object:
        raise ValueError(f"{name} is no number that JSON has")

    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        return json.loads(text, parse_constant=refuse)  # NaN, Infinity
    except RecursionError:
        raise FarrierError(f"{option} {path}: is no JSON that farrier prints: too deeply nested") from None
    except OSError as error:
        raise FarrierError(f"{option} {path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise FarrierError(f"{option} {path}: is no JSON: {error}") from None


def read_settings(args: argparse.Namespace) -> Settings:
    """A person's choices from the options and the environment."""
    from farrier.sizing import Settings

    chosen: dict[str, object] = {}
    for pair in args.set:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise FarrierError(f"--set {pair}: give NAME=VALUE, such as --set workers=3")
        chosen[name.strip().replace("-", "_")] = value.strip()
    settings = Settings.from_mapping(chosen, "--set")
    if args.runtime is not None:
        settings = Settings.merged(Settings.from_mapping({"runtime": args.runtime}, "--runtime"), settings)
    if args.worker_class is not None:
        wanted = Settings.from_mapping({"worker_class": args.worker_class}, "--worker-class")
        settings = Settings.merged(wanted, settings)
    if not args.no_environment:
        settings = Settings.merged(settings, Settings.from_environ(os.environ))
    return settings


def _check_app(args: argparse.Namespace) -> None:
    """Raises FarrierError that names the option by which the app was described wrongly."""
    from farrier.sizing.workload import FRAMEWORKS

    for option, given, allowed in (
        ("--workload", args.workload, KINDS),
        ("--framework", args.framework, FRAMEWORKS),
    ):
        if given is not None and given not in allowed:
            raise FarrierError(f"{option} {given}: must be one of {', '.join(allowed)}")
    if args.app_memory is not None:
        _size("--app-memory", args.app_memory)


def _size(option: str, given: str) -> int:
    """Bytes above 0. Raises FarrierError that names the option."""
    from farrier.sizing import parse_bytes
    from farrier.sizing.units import SizingError

    try:
        size = parse_bytes(given)
    except SizingError as error:
        raise FarrierError(f"{option} {given}: {error}") from None
    if size <= 0:
        raise FarrierError(f"{option} {given}: must be a size above 0, such as 512MiB")
    return size


def read_machine(args: argparse.Namespace) -> Budget:
    """The budget that was given; what was not given comes from this machine."""
    from farrier.sizing import Budget, parse_cpus, read_budget
    from farrier.sizing.units import SizingError

    memory = None if args.memory is None else _size("--memory", args.memory)
    try:
        cpus = None if args.cpus is None else parse_cpus(args.cpus)
    except SizingError as error:
        raise FarrierError(f"--cpus {args.cpus}: {error}") from None
    if memory is not None and cpus is not None:
        return Budget.given(memory, cpus)
    here = read_budget()
    if memory is None and cpus is None:
        return here
    return Budget.given(here.memory_bytes if memory is None else memory, here.cpus if cpus is None else cpus)


def plan_from(args: argparse.Namespace) -> Plan:
    """The plan for the options."""
    from farrier.sizing import plan

    return plan(*read_inputs(args))
