"""Apps of one host that are deployed at once see what each is about to take."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farrier.errors import FarrierError
from farrier.release import files, layout, machine, neighbours, priority, sized
from farrier.release import state as states
from farrier.release.events import Journal
from farrier.release.layout import CLAIM, Layout
from farrier.release.machine import Machine
from farrier.release.runtime import Runtime
from farrier.release.spec import Spec
from farrier.release.state import Release, State
from farrier.release.view import View
from farrier.sizing import Budget
from farrier.sizing import budget as budgets

MIB = 1 << 20
Deploy = Callable[..., tuple[Machine, View, Release]]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host of 512 MiB in a folder; nothing of systemd is asked."""
    for module in (layout, sized):
        monkeypatch.setattr(module, "ETC", tmp_path / "etc")
    monkeypatch.setattr(neighbours, "VAR", tmp_path / "var")
    budget = Budget(512 * MIB, 1, "/proc/meminfo MemTotal", "os.cpu_count", 512 * MIB)
    monkeypatch.setattr(budgets, "read_budget", lambda **more: budget)
    monkeypatch.setattr(priority, "even", lambda unit: None)
    return tmp_path


@pytest.fixture
def deploy(host: Path) -> Deploy:
    """A run of an app at the place where it claims."""

    def one(name: str, **more: Any) -> tuple[Machine, View, Release]:
        given = {
            "name": name,
            "app": "m:app",
            "root": str(host / "srv" / name),
            "source": {"type": "requirement", "requirement": name},
            "workload": {"app_memory": "100MiB"},
            **more,
        }
        spec, where = Spec.from_mapping(given), Layout(name, host / "srv" / name)
        where.etc.mkdir(parents=True)
        where.root.mkdir(parents=True)
        where.wanted_json.write_text(json.dumps(given))
        run = Machine(spec, where, Journal(where.events, "run"), "kate")
        view = View(spec, where, State(), Runtime("0.3.0", None), None, "")
        return run, view, Release("r1", "identity", "2026-11-01T00:00:00Z", runtime="0.3.0")

    return one


def taken(name: str) -> dict[str, int]:
    return {one.name: one.taken for one in sized.others(name)}


def test_of_two_deploys_at_once_the_second_is_planned_beside_the_first(deploy: Deploy) -> None:
    shop, its_view, its_release = deploy("shop")
    blog, view, release = deploy("blog")
    alone = view.fitted({}).plan
    with states.locked(shop.layout, "kate"):
        first = shop.claim(its_view, its_release)
        assert not first.must_shrink and sized.peak(first.plan) == sized.peak(alone)
        assert taken("blog") == {"shop": sized.peak(first.plan)}
        with states.locked(blog.layout, "paul"):
            second = blog.claim(view, release)
            # Both as alone would not fit, so the second has no more than the first has left.
            assert second.must_shrink or (
                sized.peak(first.plan) + int(str(second.plan.value("memory_max"))) <= 512 * MIB
            )
            assert sized.peak(second.plan) < sized.peak(alone)
            # The first goes on with what it claimed, whatever came after it.
            assert its_view.fitted({}) is first
            assert taken("shop").keys() == {"blog"}


def test_the_claim_of_a_run_that_is_gone_counts_for_nothing(deploy: Deploy) -> None:
    shop, its_view, its_release = deploy("shop")
    with states.locked(shop.layout, "kate"):
        shop.claim(its_view, its_release)
        assert taken("blog")
    assert (shop.layout.etc / CLAIM).exists()
    assert not taken("blog")
    # Nor where the app itself is gone, and its folder is left.
    shop.layout.wanted_json.unlink()
    assert not taken("blog")


def test_what_serves_counts_until_the_run_has_made_it_smaller(deploy: Deploy) -> None:
    shop = deploy("shop")[0]
    for now, claimed, larger in ((200, 100, 200), (100, 200, 200)):
        plan = {"memory_deploy_peak": now * MIB, "memory_max": 300 * MIB}
        files.write_json(shop.layout.etc / "plan.json", plan)
        files.write_json(shop.layout.etc / CLAIM, {**plan, "memory_deploy_peak": claimed * MIB})
        with states.locked(shop.layout, "kate"):
            assert taken("blog") == {"shop": larger * MIB}
        assert taken("blog") == {"shop": now * MIB}


def test_a_run_plans_while_no_other_one_does(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    waits, inside = threading.Event(), threading.Event()
    monkeypatch.setattr(neighbours.time, "sleep", lambda seconds: waits.set())

    def other() -> None:
        inside.wait(10)
        with neighbours.planning():
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with neighbours.planning():
        inside.set()
        assert waits.wait(10), "it did not wait"
        order.append("first")
    thread.join(10)
    assert order == ["first", "other"]
    with neighbours.planning():
        monkeypatch.setattr(neighbours, "PLANS_WAIT", 0.0)
        with pytest.raises(FarrierError, match=r"another run has planned for 0 s and holds .*plans.lock"):
            neighbours.planning().__enter__()


def test_it_is_planned_under_the_lock_and_claimed_before_it_is_let_go(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, view, release = deploy("shop")
    seen: list[str] = []

    def held(told: str) -> None:
        descriptor = neighbours._taken()
        seen.append(told if descriptor is None else "nobody holds it")

    fitted, claim = sized.fitted, neighbours.claim
    monkeypatch.setattr(sized, "fitted", lambda *args: (held("fitted"), fitted(*args))[1])
    monkeypatch.setattr(neighbours, "claim", lambda *args: (held("claimed"), claim(*args))[1])
    shop.claim(view, release)
    assert seen == ["fitted", "claimed"]


def test_every_run_that_changes_something_claims_and_a_failed_one_lets_go(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, view, release = deploy("shop")
    claims: list[bool] = []

    def settle(self: Machine, *args: Any) -> None:
        claims.append((self.layout.etc / CLAIM).exists())
        raise FarrierError("no", 1)

    shop.only_plan, shop.target = True, "r1"
    monkeypatch.setattr(Release, "load", lambda *args: release)
    monkeypatch.setattr(machine, "look", lambda *args, **more: view)
    monkeypatch.setattr(machine, "seal", lambda *args: None)
    monkeypatch.setattr(Machine, "judged", lambda *args: "reload")
    monkeypatch.setattr(Machine, "settle", settle)
    monkeypatch.setattr(Machine, "put_back", lambda self: None)
    monkeypatch.setattr(machine.signal, "signal", lambda *args: None)
    shop.account = None  # type: ignore[assignment]
    with pytest.raises(FarrierError) as caught:
        shop.advance()
    shop.back_out(caught.value, first=False)
    assert claims == [True] and not (shop.layout.etc / CLAIM).exists()
