"""``farrier release apply`` and the rest: look, preview, or start the working unit and follow it."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FarrierError
from ..sizing.units import SizingError
from . import (
    account,
    diffs,
    events,
    files,
    history,
    notify,
    preflight,
    priority,
    remove,
    runtime,
    systemd,
)
from . import state as states
from .events import Journal, Step
from .layout import Layout
from .machine import Machine, Stopped
from .spec import Spec
from .state import Release, State
from .view import View, look, unmeasured

if TYPE_CHECKING:
    from ..sizing.plan import Plan

Say = Callable[[Mapping[str, Any]], None]
# Seconds to wait for a run of another spec, and between two looks at it.
WAIT = 60.0
WAIT_AGAIN = 0.3
# Seconds that a removal waits for a run to be gone that has ended; for one that works it does not.
REMOVAL_WAIT = 2.0
# The release machine's own share while it builds: it must never be why the app is slow or gets killed.
DEPLOY_PROPERTIES = (
    "Type=exec",
    "KillMode=mixed",
    "Nice=10",
    "IOSchedulingClass=best-effort",
    "IOSchedulingPriority=7",
    "OOMScoreAdjust=700",
    "OOMPolicy=continue",
    "TimeoutStopSec=300",
    "UMask=0022",
)


@dataclass
class Result:
    """What ``--json`` prints: one object."""

    changed: bool = False
    steps: list[Step] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    release: str | None = None
    plan: dict[str, Any] | None = None
    url: str | None = None
    failed: bool = False
    msg: str = ""
    warnings: list[str] = field(default_factory=list)
    status: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "changed": self.changed,
            "steps": [step.to_dict() for step in self.steps],
            "diff": self.diff,
            "release": self.release,
            "plan": self.plan,
            "url": self.url,
            "failed": self.failed,
            "msg": self.msg,
            "warnings": self.warnings,
        }


def apply(spec: Spec, *, check: bool = False, diff: bool = False, say: Say | None = None) -> Result:
    """Brings the host to `spec`, or with `check` says what it would do.

    Raises FarrierError (status 2: refused, nothing changed); a run that began and failed is a Result.
    """
    layout = Layout(spec.name, Path(spec.root))
    if spec.state == "absent":
        return _absent(spec, layout, check)
    state = State.load(layout)
    if found := preflight.problems(spec, layout, state, check):
        raise FarrierError("\n".join(found))
    try:
        view = look(spec, layout, check)
        view.refuse_interface(str(view.measured.get("interface", "")))
        history.refuse_bad(spec.name, view.release, view.state, spec.retry_bad)
        action = view.action()
        view.refuse_more_than_reload(action)
        previewed = preview(view, action, diff)
    except SizingError as error:
        raise FarrierError(f"settings: {error}") from None
    if not (view.release and view.release.served):
        # One that has served is what it is: then a warning says so.
        refuse_small(previewed)
    known = files.read_json(layout.app_json) or {}
    if action == "nothing" and (keys := spec.differs(known)):
        previewed.changed, previewed.steps = True, [Step("spec", True, 0.0, ", ".join(keys))]
    if check:
        return previewed
    if action == "nothing":
        if not previewed.changed or _keep(spec, layout, known):
            return previewed
        return apply(spec, diff=diff, say=say)
    result = launch(spec, layout, {}, say or (lambda event: None))
    result.diff = previewed.diff
    return result


def _keep(spec: Spec, layout: Layout, known: Mapping[str, Any]) -> bool:
    """Puts a spec into force that asks nothing of the units; False if another run was faster."""
    with states.locked(layout, spec.who, _patience()):
        if (files.read_json(layout.app_json) or {}) != known:
            return False
        files.write_json(layout.app_json, spec.to_dict(), 0o600)
        state = State.load(layout)
        state.begin(layout, "", spec.who, action="settings")
        state.note(layout, "good", state.release, ", ".join(spec.differs(known)))
        return True


def refuse_small(result: Result) -> None:
    """A plan that is not viable is refused before anything changes, with the smallest size that is."""
    verdict = (result.plan or {}).get("verdict", {})
    if verdict.get("level") == "not viable":
        raise FarrierError(
            f"memory: not viable here: {verdict.get('why', '')}".rstrip(": ")
            + "; if the app needs less, say so in workload.app_memory"
        )


def preview(view: View, action: str, diff: bool) -> Result:
    """What a run would do, as the same steps, and what it would write."""
    colour = view.state.active or "blue"
    wanted, plan, _ = view.files(colour, view.release)
    result = Result(changed=action != "nothing", plan=plan.to_dict(), url=view.spec.listen.url)
    result.release = view.release.id if view.release else view.state.release
    if action != "nothing":
        result.steps = [Step(name, True, 0.0, detail) for name, detail in _would(view, action, plan)]
        result.msg = f"would {action}" if action != "live" else "would change limits"
    if diff:
        result.diff = diffs.of(view, wanted)
    return result


def _would(view: View, action: str, plan: Plan) -> Iterator[tuple[str, str]]:
    """The steps of a run that has not happened, with what each would do."""
    if not view.runtime.is_placed:
        yield "runtime", view.runtime.version
    if account.find(view.spec) is None:
        yield "account", f"make user {view.spec.user}"
    for text in view.missing:
        yield "needs", text
    if view.release is None:
        yield "source", view.source[:60]
        yield "venv", f"Python {view.python.version}" if view.python else f"Python {view.spec.python or '3'}"
        yield "dependencies", "as locked"
        if view.spec.commands_build:
            yield "build", f"{len(view.spec.commands_build)} commands"
        yield "check", f"import {view.spec.app}"
    if view.spec.commands_migrate and (view.release is None or "migrate" not in view.release.done):
        yield "migrate", f"{len(view.spec.commands_migrate)} commands"
    if view.spec.measure.enabled and (view.release is None or unmeasured(view.spec, view.release)):
        yield "measure", ", ".join(view.spec.measure.asked)
    if (fitted := view.fitted(view.spec.env)).must_shrink:
        yield "room", ", ".join(f"{one.name} gives way" for one, _ in fitted.too_large)
    yield "files", f"{plan.value('workers')} workers, {plan.value('strategy')}"
    if action == "reload":
        yield "reload", "HUP"
    elif action != "live":
        yield "start", "the other colour" if view.state.active else "blue"
        yield "switch", ""


def _absent(spec: Spec, layout: Layout, check: bool) -> Result:
    there = remove.is_there(spec, layout)
    if there and not systemd.running():
        raise FarrierError(f"{spec.name}: this host does not run systemd")
    result = Result(
        changed=there, msg=f"{spec.name} is removed" if there else f"{spec.name} is not on this host"
    )
    if there and check:
        result.steps, result.msg = [Step("remove", True)], f"would remove {spec.name}"
    elif there:
        began = time.monotonic()
        known = files.read_json(layout.app_json) or {}
        layout = Layout(spec.name, Path(known.get("root") or spec.root))
        spec = _as_known(spec, known)
        with _for_removal(layout, spec.who):
            gone = remove.everything(spec, layout, State.load(layout), spec.keep_data)
        result.steps = [Step("remove", True, time.monotonic() - began, ", ".join(gone))]
    return result


def _as_known(spec: Spec, known: Mapping[str, Any]) -> Spec:
    """The order to remove, with the user and group that the app on the host runs as."""
    kept = {key: known[key] for key in ("user", "group") if key in known}
    return Spec.from_mapping({**spec.to_dict(), **kept})


@contextmanager
def _for_removal(layout: Layout, who: str) -> Iterator[None]:
    if not layout.root.is_dir():
        yield
        return
    until = time.monotonic() + REMOVAL_WAIT
    # A run that has told its end is not quite gone.
    while systemd.is_there(layout.deploy_unit) and not states.is_locked(layout) and time.monotonic() < until:
        time.sleep(WAIT_AGAIN)
    with states.locked(layout, who, REMOVAL_WAIT):
        if systemd.is_there(layout.deploy_unit):
            raise states.Held(f"{layout.name}: {states.held_by(layout)}", 1)
        yield


# -- the unit that works, and its follower ------------------------------------------------------------------


@dataclass(frozen=True)
class Following:
    """A run under way, and from where its events are read."""

    run: str
    descriptor: int
    offset: int = 0
    placed: bool = False


def launch(
    spec: Spec, layout: Layout, order: Mapping[str, Any], say: Say, wait: float | None = None
) -> Result:
    """Starts ``farrier-deploy-NAME.service`` and follows its events to the end.

    A run that is under way to the same end is followed instead; for another one's end this waits a while
    (seconds, by default what FARRIER_DEPLOY_WAIT says).
    """
    patience = _patience() if wait is None else wait
    until, told = time.monotonic() + patience, False
    while True:
        following = _begin(spec, layout, order) or _join(spec, layout, order)
        if following is not None:
            break
        if time.monotonic() >= until:
            raise FarrierError(f"{layout.name}: {states.held_by(layout)}", 1)
        if not told and states.is_locked(layout):
            told = True
            print(f"{layout.name}: {states.held_by(layout)}; waiting up to {patience:.0f} s", file=sys.stderr)
        time.sleep(WAIT_AGAIN)
    try:
        result = _followed(layout, following, say)
        if following.placed:
            result.steps.insert(0, Step("runtime", True, 0.0, runtime.find(spec.runtime).version))
        return result
    finally:
        os.close(following.descriptor)


def _patience() -> float:
    """Seconds to wait for a run of another spec to end."""
    try:
        return float(os.environ.get("FARRIER_DEPLOY_WAIT", ""))
    except ValueError:
        return WAIT


def _begin(spec: Spec, layout: Layout, order: Mapping[str, Any]) -> Following | None:
    """Orders and starts a run; None where another one has the app.

    Everything under the lock, so that no run's order is overwritten and nobody's files are cleaned away; the
    unit waits for the lock until we have let go of it.
    """
    made_root = not layout.root.exists()
    try:
        with states.locked(layout, spec.who):
            if systemd.is_there(layout.deploy_unit):
                return None
            run = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
            state = State.load(layout)
            if state.run.get("phase") == "switched" and (known := states.in_force(layout, state)):
                # After a power cut; the order of this run takes the place of that one's.
                files.write_json(layout.app_json, known, 0o600)
            if made_root:
                state.created["root"] = True
            state.save(layout)
            events.trim(layout.events)
            layout.events.touch()
            layout.events.chmod(0o640)
            layout.etc.mkdir(parents=True, exist_ok=True)
            files.write_json(layout.wanted_json, {**spec.to_dict(), "order": {**order, "run": run}}, 0o600)
            descriptor = os.open(layout.events, os.O_RDONLY)
            try:
                # The unit must not run from a wheel in a folder that goes with whoever sent it.
                placed = runtime.place(runtime.find(spec.runtime))
                if state.active:
                    priority.favour()
                _start_unit(spec, layout)
            except BaseException as error:
                os.close(descriptor)
                priority.even(layout.deploy_unit)
                if isinstance(error, _Taken):
                    return None
                if state.active is None and not state.run:
                    remove.everything(spec, layout, state, failed=True)
                raise
            return Following(run, descriptor, os.fstat(descriptor).st_size, placed)
    except states.Held:
        return None


def _join(spec: Spec, layout: Layout, order: Mapping[str, Any]) -> Following | None:
    """The run under way, if it works towards the same end."""
    wanted = files.read_json(layout.wanted_json) or {}
    theirs = wanted.pop("order", {})
    run = theirs.pop("run", None)
    same = {**wanted, "who": ""} == {**spec.to_dict(), "who": ""} and theirs == dict(order)
    if not same or not run or not systemd.is_active(layout.deploy_unit):
        return None
    try:
        descriptor = os.open(layout.events, os.O_RDONLY)
    except OSError:
        return None
    print(f"{layout.name}: {states.held_by(layout)}; following it", file=sys.stderr)
    return Following(run, descriptor)


class _Taken(FarrierError):
    """systemd has a unit of that name already: another run began in between."""


def _start_unit(spec: Spec, layout: Layout) -> None:
    argv, env = runtime.command(runtime.find(spec.runtime))
    script = Path(env["PYTHONPATH"]) / "farrier" / "release" / "after_kill.sh"
    recover = shlex.join(["/bin/sh", str(script), *argv, "release", "recover", layout.name])
    properties = [f"--property={item}" for item in (*DEPLOY_PROPERTIES, f"ExecStopPost={recover}")]
    variables = [f"--setenv={name}={value}" for name, value in {**env, "LANG": "C.UTF-8"}.items()]
    command = ["systemd-run", f"--unit={layout.deploy_unit}", "--collect", "--quiet", *properties, *variables]
    command += [f"--description=Farrier deploys {layout.name}", *argv, "release", "work", layout.name]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        if "already loaded" in done.stderr or "already exists" in done.stderr:
            raise _Taken(layout.deploy_unit, 1)
        raise FarrierError(f"{layout.deploy_unit} could not be started: {' '.join(done.stderr.split())}", 1)


def _followed(layout: Layout, following: Following, say: Say) -> Result:
    last = "the start"
    alive = partial(systemd.is_active, layout.deploy_unit)
    try:
        for event in events.follow(following.descriptor, following.offset, following.run, alive):
            if event["event"] == "end":
                return _result(event["result"])
            last = event.get("step", last)
            say(event)
    except KeyboardInterrupt:
        raise FarrierError(
            f"{layout.name}: no longer following; the deploy goes on in {layout.deploy_unit} "
            f"(journalctl -fu {layout.deploy_unit}; to stop it: systemctl stop {layout.deploy_unit})",
            130,
        ) from None
    tail = systemd.telling_line(systemd.journal_since(layout.deploy_unit, time.time() - 60))
    return Result(
        changed=True,
        failed=True,
        status=1,
        msg=f"{layout.name}: the deploy was ended at {last}"
        + (f": {tail}" if tail else "")
        + "; run it again and it goes on from there",
    )


def _result(data: Mapping[str, Any]) -> Result:
    values = dict(data)
    values["steps"] = [Step(**one) for one in values["steps"]]
    return Result(**values, status=1 if values["failed"] else 0)


def work(name: str) -> int:
    """What the transient unit runs: the order in wanted.json, to its end."""
    layout = states.layout_of(name)
    data = files.read_json(layout.wanted_json)
    if data is None:
        raise FarrierError(f"{name}: nothing is ordered", 1)
    order = data.pop("order", {})
    spec = Spec.from_mapping(data)
    layout = Layout(name, Path(spec.root))
    journal = Journal(layout.events, str(order.get("run", "")))
    machine = Machine(
        spec, layout, journal, spec.who, order.get("target"), bool(order.get("reload")),
        bool(order.get("replan")), bool(order.get("gives_way")),
    )  # fmt: skip
    # systemctl stop of this unit is a failure like any other: everything is put back.
    signal.signal(signal.SIGTERM, _stopped)
    result = Result(url=spec.listen.url)
    try:
        machine.run()
        result.msg = f"{name} serves release {machine.state.release}"
    except (FarrierError, SizingError, OSError, Stopped) as error:
        result.failed, result.msg = True, journal.clean(_one_line(name, error))
    result.changed = machine.changed
    result.steps = journal.steps
    result.release = machine.state.release
    result.plan = machine.plan.to_dict() if machine.plan else None
    result.warnings = [*machine.warnings, *_too_small(machine), *_tell(machine, result)]
    journal.end(result.to_dict())
    if result.failed:
        print(result.msg, file=sys.stderr)
    return 1 if result.failed else 0


def _too_small(machine: Machine) -> list[str]:
    """What is said of an app that boots here and has no room to work by its plan: never a refusal."""
    verdict = machine.plan.verdict if machine.plan else None
    if verdict is None or verdict.level != "not viable":
        return []
    return [f"{machine.spec.name} is not viable here: {verdict.why}"]


def _tell(machine: Machine, result: Result) -> list[str]:
    """Notifies whom the spec names of how this run went, and answers what went wrong with that."""
    spec, state = machine.spec, machine.state
    # Of a first deploy that failed nothing is left, its history neither.
    began = {"outcome": "failed", "message": result.msg, "who": spec.who}
    run = next((one for one in state.history if one.get("run") == machine.journal.run), began)
    event = notify.event(spec.name, run, spec.listen.url, state.release) if result.changed else None
    return notify.send(spec, event, machine.journal) if event else []


def _stopped(number: int, frame: object) -> None:
    raise Stopped("stopped by systemctl stop")


def _one_line(name: str, error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, FarrierError):
        return f"{name}: {error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    told = str(error)
    return told if told.startswith(f"{name}: ") else f"{name}: {told}"


def rollback(name: str, release: str | None, who: str, say: Say, force: bool = False) -> Result:
    """Serves an earlier release again: `release` (a bad one with `force`), or the good one before."""
    layout = states.layout_of(name)
    state = State.load(layout)
    target = history.choose(layout, state, release, force)
    spec = _spec_of_release(layout, state, target, who)
    return launch(spec, layout, {"target": target}, say)


def mark(name: str, release: str, why: str | None, who: str) -> Release:
    """Marks a release as bad, for a reason, or with None as good; waits for a run that is under way."""
    layout = states.layout_of(name)
    with states.locked(layout, who, _patience()):
        return history.mark(layout, release, why, who)


def reload(name: str, who: str, say: Say) -> Result:
    """The settings read anew by the processes that run (HUP), by the same machine in the same unit."""
    layout = states.layout_of(name)
    data = _in_force(layout, State.load(layout))
    if data is None:
        raise FarrierError(f"{name}: no deploy has succeeded yet")
    data.pop("retry_bad", None)
    return launch(Spec.from_mapping({**data, "who": who}), layout, {"reload": True}, say)


def _in_force(layout: Layout, state: State) -> dict[str, Any] | None:
    """The spec of what serves; of a run under way nobody knows yet whether what it brings stays."""
    if systemd.is_there(layout.deploy_unit):
        return files.read_json(layout.app_json)
    return states.in_force(layout, state)


# What belongs to a release's code rather than to the app as it is wanted now.
_OF_THE_CODE = (
    "app",
    "source",
    "requirements",
    "pythonpath",
    "chdir",
    "shared",
    "config_file",
    "env_files",
    "ready",
    "python",
)


def _spec_of_release(layout: Layout, state: State, release_id: str, who: str) -> Spec:
    """The code's own keys as they were then; environment, settings and address as they are now."""
    data = _in_force(layout, state) or {}
    release = Release.load(layout, release_id)
    then = release.spec if release else {}
    for key in (*_OF_THE_CODE, "retry_bad"):
        data.pop(key, None)
        if key in then:
            data[key] = then[key]
    return Spec.from_mapping({**data, "who": who})


def read_spec(path: str, who: str, **more: Any) -> Spec:
    """A spec from a file, or ``-`` for standard input; `who` asks where it names nobody, `more` overrides."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        data = json.loads(text)
    except OSError as error:
        raise FarrierError(f"spec: {path}: {error.strerror}") from None
    except ValueError as error:
        raise FarrierError(f"spec: {path} is no JSON: {error}") from None
    if isinstance(data, dict):
        data = {**data, "who": data.get("who") or who, **more}
    return Spec.from_mapping(data)
