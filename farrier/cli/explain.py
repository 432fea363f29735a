"""``farrier explain SETTING``: where one number comes from and what would change it.

Without sizing options it explains the plan in force: ``FARRIER_PLAN`` where it is set (a container), the
app's own plan.json on a host that farrier deployed to, and else a plan made for this machine.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from farrier.cli.inputs import add_inputs, given, plan_from
from farrier.errors import FarrierError

if TYPE_CHECKING:
    from farrier.sizing import Plan


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "explain",
        help="say where one number of the plan comes from",
        description="Explains one setting, or lists what can be explained.",
    )
    parser.add_argument(
        "setting", nargs="?", metavar="SETTING", help="such as workers, timeout, db_pool_size"
    )
    parser.add_argument("--app", metavar="NAME", help="the app on this host whose plan is meant")
    add_inputs(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from farrier.sizing import explain

    plan, origin = the_plan(args)
    if args.setting is None:
        print(f"{origin}. It can explain: {', '.join(plan.fields)}.")
        return 0
    name = args.setting.lstrip("-").replace("-", "_")
    if name not in plan.fields:
        raise FarrierError(
            f"explain {args.setting}: no such setting in a plan; there are {', '.join(plan.fields)}"
        )
    print(explain(plan, name))
    print(f"\n({origin})")
    return 0


def the_plan(args: argparse.Namespace) -> tuple[Plan, str]:
    """The plan that is meant, and a phrase that says which one it is."""
    if given(args) and args.app is None:
        return plan_from(args), "A plan for the options you gave"
    if args.app is None and os.environ.get("FARRIER_PLAN"):
        return read_plan(os.environ["FARRIER_PLAN"], "FARRIER_PLAN"), "The plan in FARRIER_PLAN"
    from farrier.cli.apps import deployed, plan_file

    apps = deployed()
    name = args.app or (apps[0] if len(apps) == 1 else None)
    if name is None and len(apps) > 1:
        raise FarrierError(
            f"explain: this host has {len(apps)} apps; say which: --app {' or --app '.join(apps)}"
        )
    if name is None:
        return plan_from(args), "A plan for this machine; nothing is deployed here"
    if name not in apps:
        raise FarrierError(f"--app {name}: no such app on this host; there are {', '.join(apps) or 'none'}")
    path = plan_file(name)
    return read_plan(str(path), str(path)), f"The plan in force of {name}, from {path}"


def read_plan(text_or_path: str, origin: str) -> Plan:
    """A plan from JSON text or from the path of a file that holds it."""
    import json

    from farrier.sizing import Plan

    try:
        text = text_or_path if text_or_path.lstrip().startswith("{") else Path(text_or_path).read_text()
        return Plan.from_dict(json.loads(text))
    except OSError as error:
        raise FarrierError(f"{origin}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise FarrierError(f"{origin}: not a plan of farrier's ({error})") from None
