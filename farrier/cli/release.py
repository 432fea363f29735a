"""``farrier release``: deploy, list, show, roll back and remove the apps of this host."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farrier.release.apply import Result


def register(subparsers: Any) -> None:
    """Adds ``release`` and its commands."""
    parser = subparsers.add_parser("release", help="deploy, list, roll back and remove the apps of this host")
    parser.set_defaults(run=run)
    commands = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    apply = commands.add_parser("apply", help="bring this host to a spec: JSON in a file, or - for stdin")
    apply.add_argument("spec", metavar="SPEC.json|-")
    apply.add_argument("--check", action="store_true", help="say what would change; touch nothing")
    apply.add_argument("--diff", action="store_true", help="show the files that change, secrets masked")
    rollback = commands.add_parser("rollback", help="serve an earlier release again")
    rollback.add_argument("name")
    rollback.add_argument("--to", metavar="RELEASE", help="which (default: the one before)")
    listing = commands.add_parser("list", help="the releases of an app")
    listing.add_argument("name")
    show = commands.add_parser("show", help="what serves, and what happened last")
    show.add_argument("name")
    remove = commands.add_parser("remove", help="take an app off this host")
    remove.add_argument("name")
    remove.add_argument("--keep-data", action="store_true", help="leave its shared folder")
    work = commands.add_parser("work")
    work.add_argument("name")
    for one in (apply, rollback, listing, show, remove):
        one.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Runs the command; exit status 2 if it was refused, 1 if it was tried and failed."""
    from farrier.errors import FarrierError

    commands = {
        "apply": _apply,
        "rollback": _rollback,
        "list": _list,
        "show": _show,
        "remove": _remove,
        "work": _work,
    }
    try:
        return commands[args.what](args)
    except FarrierError as error:
        if not getattr(args, "json", False):
            raise
        from farrier.release.apply import Result

        print(json.dumps(Result(failed=True, msg=str(error)).to_dict()))
        return error.status


def _apply(args: argparse.Namespace) -> int:
    from farrier.release.apply import apply, read_spec

    return _ended(args, apply(read_spec(args.spec), check=args.check, diff=args.diff, say=_said))


def _rollback(args: argparse.Namespace) -> int:
    from farrier.release.apply import rollback

    return _ended(args, rollback(args.name, args.to, _who(), _said))


def _remove(args: argparse.Namespace) -> int:
    from farrier.release.apply import apply
    from farrier.release.spec import Spec
    from farrier.release.state import layout_of

    layout = layout_of(args.name)
    data = {"name": args.name, "state": "absent", "root": str(layout.root), "keep_data": args.keep_data}
    return _ended(args, apply(Spec.from_mapping({**data, "who": _who()}), say=_said))


def _list(args: argparse.Namespace) -> int:
    from farrier.release.apply import listed

    found = listed(args.name)
    if args.json:
        print(json.dumps({"name": args.name, "releases": found}))
        return 0
    for one in found:
        mark = "*" if one["active"] else "-" if one["previous"] else " "
        print(
            f"{mark} {one['id']}  {one['source'][:52]:52}  Python {one['python']}, gunicorn {one['gunicorn']}"
        )
    return 0


def _show(args: argparse.Namespace) -> int:
    from farrier.release.apply import shown

    found = shown(args.name)
    if args.json:
        print(json.dumps(found))
        return 0
    print(f"{found['name']}  {found['url']}  release {found['release']} on {found['active']}")
    for colour, unit in found["colours"].items():
        print(f"  {colour:6} {unit['ActiveState']} ({unit['SubState']}), pid {unit['MainPID']}")
    if found["deploying"]:
        print(f"  {found['deploying']}")
    for entry in found["history"][-5:]:
        print(
            f"  {entry['time']}  {entry['outcome']:6} {entry['release'] or ''}  {entry['message']}".rstrip()
        )
    return 0


def _work(args: argparse.Namespace) -> int:
    from farrier.release.apply import work

    return work(args.name)


def _ended(args: argparse.Namespace, result: Result) -> int:
    """Prints what came of it: one JSON object, or what a person reads."""
    from farrier.release.apply import unified

    if args.json:
        print(json.dumps(result.to_dict()))
        return result.status
    if result.diff and getattr(args, "diff", False):
        print(unified(result.diff), end="")
    if getattr(args, "check", False):
        for step in result.steps:
            print(f"would {step.name:14} {step.detail}".rstrip())
    if result.failed:
        print(f"farrier: {result.msg}", file=sys.stderr)
    else:
        print(result.msg or "nothing to change")
    return result.status


def _said(event: Mapping[str, Any]) -> None:
    """Progress for a person: a line for each step that did something."""
    if event["event"] == "done" and event.get("changed"):
        print(
            f"{event['step']:14} {event['seconds']:7.1f} s  {event['detail']}".rstrip(),
            file=sys.stderr,
            flush=True,
        )
    elif event["event"] == "failed":
        print(f"{event['step']:14}  failed", file=sys.stderr, flush=True)


def _who() -> str:
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or "root"
