"""What an operator sees on a real host at 3 a.m."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytestmark = pytest.mark.systemd
Tree = Callable[[str], dict[str, str]]


@pytest.fixture(scope="module")
def desk(site: Any, hello_tree: Tree) -> Iterator[Any]:
    """An app that serves, and the command line of its host."""
    site.apply(site.spec("desk", hello_tree("one"), bind="127.0.0.1:8141"))
    yield site
    site.remove("desk")


def findings(site: Any) -> dict[str, dict[str, str]]:
    told = site.host.run(["farrier", "doctor", "desk", "--json"], check=False).stdout
    return {one["check"]: one for one in json.loads(told)["desk"]}


def test_doctor_finds_nothing_to_change_after_a_deploy(desk: Any) -> None:
    found = findings(desk)
    assert {one["level"] for one in found.values()} == {"ok"} or not [
        one for name, one in found.items() if one["level"] not in ("ok",) and name != "swap"
    ], found


def test_status_says_what_serves(desk: Any) -> None:
    one = json.loads(desk.host.run(["farrier", "status", "desk", "--json"]).stdout)
    assert one["serving"]
    assert one["release"] == desk.state("desk")["release"]
    assert [worker["ready"] for worker in one["workers"]] == [True] * one["workers_planned"]
    assert 0 < one["memory_bytes"] < one["memory_limit_bytes"]
    assert "health/ready: 200" in one["health"]


def test_the_plan_in_force_is_shown_and_explained(desk: Any) -> None:
    stored = json.loads(desk.host.read("/srv/desk/current/plan.json"))
    shown = json.loads(desk.host.run(["farrier", "plan", "--app", "desk", "--json"]).stdout)
    assert shown == stored
    told = desk.host.run(["farrier", "explain", "workers"]).stdout
    assert told.startswith(f"workers = {stored['workers']}")
    assert "plan in force of desk" in told


@pytest.mark.parametrize("command", [["status"], ["doctor"], ["explain", "workers"]])
def test_an_ordinary_user_is_told_to_use_sudo(desk: Any, command: list[str]) -> None:
    done = desk.host.run(["setpriv", "--reuid=65534", "--clear-groups", "farrier", *command], check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "sudo" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_worker_that_is_killed_is_replaced_and_a_look_wakes_nothing(desk: Any) -> None:
    host = desk.host
    host.shell("kill -9 $(pgrep -u desk -f 'worker \\[' | head -1) 2>/dev/null || true")
    desk.wait_for("all workers ready", "farrier doctor desk --json | grep -q 'workers are ready'")
    active = desk.state("desk")["active"]
    host.run(["systemctl", "stop", f"desk@{active}.service"])
    one = json.loads(host.run(["farrier", "status", "desk", "--json"], check=False).stdout)
    assert not one["serving"]
    assert findings(desk)["running"]["level"] == "wrong"
    state = host.run(["systemctl", "is-active", f"desk@{active}.service"], check=False).stdout.strip()
    assert state == "inactive", "looking at it started what somebody had stopped"
    host.run(["systemctl", "start", f"desk@{active}.service"])


def test_doctor_names_a_missing_user(desk: Any) -> None:
    host = desk.host
    host.shell("cp /etc/passwd /tmp/passwd.kept; sed -i '/^desk:/d' /etc/passwd")
    try:
        assert findings(desk)["account"]["seen"].startswith("user desk does not exist")
    finally:
        host.shell("cat /tmp/passwd.kept > /etc/passwd; rm /tmp/passwd.kept")


def test_a_deploy_that_failed_is_told_with_what_to_do(desk: Any, hello_tree: Tree) -> None:
    before = desk.state("desk")["release"]
    desk.refused(desk.spec("desk", {"main.py": "raise RuntimeError('no such luck')"}, bind="127.0.0.1:8141"))
    one = json.loads(desk.host.run(["farrier", "status", "desk", "--json"]).stdout)
    assert (one["last_deploy"]["outcome"], one["release"]) == ("failed", before)
    assert "FAILED" in desk.host.run(["farrier", "status", "desk"]).stdout
    found = findings(desk)["last deploy"]
    assert found["level"] == "look"
    assert "no such luck" in found["seen"]
    assert before in found["change"]
    desk.apply(desk.spec("desk", hello_tree("two"), bind="127.0.0.1:8141"))
    assert findings(desk)["last deploy"]["level"] == "ok"


def test_a_plan_that_a_reload_brings_is_the_one_that_is_told(desk: Any, hello_tree: Tree) -> None:
    spec = desk.spec("desk", hello_tree("two"), bind="127.0.0.1:8141")
    before = desk.apply(spec)["plan"]["workers"]
    spec["settings"] = {"workers": before + 1}
    assert "reload" in [step["name"] for step in desk.apply(spec)["steps"]]
    shown = json.loads(desk.host.run(["farrier", "plan", "--app", "desk", "--json"]).stdout)
    assert shown["workers"] == before + 1
    assert findings(desk)["workers"]["level"] == "ok"
    desk.apply({**spec, "settings": {}})


def test_another_number_of_workers_is_mended_by_the_command_that_doctor_names(desk: Any) -> None:
    active = desk.state("desk")["active"]
    file = f"/run/farrier/desk/{active}.json"
    planned = json.loads(desk.host.read(file))["workers_wanted"]
    desk.host.shell(f"systemctl kill --kill-whom=main -s TTIN desk@{active}")
    wanted = "grep -q '\"workers_wanted\": %d' " + file
    desk.wait_for("one worker more", wanted % (planned + 1))
    found = findings(desk)["workers"]
    assert (found["level"], f"{planned + 1} workers where {planned}" in found["seen"]) == ("look", True)
    desk.host.shell(found["change"])
    desk.wait_for("as planned", wanted % planned)
    assert findings(desk)["workers"]["level"] == "ok"


def test_what_is_left_of_a_candidate_is_found_and_removed_by_the_command_that_doctor_names(desk: Any) -> None:
    other = {"blue": "green", "green": "blue"}[desk.state("desk")["active"]]
    folder = f"/run/systemd/system/desk@{other}.service.d"
    desk.host.shell(f"mkdir -p {folder}; echo '[Service]' > {folder}/90-candidate.conf")
    found = findings(desk)["deploy"]
    assert (found["level"], f"{folder}/90-candidate.conf" in found["seen"]) == ("look", True)
    desk.host.shell(found["change"])
    assert findings(desk)["deploy"]["level"] == "ok"


def test_status_counts_what_was_answered_and_how_fast(desk: Any) -> None:
    def requests() -> int:
        one = json.loads(desk.host.run(["farrier", "status", "desk", "--json"]).stdout)
        return int(one["traffic"]["requests"])

    before = requests()
    for _ in range(5):
        desk.get(8141)
    desk.wait_for("counted", f"farrier status desk --json | grep -q '\"requests\": {before + 5}'", 10)
    shown = desk.host.run(["farrier", "status", "desk"]).stdout
    assert "p95" in shown
    assert f"{before + 5} requests since it started, 0.00% errors" in shown


def test_a_deploy_under_way_is_shown_with_both_colours_and_their_workers(desk: Any, hello_tree: Tree) -> None:
    slow = {"main.py": "import time\ntime.sleep(1.5)\n" + hello_tree("three")["main.py"]}
    settings = {"strategy": "rolling", "workers": 2}
    spec = desk.spec("desk", slow, bind="127.0.0.1:8141", settings=settings)
    seen: list[dict[str, Any]] = []
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(desk.apply, spec)
        while not run.done():
            told = desk.host.run(["farrier", "status", "desk", "--json"], check=False).stdout
            seen += [json.loads(told)] if told else []
        run.result()
    under_way = [one for one in seen if one["deploy"]]
    both = [one for one in under_way if len(one["colours"]) == 2]
    assert both, "no look met the exchange"
    assert {one["deploy"]["who"] for one in under_way} == {"tests"}
    assert {one["deploy"]["strategy"] for one in both} == {"rolling"}
    assert {one["deploy"]["step"] for one in both} & {"start", "roll", "switch", "stop"}
    assert all(sum(colour["ready"] for colour in one["colours"]) <= 3 for one in both), "never above N + 1"
    last = json.loads(desk.host.run(["farrier", "status", "desk", "--json"]).stdout)
    assert (last["deploy"], len(last["colours"]), last["strategy"]) == (None, 1, "rolling")
    assert last["last_deploy"]["strategy"] == "rolling"
    assert {one["level"] for one in findings(desk).values() if one["check"] in ("colours", "workers")} == {
        "ok"
    }
