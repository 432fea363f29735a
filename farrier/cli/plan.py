"""``farrier plan``: every number for this machine, or for the size you name."""

from __future__ import annotations

import argparse
import shutil

from farrier.cli.in_force import the_plan
from farrier.cli.inputs import add_inputs, plan_from


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "plan",
        help="compute the plan for this machine, or for the size you name",
        description="Computes workers, timeouts, recycling, pools and limits, and says why each is what it "
        "is. Changes nothing.",
    )
    add_inputs(parser)
    parser.add_argument("--app", metavar="NAME", help="the plan in force of an app on this host")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    plan = the_plan(args)[0] if args.app else plan_from(args)
    if args.json:
        import json

        print(json.dumps(plan.to_dict(), indent=2))
    else:
        from farrier.sizing import render_plan

        print(render_plan(plan, width=min(shutil.get_terminal_size((100, 24)).columns, 120)))
    return 0
