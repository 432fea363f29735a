"""``farrier release``: deploy, reload, list, show, roll back, mark and remove the apps of this host."""

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
    apply.add_argument("--retry-bad", action="store_true", help="deploy it even if it was rolled back before")
    rollback = commands.add_parser("rollback", help="serve an earlier release again")
    rollback.add_argument("name")
    rollback.add_argument("--to", metavar="RELEASE", help="which (default: the good one before)")
    rollback.add_argument("--force", action="store_true", help="also to one that is marked as bad")
    reload = commands.add_parser("reload", help="read the settings anew, without a restart (HUP)")
    reload.add_argument("name")
    listing = commands.add_parser("list", help="what was deployed, how it went, and which releases are kept")
    listing.add_argument("name")
    mark = commands.add_parser("mark", help="say that a release is bad (no rollback takes it), or good again")
    mark.add_argument("name")
    mark.add_argument("release")
    verdict = mark.add_mutually_exclusive_group(required=True)
    verdict.add_argument("--bad", metavar="WHY", help="what is wrong with it")
    verdict.add_argument("--good", action="store_true", help="nothing is")
    show = commands.add_parser("show", help="what serves, and what happened last")
    show.add_argument("name")
    remove = commands.add_parser("remove", help="take an app off this host")
    remove.add_argument("name")
    remove.add_argument("--keep-data", action="store_true", help="leave its shared folder")
    for unit in ("work", "recover"):
        commands.add_parser(unit).add_argument("name")
    for one in (apply, rollback, reload, listing, mark, show, remove):
        one.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Runs the command; exit status 2 if it was refused, 1 if it was tried and failed."""
    from farrier.errors import FarrierError

    commands = {
        "apply": _apply,
        "rollback": _rollback,
        "reload": _reload,
        "list": _list,
        "mark": _mark,
        "show": _show,
        "remove": _remove,
        "work": _work,
        "recover": _recover,
    }
    try:
        if args.what != "work":
            # On one CPU every millisecond of ours is one that a request waits.
            from farrier.release import priority

            priority.step_back()
        return commands[args.what](args)
    except FarrierError as error:
        if not getattr(args, "json", False):
            raise
        from farrier.release.apply import Result

        print(json.dumps(Result(failed=True, msg=str(error)).to_dict()))
        return error.status


def _apply(args: argparse.Namespace) -> int:
    from farrier.release.apply import apply, read_spec

    more = {"retry_bad": True} if args.retry_bad else {}
    spec = read_spec(args.spec, who=_who(), **more)
    return _ended(args, apply(spec, check=args.check, diff=args.diff, say=_Progress()))


def _rollback(args: argparse.Namespace) -> int:
    from farrier.release.apply import rollback

    return _ended(args, rollback(args.name, args.to, _who(), _Progress(), args.force))


def _reload(args: argparse.Namespace) -> int:
    from farrier.release.apply import reload

    return _ended(args, reload(args.name, _who(), _Progress()))


def _mark(args: argparse.Namespace) -> int:
    from farrier.release.apply import mark
    from farrier.release.history import told

    release = mark(args.name, args.release, None if args.good else args.bad, _who())
    if args.json:
        print(json.dumps({"name": args.name, "release": release.id, "bad": release.bad}))
    else:
        print(f"{release.id} is " + (f"bad: {told(release.bad)}" if release.bad else "good"))
    return 0


def _remove(args: argparse.Namespace) -> int:
    from farrier.release.apply import apply
    from farrier.release.spec import Spec
    from farrier.release.state import layout_of

    layout = layout_of(args.name)
    data = {"name": args.name, "state": "absent", "root": str(layout.root), "keep_data": args.keep_data}
    return _ended(args, apply(Spec.from_mapping({**data, "who": _who()}), say=_Progress()))


def _list(args: argparse.Namespace) -> int:
    from farrier.release.history import lines, listed

    found = listed(args.name)
    if args.json:
        print(json.dumps(found))
        return 0
    for line in lines(found):
        print(line)
    return 0


def _show(args: argparse.Namespace) -> int:
    from farrier.release.history import plan_stands_on, shown

    found = shown(args.name)
    if args.json:
        print(json.dumps(found))
        return 0
    print(f"{found['name']}  {found['url']}  release {found['release']} on {found['active']}")
    print(f"  the plan stands on {plan_stands_on(found['measured'])}")
    for line in (found["measured"] or {}).get("told") or ():
        print(f"    {line}")
    for colour, unit in found["colours"].items():
        print(f"  {colour:6} {unit['ActiveState']} ({unit['SubState']}), pid {unit['MainPID']}")
    if found["deploying"]:
        print(f"  {found['deploying']}")
    for entry in found["history"][-5:]:
        print(
            f"  {entry['time']}  {entry['outcome']:11} {entry['release'] or ''}  {entry['message']}".rstrip()
        )
    return 0


def _work(args: argparse.Namespace) -> int:
    from farrier.release.apply import work

    return work(args.name)


def _recover(args: argparse.Namespace) -> int:
    from farrier.release.machine import recover

    recover(args.name)
    return 0


def _ended(args: argparse.Namespace, result: Result) -> int:
    """Prints what came of it: one JSON object, or what a person reads."""
    from farrier.release.diffs import unified

    if args.json:
        print(json.dumps(result.to_dict()))
        return result.status
    if result.diff and getattr(args, "diff", False):
        print(unified(result.diff), end="")
    if getattr(args, "check", False):
        for step in result.steps:
            print(f"would {step.name:14} {step.detail}".rstrip())
    for line in result.warnings:
        print(f"farrier: warning: {line}", file=sys.stderr)
    if result.failed:
        print(f"farrier: {result.msg}", file=sys.stderr)
    else:
        print(result.msg or "nothing to change")
    return result.status


class _Progress:
    """Progress for a person: a line for each step that did something, and what the guard sees meanwhile."""

    def __init__(self) -> None:
        self._step = ""

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "start":
            self._step = event["step"]
        elif event["event"] == "line" and self._step == "guard":
            self._say(f"{'':14}            {event['detail']}")
        elif event["event"] == "done" and event.get("changed"):
            self._say(f"{event['step']:14} {event['seconds']:7.1f} s  {event['detail']}".rstrip())
        elif event["event"] == "failed":
            self._say(f"{event['step']:14}  failed")

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _who() -> str:
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or "root"
