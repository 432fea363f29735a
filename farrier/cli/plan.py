"""``farrier plan``: every number for this machine, or for the size you name."""

from __future__ import annotations

import argparse
import shutil
import sys

from farrier.cli.in_force import the_plan
from farrier.cli.inputs import add_inputs, plan_from, read_json, read_machine, read_settings
from farrier.errors import FarrierError


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "plan",
        help="compute the plan for this machine, or for the size you name",
        description="Computes workers, timeouts, recycling, pools and limits, and says why each is what it "
        "is. Changes nothing.",
    )
    add_inputs(parser)
    parser.add_argument("--app", metavar="NAME", help="the plan in force of an app on this host")
    parser.add_argument(
        "--apps",
        metavar="FILE",
        help="several apps on this machine, by weight: a JSON list of name, weight, workload, measurement, "
        "settings; - reads standard input",
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.apps is not None:
        return _run_several(args)
    plan = the_plan(args)[0] if args.app else plan_from(args)
    if args.json:
        import json

        print(json.dumps(plan.to_dict(), indent=2))
    else:
        from farrier.sizing import render_plan

        print(render_plan(plan, width=min(shutil.get_terminal_size((100, 24)).columns, 120)))
    return 0


def _run_several(args: argparse.Namespace) -> int:
    names = ("workload", "framework", "app_memory", "measured", "app")
    one = next((name for name in names if getattr(args, name) is not None), None)
    if one is not None:
        option = "--" + one.replace("_", "-")
        raise FarrierError(f"--apps {args.apps}: {option} speaks of one app: say it in the file instead")
    from farrier.cli.several import planned, render

    budget = read_machine(args)
    parts, warnings = planned(
        read_json(args.apps, "--apps"), budget, read_settings(args), f"--apps {args.apps}"
    )
    if args.json:
        import json

        found = {
            part.name: {"part": part.part, "by_weight": part.by_weight, "plan": part.plan.to_dict()}
            for part in parts
        }
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
        print(json.dumps(found, indent=2))
    else:
        print(render(parts, budget, warnings))
    return 0
