"""One run: from what is on the host to what is wanted, or back to what was.

Order: account and folders, build beside, migrate, files, start, switch, stop the old, prune, record. Before
the switch a failure (or a kill, at the next run) puts everything back; after it a run only tidies up.
"""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FarrierError
from . import account as accounts
from . import files, remove, runtime, shared, systemd, units
from . import state as states
from .build import Build, guard
from .events import Journal, bare
from .files import Undo
from .layout import COLOURS, ETC, UNITS, VAR, Layout, other
from .spec import Spec
from .state import Release, State
from .view import View, look

if TYPE_CHECKING:
    from ..sizing.plan import Plan

# Beyond a unit's own timeouts: systemd's own work on a busy host.
SYSTEMCTL_SLACK = 30
# Seconds: whoever started this run holds the lock until its unit runs.
LOCK_WAIT = 10


@dataclass
class Machine:
    """The run of one spec (or of a rollback: then `target` names the release)."""

    spec: Spec
    layout: Layout
    journal: Journal
    who: str
    target: str | None = None
    state: State = field(init=False)
    undo: Undo = field(init=False)
    account: accounts.Account = field(init=False)
    plan: Plan | None = None
    changed: bool = False

    def __post_init__(self) -> None:
        self.state = State.load(self.layout)
        self.undo = Undo(self.layout.undo)
        self.journal.hide([*self.spec.env.values(), self.spec.notify.webhook])
        secret = re.compile(r"PASSWORD|TOKEN|SECRET|KEY")
        self.journal.hide(text for name, text in self.spec.installer_env.items() if secret.search(name))

    def run(self) -> None:
        """Everything, under the app's lock. Raises FarrierError after the host is as it was."""
        with states.locked(self.layout, self.who, LOCK_WAIT):
            self.state = State.load(self.layout)
            self.recover()
            first = self.state.active is None
            try:
                self.begin()
                self.advance()
            except BaseException as error:
                self.back_out(error, first)
                raise

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
        target = Release.load(self.layout, self.target) if self.target else None
        # What a rollback serves is built: its source need not be there any more.
        view = look(self.spec, self.layout, known=target.source if target else "")
        if target:
            view.release = target
        self.state.run["phase"] = "build"
        release = view.release or self.build(view)
        view.release = release
        guard(self.layout.release(release.id), self.account)
        if not self.target:
            # A database that went forward does not go back with the code.
            self.migrate(view, release)
        action = "deploy" if self.state.release != release.id else view_action(view, self.state)
        if action in ("live", "reload", "nothing"):
            self.settle(view, release, action)
        else:
            self.exchange(view, release)
        self.finish(release)

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

    # -- changes that the serving colour takes without a restart ---------------------------------------

    def settle(self, view: View, release: Release, action: str) -> None:
        colour = str(self.state.active)
        wanted, self.plan, _ = view.files(colour, release)
        with self.journal.step("files") as step:
            written = [unit for unit in wanted if self.undo.write(unit)]
            step.changed = bool(written)
            step.detail = ", ".join(unit.path.name for unit in written)
            if any(unit.path.is_relative_to(UNITS) for unit in written):
                systemd.reload_units()
        self.links(colour)
        if action == "reload":
            with self.journal.step("reload") as step:
                step.changed = True
                self.reload(colour)
        self.changed |= bool(written)

    def reload(self, colour: str) -> None:
        """HUP; the arbiter itself keeps what it had if the new settings do not boot."""
        service = self.layout.service(colour)
        systemd.systemctl("reload", service, timeout=SYSTEMCTL_SLACK)
        if not systemd.is_active(service):
            raise FarrierError(f"{service} ended at reload: {self.tail(service, time.time() - 5)}", 1)

    # -- the exchange of colours -----------------------------------------------------------------------

    def exchange(self, view: View, release: Release) -> None:
        """The other colour takes over: beside the old one where both fit, else in its place."""
        old = self.state.active
        new = other(old) if old else COLOURS[0]
        wanted, self.plan, _ = view.files(new, release)
        moves = old is not None and units.socket_moves(self.spec, self.layout)
        overlap = self.strategy() == "overlap" and not moves and old is not None
        self.changed = True
        self.state.run |= {"phase": "start", "candidate": release.id, "colour": new, "old": old}
        self.state.save(self.layout)
        if moves:
            with self.journal.step("address") as step:
                step.changed, step.detail = True, self.spec.bind
                # Before its file changes: systemd removes a unix socket by what the file says then.
                self.stop(str(old))
                systemd.systemctl("stop", self.layout.socket, timeout=SYSTEMCTL_SLACK)
        with self.journal.step("files") as step:
            self.write_files(wanted, release, new)
            step.changed, step.detail = True, self.plan_line()
        if overlap:
            with self.journal.step("start") as step:
                step.changed, step.detail = True, f"{new} beside {old}"
                self.start(new)
        else:
            self.replace(None if moves else old, new)
        self.switch(release, new)
        if overlap:
            with self.journal.step("stop") as step:
                step.changed, step.detail = True, f"{old} has drained"
                self.stop(str(old))

    def write_files(self, wanted: list[units.Unit], release: Release, new: str) -> None:
        if self.plan is None:
            raise FarrierError("no plan was made", 1)
        if self.layout.drop_ins(new).exists() and systemd.is_active(self.layout.service(new)):
            # Left over from a killed run, and not the one that serves.
            self.stop(new)
        for unit in wanted:
            self.undo.write(unit)
        self.undo.write(units.candidate(self.layout, new, self.plan))
        self.undo.link(self.layout.link(new), f"releases/{release.id}")
        if self.state.active is None:
            # A socket needs a service by name; at first there is only this one.
            self.undo.write(units.active(self.layout, new))
        systemd.reload_units()

    def start(self, colour: str) -> None:
        """Starts a colour and returns when it has said READY. Raises FarrierError with its telling line."""
        service, began = self.layout.service(colour), time.time() - 0.05
        systemd.systemctl("reset-failed", service, check=False)
        if not systemd.is_active(self.layout.socket):
            systemd.systemctl("start", self.layout.socket)
        limit = (units.start_timeout(self.spec, self.plan) if self.plan else 90) + SYSTEMCTL_SLACK
        try:
            systemd.systemctl("start", service, timeout=limit)
        except FarrierError:
            found = systemd.show(service, "Result", "ExecMainStatus")
            raise FarrierError(
                f"{service} did not become ready: {self.reason(found, service, began)}", 1
            ) from None
        if self.plan and self.state.run.get("phase") == "start":
            self.journal.say(f"{service} is ready")

    def reason(self, found: dict[str, str], service: str, began: float) -> str:
        tail = self.tail(service, began)
        unready = [line for line in systemd.messages_since(service, began) if " is not ready: " in line]
        if found["Result"] == "timeout":
            limit = units.start_timeout(self.spec, self.plan) if self.plan else 0
            if unready:
                return f"not ready after {limit} s: {unready[-1].partition(' is not ready: ')[2]}"
            return f"not ready after {limit} s" + (f"; it last said: {tail}" if tail else "")
        if found["Result"] == "oom-kill":
            return "killed because it needed more memory than its limit"
        return tail or f"{found['Result']}, exit status {found['ExecMainStatus']}"

    def tail(self, service: str, since: float) -> str:
        return systemd.telling_line(systemd.journal_since(service, since))

    def replace(self, old: str | None, new: str) -> None:
        """The socket holds what comes in while the old colour goes and the new one boots."""
        with self.journal.step("start") as step:
            step.changed, step.detail = True, f"{new} in place of {old}" if old else new
            # Before the old one stops: the next connection must start the new one.
            self.undo.write(units.active(self.layout, new))
            systemd.reload_units()
            if old:
                self.state.run["phase"] = "replace"
                self.state.save(self.layout)
                self.stop(old)
            self.start(new)

    def stop(self, colour: str) -> None:
        service = self.layout.service(colour)
        limit = systemd.show(service, "TimeoutStopUSec")["TimeoutStopUSec"]
        systemd.systemctl("stop", service, timeout=SYSTEMCTL_SLACK + _seconds(limit))
        systemd.systemctl("reset-failed", service, check=False)

    def switch(self, release: Release, new: str) -> None:
        """The commit point: from here on the new colour is the one, whatever happens."""
        with self.journal.step("switch") as step:
            step.changed, step.detail = True, f"{new}, release {release.id}"
            self.undo.write(units.active(self.layout, new))
            self.undo.link(self.layout.current, f"releases/{release.id}")
            self.links(new)
            old_release = self.state.release
            if old_release != release.id:
                self.state.previous = old_release
            self.state.active, self.state.release = new, release.id
            self.state.run["phase"] = "switched"
            self.state.save(self.layout)
            self.undo.forget()
            self.promote(new)
            self.mark_served(release)
            if self.plan:
                files.write_json(self.layout.release(release.id) / "plan.json", self.plan.to_dict())

    def mark_served(self, release: Release | None) -> None:
        if release is not None:
            release.served = release.served or states.now()
            release.save(self.layout)

    def promote(self, colour: str) -> None:
        """Takes the candidate's limits off; a restart of systemd's own then is a normal one."""
        files.delete(self.layout.candidate_drop_in(colour))
        systemd.reload_units()
        service = self.layout.service(colour)
        for group in _processes(service):
            try:
                Path("/proc", group, "oom_score_adj").write_text("0")
            except OSError:
                # Without CAP_SYS_RESOURCE (a container) the kernel may refuse; the next start has it.
                continue
        if not (UNITS / "sockets.target.wants" / self.layout.socket).is_symlink():
            systemd.systemctl("enable", "--quiet", self.layout.socket)

    def links(self, colour: str) -> None:
        """``env``, ``plan.json`` and ``settings.json`` beside app.json are the active colour's."""
        for name in ("env", "plan.json", "settings.json"):
            files.link(self.layout.etc / name, f"{colour}/{name}")

    def finish(self, release: Release) -> None:
        with self.journal.step("prune") as step:
            gone = self.prune()
            step.changed, step.detail = bool(gone), " ".join(gone)
        runtime.point(runtime.find(self.spec.runtime))
        files.write_json(self.layout.app_json, self.spec.to_dict(), 0o600)
        files.delete(self.layout.wanted_json)
        self.undo.forget()
        self.state.note(self.layout, "good", release.id)

    def prune(self) -> list[str]:
        """Removes the oldest releases, never the one that serves or the one before it."""
        kept = {self.state.release, self.state.previous}
        every = states.releases(self.layout)
        broken = [one for one in every if not one.is_built or not one.served]
        good = [one for one in every if one.is_built and one.served]
        surplus = good[: max(0, len(good) - self.spec.keep_releases)]
        gone = [one.id for one in (*broken, *surplus) if one.id not in kept]
        for name in gone:
            files.delete(self.layout.release(name))
        runtime.prune({one.runtime for one in every if one.id not in gone})
        known = {one.id for one in every}
        for entry in self.layout.releases.iterdir():
            if entry.name not in known:
                files.delete(entry)
        return gone

    def strategy(self) -> str:
        """overlap where the plan says that both fit; rolling is done as queue for now."""
        return "overlap" if self.plan and self.plan.value("strategy") == "overlap" else "queue"

    def plan_line(self) -> str:
        if self.plan is None:
            return ""
        workers, threads = self.plan.value("workers"), self.plan.value("threads")
        return f"{workers} workers of {threads} threads, {self.plan.value('worker_class')}, {self.strategy()}"

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
            if phase == "switched":
                self.undo.forget()
                self.promote(str(self.state.active))
                self.mark_served(Release.load(self.layout, str(self.state.release)))
                self.stop(other(str(self.state.active)))
            else:
                self.put_back()
            # A deploy key lies there while git runs, and a killed git leaves it.
            for folder in Path("/run").glob(f"farrier-git-{self.layout.name}-*"):
                files.delete(folder)
            self.state.run = {}
            self.state.save(self.layout)

    def discard(self, candidate: str) -> None:
        """Removes a release that never served."""
        if candidate and candidate != self.state.release:
            found = Release.load(self.layout, candidate)
            if found is None or not found.served:
                files.delete(self.layout.release(candidate))

    def put_back(self) -> None:
        """Files and colours as they were before the run."""
        candidate, old = self.state.run.get("colour"), self.state.active
        moved = units.listen_stream(self.layout)
        restored = self.undo.restore() if self.undo.pending else []
        if any(path.is_relative_to(UNITS) for path in restored):
            systemd.reload_units()
        if candidate and candidate != old:
            systemd.systemctl("stop", self.layout.service(candidate), check=False, timeout=300)
            systemd.systemctl("reset-failed", self.layout.service(candidate), check=False)
        shared.give_back(self.layout, self.state)
        if old and moved != units.listen_stream(self.layout):
            # systemd let go of the address when the file changed; only a start opens it again.
            systemd.systemctl("stop", self.layout.socket, check=False, timeout=300)
        if old:
            self.wake(old)

    def wake(self, old: str) -> None:
        """The colour that served before serves again."""
        for unit in (self.layout.socket, self.layout.service(old)):
            if not systemd.is_active(unit):
                systemd.systemctl("reset-failed", unit, check=False)
                systemd.systemctl("start", unit, timeout=300)
        # A settings file that was put back: the arbiter may already have read the other one.
        if self.state.run.get("phase") == "reload":
            systemd.systemctl("reload", self.layout.service(old), check=False)

    def back_out(self, error: BaseException, first: bool) -> None:
        """After a failure: the host as it was before, and a note of what happened."""
        # A second signal must not cut the way back short.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if self.state.run.get("phase") == "switched":
            return
        with self.journal.step("undo") as step:
            step.changed = True
            candidate = self.state.run.get("candidate")
            # First what takes room: on a full disk nothing else could be put back.
            self.discard(str(candidate or ""))
            self.put_back()
            if first:
                step.detail = "nothing of it is left"
                remove.everything(self.spec, self.layout, self.state, failed=True)
                return
            step.detail = f"release {self.state.release} serves"
            files.delete(self.layout.wanted_json)
            self.state.note(self.layout, "failed", str(candidate or ""), self.journal.clean(str(error))[:500])


def view_action(view: View, state: State) -> str:
    """The view's own judgement, with the run that is under way left out of it."""
    run, view.state.run = state.run, {}
    try:
        return view.action()
    finally:
        view.state.run = run


def new_id(layout: Layout, identity: str) -> str:
    """UTC time and the identity's first digits: sorts by age, says what it is."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    name = f"{stamp}-{identity[:8]}"
    while layout.release(name).exists():
        time.sleep(1)
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{identity[:8]}"
    return name


def _processes(service: str) -> list[str]:
    group = systemd.show(service, "ControlGroup")["ControlGroup"]
    for base in ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        path = Path(f"{base}{group}/cgroup.procs")
        if group and path.exists():
            return path.read_text().split()
    return []


def _seconds(text: str) -> float:
    """systemd's ``1min 30s`` in seconds; an hour where it says infinity or anything else."""
    total, known = 0.0, {"min": 60.0, "s": 1.0, "ms": 0.001, "h": 3600.0}
    for part in text.split():
        number = part.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = part[len(number) :]
        if unit not in known or not number.replace(".", "").isdigit():
            return 3600.0
        total += float(number) * known[unit]
    return total or 3600.0
