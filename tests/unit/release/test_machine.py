"""How a run ends that does not end as it should, where systemd is not needed to see it."""

from __future__ import annotations

import fnmatch
import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from farrier.errors import FarrierError
from farrier.release import (
    apply,
    events,
    exchange,
    layout,
    machine,
    notify,
    priority,
    room,
    source,
    systemd,
    units,
)
from farrier.release import colour as colours
from farrier.release import state as states
from farrier.release.account import Account
from farrier.release.events import Journal
from farrier.release.files import File, Undo
from farrier.release.layout import Layout
from farrier.release.machine import Machine
from farrier.release.spec import Spec
from farrier.release.state import Release, State
from farrier.release.view import View

SPEC = {"name": "shop", "app": "main:app", "source": {"type": "requirement", "requirement": "shop==2"}}
BEFORE = {**SPEC, "source": {"type": "requirement", "requirement": "shop==1"}}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """An app on a host of its own in a folder; systemd is not asked."""
    for name in ("ETC", "UNITS", "PASSING_UNITS", "RUN"):
        monkeypatch.setattr(layout, name, tmp_path / name)
    found = Layout("shop", tmp_path / "srv")
    found.etc.mkdir(parents=True)
    found.root.mkdir()
    monkeypatch.setattr(systemd, "systemctl", lambda *args, **more: "")
    monkeypatch.setattr(systemd, "show", lambda unit, *names: dict.fromkeys(names, "inactive"))
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    return found


def ended(shop: Layout, phase: str, **more: Any) -> Machine:
    """A run of release r2 over r1 that was ended in a phase; its order and app.json are those of then."""
    state = State(active="green" if phase == "switched" else "blue", previous="r0")
    state.release = "r2" if phase == "switched" else "r1"
    state.run = {
        "id": "run",
        "who": "kate",
        "phase": phase,
        "from": "r1",
        "candidate": "r2",
        "colour": "green",
    }
    state.run |= more
    state.save(shop)
    shop.app_json.write_text(json.dumps(BEFORE))
    shop.wanted_json.write_text(json.dumps({**SPEC, "order": {"run": "run"}}))
    journal = Journal(shop.events, "run")
    with journal.step("guard" if phase == "switched" else "start"):
        pass
    return Machine(Spec.from_mapping(SPEC), shop, journal, "kate")


def refused(*args: object) -> None:
    raise FarrierError("systemctl start shop@blue.service: Job failed", 1)


def in_force(shop: Layout) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shop.app_json.read_text())
    return found


def test_what_does_not_start_any_more_keeps_nobody_out(shop: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old release broke meanwhile: a killed run is put right as far as it goes, once."""
    monkeypatch.setattr(machine, "step_back", refused)
    run = ended(shop, "start")
    run.recover()
    state = State.load(shop)
    assert state.run == {}
    assert state.history[-1]["outcome"] == "failed"
    assert run.warnings == ["release r1: systemctl start shop@blue.service: Job failed"]


@pytest.mark.parametrize(
    ("number", "told"), [(1, "shop@blue.service has 1 workers, and had 3"), (3, ""), (None, "")]
)
def test_workers_that_do_not_come_back_are_told(
    shop: Layout, monkeypatch: pytest.MonkeyPatch, number: int | None, told: str
) -> None:
    """None: an arbiter that has just been started has told nothing yet, and starts them by itself."""
    now = None if number is None else SimpleNamespace(number=number)
    monkeypatch.setattr(exchange, "wake", lambda *args: None)
    monkeypatch.setattr(colours, "restore", lambda *args: False)
    monkeypatch.setattr(colours, "running", lambda *args: now)
    run = ended(shop, "start", workers=3)
    run.recover()
    assert run.warnings == ([f"release r1: {told}"] if told else [])


def test_who_stops_the_run_meanwhile_does_stop_it(shop: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*args: object) -> None:
        raise machine.Stopped("stopped by systemctl stop", 1)

    monkeypatch.setattr(machine, "step_back", stopped)
    with pytest.raises(machine.Stopped):
        ended(shop, "start").recover()
    assert State.load(shop).run["phase"] == "start"


def test_a_failed_run_says_so_where_the_old_release_does_not_come_back(
    shop: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "step_back", refused)
    run = ended(shop, "replace")
    with pytest.raises(FarrierError) as caught:
        run.back_out(FarrierError("shop@green.service did not become ready", 1), first=False)
    told = "shop@green.service did not become ready; release r1: systemctl"
    assert str(caught.value).startswith(told)
    state = State.load(shop)
    assert state.run == {}
    assert state.history[-1]["message"].startswith(told)


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_run_that_is_ended_after_the_switch_leaves_nothing_to_the_next_one(
    shop: Layout, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Stopped: by ``systemctl stop``, which the run itself sees. Killed: by recover."""
    completed: list[str | None] = []
    monkeypatch.setattr(machine, "complete", lambda where, state: completed.append(state.active))
    run = ended(shop, "switched")
    if how == "stopped":
        run.back_out(FarrierError("stopped by systemctl stop", 1), first=False)
    else:
        run.recover()
    assert completed == ["green"]
    # Environment and address of what serves are the ones on record, for a rollback and a turn back.
    assert in_force(shop) == SPEC
    state = State.load(shop)
    assert (state.run, state.history[-1]["outcome"], state.history[-1]["release"]) == ({}, "good", "r2")
    said = ": stopped by systemctl stop" if how == "stopped" else " by a kill"
    assert state.history[-1]["message"] == f"ended at guard{said}; the new release serves"


def test_a_turn_back_that_cannot_be_ended_is_tried_once(
    shop: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed on its way back, and the good release does not start: the run after that goes its own way."""
    monkeypatch.setattr(machine, "step_back", lambda *args: None)
    monkeypatch.setattr(machine, "complete", lambda *args: None)
    monkeypatch.setattr(Machine, "go_on_back", refused)
    run = ended(shop, "switched", back="half were errors", bad="r2", bad_colour="green")
    with pytest.raises(FarrierError):
        run.recover()
    state = State.load(shop)
    assert (state.run, state.history[-1]["outcome"]) == ({}, "failed")
    assert "release r2 serves" in state.history[-1]["message"]
    assert in_force(shop) == BEFORE


def test_the_spec_in_force_is_that_of_what_serves(shop: Layout) -> None:
    for phase, more, wanted in (
        ("start", {}, BEFORE),
        ("switched", {}, SPEC),
        # On its way back, or another run's order.
        ("switched", {"back": "half were errors"}, BEFORE),
        ("switched", {"id": "another"}, BEFORE),
    ):
        ended(shop, phase, **more)
        assert states.in_force(shop, State.load(shop)) == wanted, (phase, more)


def test_a_rollback_after_a_power_cut_keeps_the_environment_of_what_serves(
    shop: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(shop, "switched")
    shop.wanted_json.write_text(json.dumps({**SPEC, "env": {"A": "new"}, "order": {"run": "run"}}))
    one = Release("r1", "identity", "2026-11-01T00:00:00Z", spec=BEFORE)
    shop.release("r1").mkdir(parents=True)
    one.save(shop)
    spec = apply._spec_of_release(shop, State.load(shop), "r1", "paul")
    assert (spec.env, spec.source.requirement, spec.who) == ({"A": "new"}, "shop==1", "paul")
    # Of a run under way nobody knows whether what it brings stays.
    monkeypatch.setattr(systemd, "show", lambda unit, *names: dict.fromkeys(names, "active"))
    assert apply._spec_of_release(shop, State.load(shop), "r1", "paul").env == {}


def test_a_run_that_was_killed_is_told(shop: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[dict[str, Any]] = []
    monkeypatch.setattr(notify, "send", lambda spec, event, journal: heard.append(event))
    monkeypatch.setattr(machine, "step_back", lambda *args: None)
    monkeypatch.setattr(states, "layout_of", lambda name: shop)
    ended(shop, "start")
    machine.recover("shop")
    assert [(one["outcome"], one["serves"], one["who"]) for one in heard] == [("failed", "r1", "kate")]
    assert "ended at start by a kill" in heard[0]["text"]
    # And once: there is nothing left of it.
    machine.recover("shop")
    assert len(heard) == 1


def test_a_switch_that_was_cut_short_leaves_the_old_colours_plan(
    shop: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "step_back", lambda *args: None)
    run = ended(shop, "start")
    exchange.links(shop, "green")
    run.recover()
    assert (shop.etc / "plan.json").readlink() == Path("blue/plan.json")


@pytest.mark.parametrize("action", ["live", "reload"])
def test_a_reload_that_changes_the_plan_changes_what_explain_and_doctor_read(
    shop: Layout, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setattr(Machine, "reload", lambda *args: None)
    run = ended(shop, "build")
    run.layout.release("r1").mkdir(parents=True)
    unit = units.Unit(shop.colour_dir("blue") / "plan.json", '{"workers": 3}\n')
    view: Any = SimpleNamespace(files=lambda *args: ([unit], None, {}), given_env=lambda src: {})
    run.settle(view, Release("r1", "identity", "2026-11-01T00:00:00Z"), action)
    assert json.loads((shop.release("r1") / "plan.json").read_text()) == {"workers": 3}


def test_what_a_colour_was_given_is_not_told(shop: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that is built already, or that a rollback or a turn back brings: with its files of then."""
    src = shop.release("r1") / "src"
    src.mkdir(parents=True)
    (src / ".env").write_text("API_KEY=s3cret-of-then\n")
    run = ended(shop, "start")
    then = Spec.from_mapping({**BEFORE, "env_files": [".env"], "env": {"TOKEN": "t0ken-of-then"}})
    view = View(then, shop, run.state, SimpleNamespace(version="1"), None, "")  # type: ignore[arg-type]
    told, run.account = run.journal.clean, Account("shop", 1, 1)

    def change(*args: Any) -> Any:
        raise FarrierError(told("no route with s3cret-of-then, t0ken-of-then"), 1)

    monkeypatch.setattr(machine, "Exchange", change)
    with pytest.raises(FarrierError, match=r"^no route with \*\*\*, \*\*\*$"):
        run.exchange(view, Release("r1", "identity", "2026-11-01T00:00:00Z"))


def test_the_apps_weigh_as_others_once_no_other_run_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, other = "farrier-deploy-shop.service", "farrier-deploy-blog.service"
    for listed, weighed in (([], 1), ([own], 1), ([other], 0), ([own, other], 0)):
        asked: list[tuple[str, ...]] = []

        def systemctl(*args: str, check: bool, listed: list[str] = listed, asked: Any = asked) -> str:
            asked.append(args)
            return "\n".join(f"{unit} loaded active running" for unit in listed)

        monkeypatch.setattr(systemd, "systemctl", systemctl)
        priority.even(own)
        assert len([args for args in asked if args[0] == "set-property"]) == weighed, listed


def test_a_unit_that_is_put_right_after_its_end_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    for state, there in (("active", True), ("deactivating", True), ("inactive", False), ("failed", False)):
        monkeypatch.setattr(systemd, "show", lambda unit, *names, state=state: {"ActiveState": state})
        assert systemd.is_there("farrier-deploy-shop.service") is there


def test_what_a_killed_run_leaves_is_this_apps_and_no_neighbours(shop: Layout) -> None:
    scope = room.bounded(["true"], SimpleNamespace(uid=1, gid=1), 1 << 30, "shop")[4].removeprefix("--unit=")  # type: ignore[arg-type]
    assert fnmatch.fnmatch(scope, room.scopes("shop"))
    assert not fnmatch.fnmatch("farrier-trial-shop-api-0a1b2c.scope", room.scopes("shop"))
    assert fnmatch.fnmatch("farrier-git-shop-k_x0a1b2", source.leftovers("shop"))
    assert not fnmatch.fnmatch("farrier-git-shop-api-k_x0a1b2", source.leftovers("shop"))


def test_a_line_that_a_kill_cut_short_does_not_end_its_follower(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(
        '{"t": 1, "run": "old", "ev{"t": 2, "run": "new", "event": "start", "step": "account"}\n7\n'
    )
    journal = Journal(path, "new")
    journal.end({"failed": False})
    with path.open("rb") as stream:
        told = list(events.follow(stream.fileno(), 0, "new", lambda: True))
    assert [one["event"] for one in told] == ["end"]


def test_a_drop_in_that_was_left_over_is_not_put_back(shop: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    left = shop.candidate_drop_in("green")
    left.parent.mkdir(parents=True)
    left.write_text("# of a run long ago\n")
    monkeypatch.setattr(units, "candidate", lambda *args: File(left, "# of this run\n"))
    self: Any = SimpleNamespace(
        layout=shop, new="green", old="blue", wanted=[], undo=Undo(shop.undo), plan=None
    )
    self.release, self.has_gate, self.strategy = SimpleNamespace(id="r2"), False, "overlap"
    self.hold_back = lambda gate: exchange.Exchange.hold_back(self, gate)
    exchange.Exchange.write(self)
    assert left.read_text() == "# of this run\n"
    self.undo.restore()
    assert not left.exists()


def test_a_rolling_exchange_waits_for_a_worker_of_its_own_no_longer_than_a_boot(
    shop: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was ready ended, its successor hangs in its boot and takes the room of the next one."""
    asked: list[str] = []

    def settle(where: Layout, colour: str, limit: float) -> bool:
        asked.append(colour)
        return colour == "blue"

    monkeypatch.setattr(colours, "settle", settle)
    monkeypatch.setattr(units, "start_timeout", lambda spec, plan: 8)
    monkeypatch.setattr(units, "number", lambda plan, name: 5.0)
    self: Any = SimpleNamespace(layout=shop, spec=None, plan=None, new="green")
    candidate, beside = SimpleNamespace(alive=2), SimpleNamespace(alive=1, number=1)
    with pytest.raises(FarrierError, match=r"workers of shop@green.service were not ready after 8 s"):
        exchange.Exchange.exchange_one(self, "blue", candidate, beside, most=3)  # type: ignore[arg-type]
    assert asked == ["blue", "green"]
