"""``farrier explain SETTING``: where one number comes from and what would change it.

Without sizing options it explains the plan in force: ``FARRIER_PLAN`` where it is set (a container), the
app's own plan.json on a host that farrier deployed to, and else a plan made for this machine.
"""

from __future__ import annotations

import argparse

from farrier.cli.in_force import the_plan
from farrier.cli.inputs import add_inputs
from farrier.errors import FarrierError


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
