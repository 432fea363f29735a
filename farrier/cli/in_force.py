"""Which plan a person means: the one in force here, or one for the options that were given."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from farrier.cli.inputs import given, plan_from
from farrier.errors import FarrierError

if TYPE_CHECKING:
    from farrier.sizing import Plan


def the_plan(args: argparse.Namespace) -> tuple[Plan, str]:
    """The plan that is meant, and a phrase that says which one it is."""
    if args.app and given(args):
        raise FarrierError(f"--app {args.app}: its plan is in force already; leave the sizing options out")
    if given(args):
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
