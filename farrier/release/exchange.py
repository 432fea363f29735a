"""One colour follows another: beside it (overlap), worker by worker (rolling), or in its place (queue).

Whichever way, traffic moves only to a release that has said READY, and ``switch`` is the commit point:
before it a failure or a kill leaves the old colour as the one, after it the new one.
"""

from __future__ import annotations

import hashlib
import json
import pwd
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FarrierError
from . import colour as colours
from . import command, files, history, room, sized, systemd, units
from .account import Account
from .events import Journal
from .files import Undo
from .layout import COLOURS, UNITS, Layout, other
from .spec import Spec
from .state import Release, State
from .units import Unit
from .view import View

if TYPE_CHECKING:
    from ..sizing.plan import Plan

# A check of the config may take this many times what a start may: it runs nicely beside what serves.
CHECK_FACTOR = 2
# Seconds beyond the graceful time-out until a worker that drains counts as stuck.
DRAIN_SLACK = 15
# Of a colour that the kernel ended while it booted: in our words, and in its arbiter's of its workers.
KILLED = "killed, most likely because it needed more memory than its limit"
KILLED_WORKER = "killed for memory"


@dataclass
class Exchange:
    """The exchange of the colour that serves for the other one, which is to serve `release`."""

    view: View
    release: Release
    account: Account
    journal: Journal
    state: State
    undo: Undo
    in_place: bool = False
    """A queue without a gate, whatever the plan says: nothing of the release had room beside the old one."""

    def __post_init__(self) -> None:
        self.old = self.state.active
        self.new = other(self.old) if self.old else COLOURS[0]
        found = self.view.files(self.new, self.release)
        self.wanted: list[Unit] = found[0]
        self.plan: Plan = found[1]
        self.env: dict[str, str] = found[2]
        self.moves = self.old is not None and units.socket_moves(self.spec, self.layout)
        queue = self.moves or self.old is None or self.in_place
        self.strategy = "queue" if queue else self._strategy()
        self.digest = self.inputs()
        self.has_gate = self._has_gate()
        self.switched: float | None = None

    @property
    def spec(self) -> Spec:
        return self.view.spec

    @property
    def layout(self) -> Layout:
        return self.view.layout

    def _strategy(self) -> str:
        """As the plan has it; where a reload was chosen and will not do, as it would be without."""
        chosen = str(self.plan.value("strategy"))
        if chosen != "reload":
            return chosen
        rest = {name: value for name, value in self.spec.settings.items() if name != "strategy"}
        given = self.view.given_env(self.layout.release(self.release.id) / "src")
        plan = sized.plan_for(replace(self.spec, settings=rest), self.layout, self.release.measured, given)
        return str(plan.value("strategy"))

    def run(self) -> None:
        """Everything from the files to the old colour's end. Raises FarrierError before the switch."""
        self.state.run |= {
            "phase": "start", "candidate": self.release.id, "colour": self.new, "old": self.old,
            "strategy": self.strategy if self.old else "first", "beside": self.is_beside,
        }  # fmt: skip
        now = colours.running(self.layout, self.old) if self.old else None
        if now is not None and not self.in_place:
            self.state.run["workers"] = now.number
        self.state.save(self.layout)
        if self.moves:
            self.close()
        with self.journal.step("files") as step:
            self.write()
            step.changed, step.detail = True, self.line()
        self.check()
        if self.old is None or self.moves:
            self.first()
        elif self.strategy == "queue":
            self.replace(self.old)
        elif self.strategy == "rolling":
            self.rolling(self.old)
        else:
            with self.journal.step("start") as step:
                step.changed, step.detail = True, f"{self.new} beside {self.old}"
                self.start()
        self.switch()
        if self.old and not self.moves and self.strategy != "queue":
            with self.journal.step("stop") as step:
                step.changed, step.detail = True, f"{self.old} has drained"
                colours.stop(self.layout, self.old)

    def line(self) -> str:
        workers, threads = self.plan.value("workers"), self.plan.value("threads")
        return f"{workers} workers of {threads} threads, {self.plan.value('worker_class')}, {self.strategy}"

    # -- before anything starts ----------------------------------------------------------------------

    def close(self) -> None:
        """Before the socket's file changes: systemd removes a unix socket by what the file says then."""
        with self.journal.step("address") as step:
            step.changed, step.detail = True, self.spec.bind
            colours.stop(self.layout, str(self.old))
            systemd.systemctl("stop", self.layout.socket, timeout=colours.SLACK)

    def write(self) -> None:
        """The files of the new colour, held back as a candidate."""
        layout, new = self.layout, self.new
        if layout.candidate_drop_in(new).exists() or systemd.is_active(layout.service(new)):
            # Left over, and not the one that serves; nor is it how things were, to be put back.
            colours.stop(layout, new)
            files.delete(layout.candidate_drop_in(new))
        for unit in self.wanted:
            self.undo.write(unit)
        self.hold_back(gate=self.has_gate)
        self.undo.link(layout.link(new), f"releases/{self.release.id}")
        if self.old is None:
            # A socket needs a service by name; at first there is only this one.
            self.undo.write(units.active(layout, new))
        systemd.reload_units()

    def hold_back(self, gate: bool = False) -> None:
        drop_in = units.candidate(self.layout, self.new, self.plan, self.strategy, self.old, gate)
        self.undo.write(drop_in)

    def _has_gate(self) -> bool:
        """A queue whose plan has room for one worker beside: it is tried before the old one stops.

        A release that has served with these very inputs has passed it. Going back to it is to be quick; if it
        does not boot any more the old one is brought back, as where there is no room.
        """
        if not self.old or self.moves or self.in_place or self.strategy != "queue":
            return False
        proven = self.release.served and not self.release.bad
        if proven and self.release.measured.get("served_with") == self.digest:
            return False
        return "gate_beside" in self.plan and bool(self.plan.value("gate_beside"))

    @property
    def is_beside(self) -> bool:
        """Something of the new release has room while the old one serves."""
        return self.strategy in ("overlap", "rolling") or self.has_gate

    def check(self) -> None:
        """``farrier serve --check-config`` with what the colour will run with; once for the same inputs."""
        if self.release.measured.get("checked") == self.digest:
            return
        with self.journal.step("config") as step:
            step.changed, step.detail = True, "checked as it will run"
            try:
                self.check_config()
            except room.TooLarge:
                if self.old is None or self.is_beside:
                    raise
                step.detail = "not checked: no room for the app beside the one that serves"
                return
        self.release.measured["checked"] = self.digest
        self.release.save(self.layout)

    def check_config(self) -> None:
        link, limit = self.layout.link(self.new), room.free() - room.SPARE
        home = pwd.getpwuid(self.account.uid).pw_dir
        argv = [str(link / "venv/bin/farrier"), "serve", "--check-config", self.spec.app]
        seconds = CHECK_FACTOR * float(units.start_timeout(self.spec, self.plan))
        try:
            room.trial(
                argv, self.account, limit, self.layout.name,
                env=command.base_env({"HOME": home, **self.env}), cwd=link / "src" / self.spec.chdir,
                timeout=seconds, what="config", own_words=True,
            )  # fmt: skip
        except FarrierError as error:
            if str(error).endswith(f"no end after {seconds:.0f} s"):
                told = f"config: {self.spec.app} was not loaded after {seconds:.0f} s"
                raise FarrierError(told, 1) from None
            if room.killed(str(error)):
                raise room.too_large(self.spec.app, limit) from None
            raise

    def inputs(self) -> str:
        """Digest of all that the check depends on, whichever colour it is."""
        env = json.dumps(self.env, sort_keys=True).replace(f"/{self.new}/", "/COLOUR/")
        env = env.replace(f'"FARRIER_INSTANCE": "{self.new}"', "")
        settings = [dict(self.spec.settings), self.plan.gunicorn_settings(), self.spec.app, self.spec.chdir]
        text = env + json.dumps(settings, sort_keys=True, default=str)
        if self.spec.config_file and self.spec.config_file.startswith("/"):
            text += Path(self.spec.config_file).read_text(encoding="utf-8", errors="replace")
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    # -- the ways --------------------------------------------------------------------------------------

    def first(self) -> None:
        """Nobody serves: the socket holds what comes in while the colour boots."""
        with self.journal.step("start") as step:
            step.changed, step.detail = True, self.new
            self.undo.write((units.passing if self.old else units.active)(self.layout, self.new))
            systemd.reload_units()
            self.start()

    def replace(self, old: str) -> None:
        """The socket holds what comes in while the old colour goes and the new one boots."""
        if self.has_gate:
            with self.journal.step("gate") as step:
                step.changed, step.detail = True, f"one worker of {self.new} was ready beside {old}"
                self.start()
                colours.stop(self.layout, self.new)
                self.hold_back()
        with self.journal.step("start") as step:
            step.changed = True
            # Before the old one stops: the next connection must start the new one.
            self.undo.write(units.passing(self.layout, self.new))
            systemd.reload_units()
            self.state.run["phase"] = "replace"
            self.state.save(self.layout)
            # systemd itself starts the new one in the moment in which the old one has ended: the candidate
            # is ordered after it. So no step of ours lies between, and our own end would change nothing.
            systemd.systemctl("stop", "--no-block", self.layout.service(old))
            stop = float(units.number(self.plan, "stop_timeout"))
            self.start(more=max(stop, self.old_stop_timeout(old)))
            step.detail = f"{self.new} in place of {old}{self.gap(old)}"

    def old_stop_timeout(self, old: str) -> float:
        return colours.seconds(systemd.show(self.layout.service(old), "TimeoutStopUSec")["TimeoutStopUSec"])

    def gap(self, old: str) -> str:
        """What the exchange itself cost: from the old colour's end to the new one's first instruction."""
        ended = systemd.show(self.layout.service(old), "InactiveEnterTimestampMonotonic")
        began = systemd.show(self.layout.service(self.new), "ExecMainStartTimestampMonotonic")
        try:
            seconds = (int(*began.values()) - int(*ended.values())) / 1e6
        except ValueError:
            return ""
        return f", {max(seconds, 0) * 1000:.0f} ms after its end"

    def rolling(self, old: str) -> None:
        """One for one: never more than one worker above the larger of the two numbers."""
        with self.journal.step("start") as step:
            step.changed, step.detail = True, f"one worker of {self.new} beside {old}"
            self.start()
        candidate = self.running()
        before = colours.running(self.layout, old)
        wanted = candidate.configured
        most = max(wanted, before.number if before else 1) + 1
        while candidate.ready < wanted:
            with self.journal.step("roll") as step:
                step.changed = True
                beside = colours.running(self.layout, old)
                self.exchange_one(old, candidate, beside, most)
                candidate, beside = self.running(), colours.running(self.layout, old)
                step.detail = f"{self.new} {candidate.ready}, {old} {beside.ready if beside else 0}"

    def exchange_one(
        self, old: str, candidate: colours.Running, beside: colours.Running | None, most: int
    ) -> None:
        """One worker more of the new colour where there is room, else one less of the old one."""
        boot = float(units.start_timeout(self.spec, self.plan))
        drain = float(units.number(self.plan, "graceful_timeout")) + DRAIN_SLACK
        began = time.time() - 0.05
        if candidate.alive + (beside.alive if beside else 0) < most:
            try:
                colours.step_up(self.layout, self.new, boot)
            except FarrierError as error:
                tail = self.tail(began)
                raise FarrierError(f"{error}{f': {tail}' if tail else ''}", 1) from None
        elif beside is not None and beside.number > 1:
            colours.step_down(self.layout, old, drain)
        elif not colours.settle(self.layout, old, drain):
            # One is left of the old colour, and others of it that drain take their room.
            raise FarrierError(
                f"workers of {self.layout.service(old)} had not drained after {drain:.0f} s", 1
            )
        elif not colours.settle(self.layout, self.new, boot):
            # One that was ready has ended, and its successor takes the room.
            raise FarrierError(
                f"workers of {self.layout.service(self.new)} were not ready after {boot:.0f} s", 1
            )

    def running(self) -> colours.Running:
        """The candidate; FarrierError if it has ended."""
        now = colours.running(self.layout, self.new)
        if now is None:
            tail = self.tail(time.time() - 60)
            told = f"{self.layout.service(self.new)} ended while its workers were started"
            raise FarrierError(f"{told}{f': {tail}' if tail else ''}", 1)
        return now

    def start(self, more: float = 0.0) -> None:
        """Starts the new colour and returns when it has said READY. Raises FarrierError with what it told."""
        service, began = self.layout.service(self.new), time.time() - 0.05
        if not systemd.is_active(self.layout.socket):
            systemd.systemctl("start", self.layout.socket)
        limit = units.start_timeout(self.spec, self.plan) + colours.SLACK + more
        colours.start(self.layout, self.new, limit, lambda: self.reason(service, began))
        self.journal.say(f"{service} is ready")

    def reason(self, service: str, began: float) -> str:
        """Why it did not become ready, by the journal: a connection that waits may have started it again."""
        found = systemd.show(service, "Result", "ExecMainStatus")
        said, tail = systemd.journal_since(service, began), self.tail(began)
        limit = units.start_timeout(self.spec, self.plan)
        if found["Result"] == "timeout" or any("start operation timed out" in line for line in said):
            unready = [line for line in systemd.messages_since(service, began) if " is not ready: " in line]
            if unready:
                return f"not ready after {limit} s: {unready[-1].partition(' is not ready: ')[2]}"
            quiet = not tail or "start operation timed out" in tail
            return f"not ready after {limit} s" + ("" if quiet else f"; it last said: {tail}")
        killed = ("code=killed, status=9/KILL", "result 'oom-kill'")
        if found["Result"] == "oom-kill" or any(mark in line for line in said for mark in killed):
            return KILLED
        return tail or f"{found['Result']}, exit status {found['ExecMainStatus']}"

    def tail(self, since: float) -> str:
        return systemd.telling_line(systemd.journal_since(self.layout.service(self.new), since))

    # -- the commit point --------------------------------------------------------------------------------

    def switch(self) -> None:
        """From here on the new colour is the one, whatever happens."""
        with self.journal.step("switch") as step:
            step.changed, step.detail = True, f"{self.new}, release {self.release.id}"
            self.undo.write(units.active(self.layout, self.new))
            self.undo.link(self.layout.current, f"releases/{self.release.id}")
            links(self.layout, self.new)
            if self.state.release != self.release.id:
                self.state.previous = self.state.release
            self.state.active, self.state.release = self.new, self.release.id
            self.state.run["phase"] = "switched"
            self.state.save(self.layout)
            self.switched = time.monotonic()
            self.undo.forget()
            self.release.measured["served_with"] = self.digest
            self.release.save(self.layout)
            promote(self.layout, self.new)
            history.took_over(self.layout, self.state)
            keep_plan(self.layout, self.new, self.release.id)


def had_no_room(error: FarrierError) -> bool:
    """Whether a candidate did not come up, or was not checked, for want of memory."""
    return isinstance(error, room.TooLarge) or KILLED in str(error) or KILLED_WORKER in str(error)


def links(layout: Layout, colour: str) -> None:
    """``env``, ``plan.json`` and ``settings.json`` beside app.json are the active colour's."""
    for name in ("env", "plan.json", "settings.json"):
        files.link(layout.etc / name, f"{colour}/{name}")


def keep_plan(layout: Layout, colour: str, release: str) -> None:
    """The plan that a release serves with lies beside it: what explain, status and doctor read."""
    plan = files.read_json(layout.colour_dir(colour) / "plan.json")
    if plan is not None:
        files.write_json(layout.release(release) / "plan.json", plan)


def promote(layout: Layout, colour: str) -> None:
    """Takes the candidate's limits off; a restart of systemd's own then is a normal one."""
    files.delete(layout.candidate_drop_in(colour))
    files.delete(layout.passing_drop_in)
    systemd.reload_units()
    for process in systemd.processes(layout.service(colour)):
        score = Path("/proc", process, "oom_score_adj")
        try:
            # Workers stay above their arbiter, see farrier.serve.oom.
            score.write_text(str(max(0, int(score.read_text()) - units.CANDIDATE_OOM_SCORE)))
        except (OSError, ValueError):
            # Without CAP_SYS_RESOURCE (a container) the kernel may refuse; the next start has it.
            continue
    if not (UNITS / "sockets.target.wants" / layout.socket).is_symlink():
        systemd.systemctl("enable", "--quiet", layout.socket)


def complete(layout: Layout, state: State) -> None:
    """What was left to do after a switch: the new colour serves alone, with its own limits."""
    active = str(state.active)
    promote(layout, active)
    history.took_over(layout, state)
    keep_plan(layout, active, str(state.release))
    wake(layout, active)
    colours.stop(layout, other(active))


def wake(layout: Layout, colour: str) -> None:
    """The colour serves, whatever has become of it; returns when it does."""
    for unit in (layout.socket, layout.service(colour)):
        # One that is being started or stopped counts as well: the order waits for it.
        if systemd.show(unit, "ActiveState")["ActiveState"] not in ("active", "reloading"):
            systemd.systemctl("reset-failed", unit, check=False)
            systemd.systemctl("start", unit, timeout=300)


def end_candidate(layout: Layout, state: State, run: Mapping[str, object]) -> None:
    """The colour that was to take over, in whatever state it is."""
    candidate = run.get("colour")
    if isinstance(candidate, str) and candidate != state.active:
        systemd.systemctl("stop", layout.service(candidate), check=False, timeout=300)
        systemd.systemctl("reset-failed", layout.service(candidate), check=False)


def step_back(layout: Layout, state: State, run: Mapping[str, object], limit: float) -> None:
    """After a failure or a kill before the switch: the old colour alone, and as large as it was."""
    old = state.active
    end_candidate(layout, state, run)
    if old:
        wake(layout, old)
        number = run.get("workers")
        if isinstance(number, int) and not colours.restore(layout, old, number, limit):
            now = colours.running(layout, old)
            if now is not None and now.number < number:
                raise FarrierError(f"{layout.service(old)} has {now.number} workers, and had {number}", 1)
