"""One run: from what is on the host to what is wanted, or back to what was.

Order: account and folders, build beside, migrate, files, start, switch, stop the old, prune, record. Before
the switch a failure (or a kill, at the next run) puts everything back; after it a run only tidies up.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..errors import FarrierError
from . import account as accounts
from . import colour as colours
from . import (
    connections,
    files,
    guard,
    history,
    measure,
    neighbours,
    notify,
    priority,
    remove,
    room,
    runtime,
    shared,
    sized,
    source,
    systemd,
    units,
)
from . import state as states
from .build import Build, seal
from .events import Journal, bare
from .exchange import Exchange, complete, end_candidate, had_no_room, keep_plan, links, step_back
from .files import Undo
from .layout import COLOURS, ETC, PASSING_UNITS, UNITS, VAR, Layout
from .spec import Spec
from .state import Release, State
from .view import View, look, unmeasured

if TYPE_CHECKING:
    from ..sizing.plan import Plan

# What the history calls what was done.
TOLD_AS = {"deploy": "deploy", "reload": "reload"}
# Seconds for workers that a rolling exchange took to boot again.
RESTORE_LIMIT = 120.0
# Seconds: whoever started this run holds the lock until its unit runs.
LOCK_WAIT = 10


class Stopped(BaseException):
    """Somebody stops the run's unit. No FarrierError: who knows a way on after a failure must not take it."""


class TurnedBack(FarrierError):
    """The guard found a release bad; the one before serves again, and all of that is on record."""


@dataclass
class Machine:
    """The run of one spec (or of a rollback: then `target` names the release)."""

    spec: Spec
    layout: Layout
    journal: Journal
    who: str
    target: str | None = None
    only_reload: bool = False
    """Nothing but a HUP: whoever edited a settings file on the host wants it read."""
    only_plan: bool = False
    """Nothing but the plan of what serves, made anew beside the other apps."""
    gives_way: bool = False
    """That plan is of the app's part by weight, for another app that does not fit otherwise."""
    state: State = field(init=False)
    undo: Undo = field(init=False)
    account: accounts.Account = field(init=False)
    plan: Plan | None = None
    changed: bool = False
    warnings: list[str] = field(default_factory=list)
    shrunk: list[str] = field(default_factory=list)
    """Other apps that gave way to this one in this run."""
    unwoken: str = ""
    """Why what is to serve does not serve as it should."""

    def __post_init__(self) -> None:
        self.state = State.load(self.layout)
        self.undo = Undo(self.layout.undo)
        self.journal.hide([*self.spec.env.values(), self.spec.notify.webhook, *self.spec.measure.secrets])
        secret = re.compile(r"PASSWORD|TOKEN|SECRET|KEY")
        self.journal.hide(text for name, text in self.spec.installer_env.items() if secret.search(name))

    def run(self) -> None:
        """Everything, under the app's lock. Raises FarrierError after the host is as it was."""
        try:
            with states.locked(self.layout, self.who, LOCK_WAIT):
                self.state = State.load(self.layout)
                self.recover()
                first = self.state.active is None
                try:
                    self.begin()
                    self.advance()
                except TurnedBack:
                    raise
                except BaseException as error:
                    self.back_out(error, first)
                    self.give_back()
                    raise
        finally:
            # Whoever started the run gave the apps the CPU, whatever becomes of it.
            priority.even(self.layout.deploy_unit)

    # -- the way there ------------------------------------------------------------------------------

    def begin(self) -> None:
        self.state.begin(self.layout, self.journal.run, self.who)
        with self.journal.step("account") as step:
            self.account, made = accounts.ensure(self.spec)
            step.changed, step.detail = (
                bool(made),
                ", ".join(f"made {kind} {getattr(self.spec, kind)}" for kind in made),
            )
            for kind in made:
                self.state.created[kind] = getattr(self.spec, kind)
            if not self.state.created.get("user") and accounts.is_ours(self.spec):
                self.state.created |= {"user": self.spec.user, "root": True, "adopted": True}
        with self.journal.step("folders") as step:
            step.changed = self.folders()

    def folders(self) -> bool:
        """Folders with their owners; root keeps what decides, the app's user gets shared/ only."""
        layout, made = self.layout, False
        for path, uid, gid, mode in (
            (ETC, 0, 0, 0o755),
            (layout.etc, 0, self.account.gid, 0o750),
            *((layout.colour_dir(colour), 0, self.account.gid, 0o750) for colour in COLOURS),
            (VAR, 0, 0, 0o755),
            (VAR / "cache", 0, 0, 0o755),
            (layout.root, 0, 0, 0o755),
            (layout.releases, 0, 0, 0o755),
        ):
            if not path.is_dir():
                path.mkdir(parents=True)
                made = True
            found = path.stat()
            if (found.st_uid, found.st_gid, found.st_mode & 0o7777) != (uid, gid, mode):
                os.chown(path, uid, gid)
                path.chmod(mode)
                made = True
        return shared.take(layout, self.state, self.account, self.journal.run) or made

    def advance(self) -> None:
        if self.only_reload:
            self.hup()
            return
        target = Release.load(self.layout, self.target) if self.target else None
        # What a rollback serves is built: its source need not be there any more.
        view = look(self.spec, self.layout, known=target.source if target else "")
        view.anew, view.gives_way = self.only_plan, self.gives_way
        if target:
            view.release = target
        action = self.judged(view)
        back = self.target and not self.only_plan
        told = "rollback" if back else TOLD_AS.get(action, "settings")
        self.state.run |= {"phase": "build", "source": view.source, "action": told}
        release = view.release or self.build(view)
        view.release = release
        seal(self.layout.release(release.id), self.account)
        if not self.target and self.spec.migrate_here:
            # A database that went forward does not go back with the code.
            self.migrate(view, release)
        if not self.target and self.measure(view, release):
            # The plan may be another one now.
            action = self.judged(view)
        if action != "nothing":
            self.make_room(view, release)
        if action in ("live", "reload"):
            # The plan that was claimed may be another one than that of a moment ago.
            action = self.judged(view)
        if action in ("live", "reload", "nothing"):
            self.settle(view, release, action)
        else:
            self.replace(view, release)
        self.finish(release)

    def judged(self, view: View) -> str:
        """The view's own judgement, with the run that is under way left out of it."""
        run, view.state.run = view.state.run, {}
        try:
            action = view.action()
            if not self.target:
                view.refuse_more_than_reload(action)
            return action
        finally:
            view.state.run = run

    def build(self, view: View) -> Release:
        """A release for this identity: a killed run's, if it got somewhere, else a new one."""
        release = next(
            (
                one
                for one in states.releases(self.layout)
                if one.identity == view.identity and not one.is_built
            ),
            None,
        )
        if release is None:
            release = Release(new_id(self.layout, view.identity), view.identity, states.now())
        release.source, release.runtime = view.source, view.runtime.version
        release.spec = {
            k: v for k, v in self.spec.to_dict().items() if k not in ("env", "installer_env", "notify")
        }
        source = dict(release.spec.get("source") or {})
        source.pop("deploy_key", None)
        source |= {key: bare(source[key]) for key in ("repo", "requirement") if key in source}
        release.spec["source"] = source
        if "measure" in release.spec:
            # A header may be how somebody gets in.
            release.spec["measure"] = {k: v for k, v in release.spec["measure"].items() if k != "headers"}
        if "extra_requirements" in release.spec:
            release.spec["extra_requirements"] = [bare(one) for one in self.spec.extra_requirements]
        self.state.run["candidate"] = release.id
        self.state.save(self.layout)
        self.changed = True
        Build(view, release, self.account, self.journal).run()
        return release

    def migrate(self, view: View, release: Release) -> None:
        if self.spec.commands_migrate and "migrate" not in release.done:
            build = Build(view, release, self.account, self.journal)
            build.step("migrate", build.migrate)

    def measure(self, view: View, release: Release) -> bool:
        """Measures a release that has not been yet. What comes of it refuses nothing."""
        if not unmeasured(self.spec, release):
            return False
        self.changed = True
        build = Build(view, release, self.account, self.journal)
        former = Release.load(self.layout, self.state.release or "")
        if "measure" in release.done:
            # Of a release that has been: it is asked something else now, or there was no room.
            release.done.remove("measure")
        lines: list[str] = []
        build.step("measure", lambda step: lines.extend(measure.into(build, step, former)))
        self.warnings += [f"{self.spec.name} {line}" for line in lines]
        return True

    def claim(self, view: View, release: Release) -> sized.Fitted:
        """Plans under the host's lock and claims what came of it, with which the run goes on.

        Two deploys at once see each other by it. Raises FarrierError.
        """
        given = view.given_env(self.layout.release(release.id) / "src")
        with neighbours.planning():
            view.claimed = None
            fitted = view.fitted(given)
            neighbours.claim(self.layout, fitted.plan)
        view.claimed = fitted
        return fitted

    def make_room(self, view: View, release: Release) -> None:
        """Where other apps have more than their parts: says so, or has them give way first if it must be.

        Raises FarrierError where one of them does not: what serves is as it was then.
        """
        fitted = self.claim(view, release)
        if self.only_plan:
            return
        plans = {**sized.plans_of_others(self.spec.name), self.spec.name: fitted.plan.to_dict()}
        if line := connections.too_many(plans):
            self.warnings.append(line)
        if not fitted.must_shrink:
            self.warnings += [fitted.told(one, part) for one, part in fitted.too_large]
            return
        wheel = runtime.find(self.spec.runtime).placed_wheel
        with self.journal.step("room") as step:
            step.changed = True
            for one, part in fitted.too_large:
                try:
                    neighbours.replan(one.name, self.layout, f"deploy of {self.spec.name}", wheel, True)
                except FarrierError as error:
                    told = f"{one.name} could not give way ({fitted.told(one, part)}): {error}"
                    raise FarrierError(told, 1) from None
                self.shrunk.append(one.name)
            step.detail = ", ".join(f"{name} gave way" for name in self.shrunk)
            if self.claim(view, release).must_shrink:
                raise FarrierError(f"memory: {step.detail}, and there is too little still", 1)

    def give_back(self) -> None:
        """What other apps gave way with, after this run has failed. Whatever comes of that, it has failed."""
        wheel = runtime.find(self.spec.runtime).placed_wheel
        for name in self.shrunk:
            try:
                neighbours.replan(name, self.layout, f"failed deploy of {self.spec.name}", wheel, False)
            except (FarrierError, OSError) as error:
                self.warnings.append(f"{name} keeps the smaller plan until its next deploy: {error}")

    # -- changes that the serving colour takes without a restart ---------------------------------------

    def settle(self, view: View, release: Release, action: str) -> None:
        colour = str(self.state.active)
        self.hide_given(view, release)
        wanted, self.plan, _ = view.files(colour, release)
        # A lower limit only once the workers that are too many have gone: else the kernel would take some.
        later = action == "reload" and self.shrinks(colour)
        limits = [unit for unit in wanted if later and unit.path.is_relative_to(UNITS)]
        self.write([unit for unit in wanted if unit not in limits])
        links(self.layout, colour)
        if action == "reload":
            with self.journal.step("reload") as step:
                step.changed = True
                self.reload(colour)
        if later:
            self.write(limits, "limits")
        keep_plan(self.layout, colour, release.id)

    def write(self, wanted: list[units.Unit], name: str = "files") -> None:
        """Files of the colour that serves, and systemd told of those that are its own."""
        with self.journal.step(name) as step:
            written = [unit for unit in wanted if self.undo.write(unit)]
            step.changed = bool(written)
            step.detail = ", ".join(unit.path.name for unit in written)
            if any(unit.path.is_relative_to(UNITS) for unit in written):
                systemd.reload_units()
            self.changed |= bool(written)

    def shrinks(self, colour: str) -> bool:
        """Whether the plan to come allows less memory than the one in force."""
        known = files.read_json(self.layout.colour_dir(colour) / "plan.json") or {}
        return self.plan is not None and units.number(self.plan, "memory_max") < float(
            known.get("memory_max") or 0
        )

    def reload(self, colour: str, phase: str = "reload") -> None:
        """HUP; the arbiter itself keeps what it had if the new settings do not boot."""
        self.state.run["phase"] = phase
        self.state.save(self.layout)
        began = time.time() - 0.05
        try:
            refused = colours.reload(self.layout, colour, reload_limit(self.spec, self.plan))
        except FarrierError as error:
            service = self.layout.service(colour)
            tail = systemd.telling_line(systemd.journal_since(service, began))
            raise FarrierError(f"{error}{f': {tail}' if tail else ''}", 1) from None
        if refused:
            raise FarrierError(f"the reload was refused: {refused}", 1)

    def hup(self) -> None:
        """``farrier release reload``: the files are read as they are."""
        active = self.state.active
        if active is None or not systemd.is_active(self.layout.service(active)):
            raise FarrierError("nothing serves that could reload", 1)
        self.state.run |= {"action": "reload", "strategy": "reload"}
        with self.journal.step("reload") as step:
            step.changed = self.changed = True
            self.reload(active, "hup")
        files.delete(self.layout.wanted_json)
        self.state.note(self.layout, "good", self.state.release)

    # -- the other colour ------------------------------------------------------------------------------

    def replace(self, view: View, release: Release) -> None:
        """The exchange, and the guard's watch over what came of it."""
        old, known = self.state.active, files.read_json(self.layout.app_json)
        before = guard.sample(self.layout, old) if old else None
        self.state.run["previous"] = self.state.previous
        change = self.go_back(view, release) if self.target else self.exchange(view, release)
        # Who rolls back wants just that.
        if self.target or not self.spec.guard.seconds:
            return
        began = time.monotonic()
        with self.journal.step("guard") as step:
            active = str(self.state.active)
            bad = guard.watch(self.spec, self.layout, active, before, self.journal, change.switched)
            step.changed, step.detail = True, bad or f"watched for {time.monotonic() - began:.0f} s"
        if bad and (old is None or known is None):
            self.warnings.append(f"{bad}; there is no release to go back to")
        elif bad:
            self.turn_back(bad)

    def turn_back(self, why: str) -> NoReturn:
        """The release before serves again, as it did and by the same exchange. Raises TurnedBack."""
        bad, good = str(self.state.release), str(self.state.run["from"])
        self.state.run |= {"back": why, "bad": bad, "bad_colour": self.state.active}
        self.state.save(self.layout)
        release, found = Release.load(self.layout, good), Release.load(self.layout, bad)
        if release is None:
            raise FarrierError(f"{why}, and release {good}, which served before, is not kept", 1)
        if found is not None and bad != good:
            found.bad = {"time": states.now(), "why": why, "who": "guard"}
            found.save(self.layout)
        self.spec = self.spec_before()
        view = look(self.spec, self.layout, known=release.source)
        view.release = release
        try:
            self.claim(view, release)
            self.go_back(view, release)
        except FarrierError as error:
            raise FarrierError(f"{why}, and {good} could not be started again: {error}", 1) from None
        self.turned_back(bad, good, why)

    def spec_before(self) -> Spec:
        """The spec in force before this run; its wheel need not be where it was then."""
        before = Spec.from_mapping(files.read_json(self.layout.app_json) or {})
        return dataclasses.replace(before, runtime=self.spec.runtime)

    def turned_back(self, bad: str, good: str, why: str) -> NoReturn:
        """The record of it; the run has failed, whoever asks."""
        release = Release.load(self.layout, good)
        self.state.previous = self.state.run.get("previous")
        if release is not None:
            self.finish(release, "rolled back", bad, why)
        what = f"release {bad} was rolled back" if bad != good else "what was changed was taken back"
        raise TurnedBack(f"{what}: {why}; release {good} serves again", 1)

    def go_back(self, view: View, release: Release) -> Exchange:
        """The exchange for a release that has served; in the place of what serves if it has no room beside.

        What serves may be the reason: a leak has taken the memory that both may have together. Whatever else
        keeps it from coming up (a database that is gone) would keep it so in that place as well, and then
        nobody would serve. Raises FarrierError.
        """
        try:
            return self.exchange(view, release)
        except FarrierError as error:
            run = self.state.run
            beside = run.get("phase") == "start" and run.get("beside") and release.served
            if not beside or not had_no_room(error):
                raise
            why = str(error)
        with self.journal.step("undo") as step:
            step.changed, step.detail = True, f"in the place of what serves, because beside it: {why}"
            self.withdraw()
        return self.exchange(view, release, in_place=True)

    def withdraw(self) -> None:
        """The candidate goes, and its files; what serves is left as it is."""
        end_candidate(self.layout, self.state, self.state.run)
        self.restore()

    def restore(self) -> None:
        """The files as they were before the run."""
        restored = self.undo.restore() if self.undo.pending else []
        if any(path.is_relative_to(UNITS) or path.is_relative_to(PASSING_UNITS) for path in restored):
            systemd.reload_units()

    def exchange(self, view: View, release: Release, in_place: bool = False) -> Exchange:
        """The other colour takes over, by the plan's strategy."""
        self.changed = True
        self.hide_given(view, release)
        change = Exchange(view, release, self.account, self.journal, self.state, self.undo, in_place)
        self.plan = change.plan
        change.run()
        return change

    def hide_given(self, view: View, release: Release) -> None:
        """A colour that does not start may say what it was given, by env_files or by the env of then."""
        self.journal.hide(view.given_env(self.layout.release(release.id) / "src").values())

    def finish(self, release: Release, outcome: str = "good", of: str = "", message: str = "") -> None:
        with self.journal.step("prune") as step:
            gone = self.prune()
            step.changed, step.detail = bool(gone), " ".join(gone)
        runtime.point(runtime.find(self.spec.runtime))
        files.write_json(self.layout.app_json, self.spec.to_dict(), 0o600)
        files.delete(self.layout.wanted_json)
        neighbours.let_go(self.layout)
        self.undo.forget()
        if self.spec.retry_bad and outcome == "good" and release.bad:
            # It was tried again and survived.
            history.mark(self.layout, release.id, None, self.who)
        self.state.note(self.layout, outcome, of or release.id, message)

    def prune(self) -> list[str]:
        """Removes the releases that nobody needs any more."""
        kept = history.kept(self.layout, self.state, self.spec.keep_releases)
        every = states.releases(self.layout)
        gone = [one.id for one in every if one.id not in kept]
        for name in gone:
            files.delete(self.layout.release(name))
        runtime.prune({one.runtime for one in every if one.id not in gone})
        known = {one.id for one in every}
        for entry in self.layout.releases.iterdir():
            if entry.name not in known:
                files.delete(entry)
        return gone

    # -- the way back -----------------------------------------------------------------------------------

    def recover(self) -> None:
        """Ends what a killed run began: forward if it had switched, else back."""
        phase = self.state.run.get("phase")
        if phase is None and not self.undo.pending:
            return
        with self.journal.step("recover") as step:
            step.changed, step.detail = (
                True,
                f"a run was ended at {phase or 'an unknown step'}; going on from there",
            )
            neighbours.let_go(self.layout)
            # A trial runs in a scope of its own, which outlives a killed run.
            room.clear(self.layout.name)
            if phase == "switched":
                self.go_forward()
            else:
                self.put_back()
            # A deploy key lies there while git runs, and a killed git leaves it.
            for folder in Path("/run").glob(source.leftovers(self.layout.name)):
                files.delete(folder)
            back = self.state.run.get("back")
            if back is None:
                history.note_killed(self.layout, self.state)
        if back is not None:
            try:
                self.go_on_back(str(back))
            except TurnedBack:
                raise
            except (FarrierError, Stopped) as error:
                # Tried once more and in vain: the run that mends it must not fail by that as well.
                self.back_out(error, first=False)
                raise

    def go_forward(self) -> None:
        """What was left to do after the switch: the new colour alone, and its spec as the one in force."""
        self.undo.forget()
        neighbours.let_go(self.layout)
        known = states.in_force(self.layout, self.state)
        if known is not None:
            files.write_json(self.layout.app_json, known, 0o600)
        self.as_far_as_possible(complete, self.layout, self.state)

    def as_far_as_possible(self, way: Callable[..., None], *args: object) -> None:
        """A colour that does not start any more must not keep out the run that is to mend it."""
        try:
            way(*args)
        except FarrierError as error:
            self.unwoken = f"release {self.state.release}: {error}"
            self.warnings.append(self.unwoken)
            self.journal.say(self.unwoken)

    def go_on_back(self, why: str) -> NoReturn:
        """A run was ended while it turned a bad release back. Raises TurnedBack."""
        good = str(self.state.run["from"])
        bad = str(self.state.run.get("bad", self.state.release))
        self.account, _ = accounts.ensure(self.spec)
        if self.state.active == self.state.run.get("bad_colour"):
            self.turn_back(why)
        self.spec = self.spec_before()
        self.turned_back(bad, good, why)

    def discard(self, candidate: str) -> None:
        """Removes a release that never served."""
        if candidate and candidate != self.state.release:
            found = Release.load(self.layout, candidate)
            if found is None or not found.served:
                files.delete(self.layout.release(candidate))

    def put_back(self) -> None:
        """Files and colours as they were before the run."""
        run, old = self.state.run, self.state.active
        moved = units.listen_stream(self.layout)
        self.restore()
        shared.give_back(self.layout, self.state)
        if old:
            # A switch that was cut short has them at the new colour already.
            links(self.layout, old)
        if old and moved != units.listen_stream(self.layout):
            # systemd let go of the address when the file changed; only a start opens it again.
            systemd.systemctl("stop", self.layout.socket, check=False, timeout=300)
        self.as_far_as_possible(step_back, self.layout, self.state, run, RESTORE_LIMIT)
        if old and run.get("phase") == "reload":
            # The arbiter may have read the files that were put back just now.
            systemd.systemctl("reload", self.layout.service(old), check=False)

    def back_out(self, error: BaseException, first: bool) -> None:
        """After a failure: the host as it was before, and a note of what happened."""
        # A second signal must not cut the way back short.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if self.state.run.get("phase") == "switched":
            # Too late to go back: nothing of it waits for the next run.
            self.go_forward()
            history.note_killed(self.layout, self.state, f": {self.journal.clean(str(error))[:500]}")
            return
        neighbours.let_go(self.layout)
        with self.journal.step("undo") as step:
            step.changed = True
            candidate = self.state.run.get("candidate")
            if self.state.run.get("phase") == "replace":
                # Nobody serves: the old one first, and then what was built.
                self.put_back()
            # What takes room goes first: on a full disk nothing else could be put back.
            self.discard(str(candidate or ""))
            if self.state.run.get("phase") != "replace":
                self.put_back()
            if first:
                step.detail = "nothing of it is left"
                remove.everything(self.spec, self.layout, self.state, failed=True)
                return
            step.detail = f"release {self.state.release} serves"
            files.delete(self.layout.wanted_json)
            said = f"{error}; {self.unwoken}" if self.unwoken else str(error)
            self.state.note(self.layout, "failed", str(candidate or ""), self.journal.clean(said)[:500])
        if self.unwoken and isinstance(error, FarrierError | Stopped):
            raise FarrierError(said, 1) from None


def reload_limit(spec: Spec, plan: Plan | None) -> float:
    """Seconds that a HUP may take: each worker boots, then the one before it drains."""
    if plan is None:
        return 300.0
    each = units.start_timeout(spec, plan) + units.number(plan, "graceful_timeout")
    return colours.SLACK + each * max(units.number(plan, "workers"), 1.0)


def new_id(layout: Layout, identity: str) -> str:
    """UTC time and the identity's first digits: sorts by age, says what it is."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    name = f"{stamp}-{identity[:8]}"
    while layout.release(name).exists():
        time.sleep(1)
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{identity[:8]}"
    return name


def recover(name: str) -> None:
    """What a killed run left, put right at once: systemd runs this when a deploy's unit did not end well."""
    layout = states.layout_of(name)
    data = files.read_json(layout.wanted_json) or files.read_json(layout.app_json) or {}
    data.pop("order", None)
    spec = Spec.from_mapping(data)
    with states.locked(layout, "the recovery of a killed run", LOCK_WAIT):
        state = State.load(layout)
        run = str(state.run.get("id", ""))
        machine = Machine(spec, layout, Journal(layout.events, run), spec.who)
        try:
            machine.recover()
        finally:
            priority.even(layout.deploy_unit)
            tell(machine, run)


def tell(machine: Machine, run: str) -> None:
    """Whom the spec names hears of a run that a kill ended: nobody else is left to say so."""
    ended = next((one for one in machine.state.history if run and one.get("run") == run), None)
    if ended is not None:
        told = notify.event(machine.spec.name, ended, machine.spec.listen.url, machine.state.release)
        if told is not None:
            notify.send(machine.spec, told, machine.journal)
