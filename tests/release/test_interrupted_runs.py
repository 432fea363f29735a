"""A rollback, a build, a turn back and an import that are killed; a follower and a connection that are cut.

As test_interruptions, which kills an exchange; a file of its own, so that another lane can take it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.release.client import using
from tests.release.interrupting import PORT, WORKERS, alone, killed, steps, to

pytestmark = pytest.mark.systemd
Tree = Callable[[str], dict[str, str]]


def test_a_rollback_killed_at_each_step(site: Any, walk: dict[str, Any]) -> None:
    walk["spec"]["settings"] = {"workers": WORKERS}
    site.farrier("apply", to(site, walk, "even"))
    site.farrier("apply", to(site, walk, "odd"))
    ids = {word: site.state("walk")[key] for word, key in (("odd", "release"), ("even", "previous"))}
    every = steps(site.farrier("rollback", "walk", "--to", ids["even"]))
    word, other = "odd", "even"
    with using(site, PORT) as told:
        for step, nth in every:
            killed(site, step, nth, "rollback", "walk", "--to", ids[word])
            serves = alone(site)
            assert serves == (word if step in ("stop", "guard", "prune") else other), step
            if serves == other:
                site.farrier("rollback", "walk", "--to", ids[word])
            assert alone(site) == word
            word, other = other, word
    assert told.failed == (), told.failed


def test_a_build_killed_at_each_step(site: Any, walk: dict[str, Any], hello_tree: Tree) -> None:
    walk["spec"]["commands"] = {"build": ["true"], "migrate": ["true"]}
    walk["spec"]["settings"] = {"workers": 1, "strategy": "overlap"}
    with using(site, PORT) as told:
        walk["sources"]["built"] = site.upload(hello_tree("built-0"))
        every = steps(site.farrier("apply", to(site, walk, "built")))
        names = [name for name, _ in every]
        names.insert(names.index("files") + 1, "config")
        assert names[: names.index("files")] == [
            "account", "folders", "source", "venv", "dependencies", "build", "check", "migrate",
        ]  # fmt: skip
        # One source is killed at every step on its way: what is behind it is not done again.
        walk["sources"]["built"] = site.upload(hello_tree("built-1"))
        for name in names[: names.index("start")]:
            killed(site, name, 1, "apply", to(site, walk, "built"))
            assert alone(site, workers=1) == "built-0", name
        answer = site.farrier("apply", to(site, walk, "built"))
        done = [step["name"] for step in answer["steps"] if step["changed"]]
        assert not {"source", "venv", "dependencies", "build", "check", "migrate"} & set(done), done
        assert alone(site, workers=1) == "built-1"
    assert told.failed == (), told.failed
    assert not site.farrier("apply", to(site, walk, "built"))["changed"]


@pytest.mark.parametrize(("step", "nth"), [("files", 2), ("start", 2), ("switch", 2), ("stop", 2)])
def test_a_turn_back_killed_on_its_way(
    site: Any, walk: dict[str, Any], hello_tree: Tree, step: str, nth: int
) -> None:
    walk["spec"] |= {"settings": {"workers": 1, "strategy": "overlap"}, "commands": {}}
    walk["sources"] |= {"well": site.upload(hello_tree("well"))}
    sick = "def app(e, s):\n    s('500 Sick', [])\n    return [b'sick']\n"
    walk["sources"] |= {"sick": site.upload({"main.py": f"# at {step}\n{sick}"})}
    site.farrier("apply", to(site, walk, "well"))
    walk["spec"]["guard"] = {"seconds": 20, "requests": 5}
    try:
        with using(site, PORT):
            killed(site, step, nth, "apply", to(site, walk, "sick"))
    finally:
        walk["spec"]["guard"] = {"seconds": 0}
    # The recovery has done what the guard wanted.
    assert alone(site, workers=1) == "well"
    last = site.farrier("list", "walk")["history"][-1]
    assert (last["outcome"], last["strategy"]) == ("rolled back", "overlap")
    assert "were errors" in last["message"]
    line = site.farrier("apply", to(site, walk, "sick"), check=False)["msg"]
    assert "which is bad" in line
    assert not site.farrier("apply", to(site, walk, "well"))["failed"]
    assert alone(site, workers=1) == "well"


def test_an_import_that_hangs_goes_with_its_run(site: Any, walk: dict[str, Any]) -> None:
    """It runs in a scope of its own, which the kill of the unit does not reach."""
    walk["spec"] |= {"settings": {"workers": 1, "strategy": "overlap"}, "commands": {}}
    walk["sources"]["hangs"] = site.upload({"main.py": "import time\ntime.sleep(600)\n"})
    site.farrier("apply", to(site, walk, "even"))
    scopes = "systemctl list-units --plain --no-legend 'farrier-trial-walk-*'"
    site.host.shell(f"setsid farrier release apply {to(site, walk, 'hangs')} > /dev/null 2>&1 &")
    site.wait_for("the trial", f"{scopes} | grep -q running")
    site.host.shell("systemctl kill -s KILL --kill-whom=main farrier-deploy-walk")
    site.wait_for("the recovery", "grep -q '\"run\": {}' /srv/walk/state.json", 30)
    site.wait_for("the trial's end", f'test -z "$({scopes})"', 10)
    alone(site, workers=1)


def test_a_follower_that_is_killed_and_a_connection_that_is_cut(
    site: Any, walk: dict[str, Any], hello_tree: Tree
) -> None:
    for number, cut in enumerate(("follower", "connection")):
        walk["spec"] |= {"commands": {"build": ["sleep 1"]}, "settings": {"workers": 1}}
        walk["sources"]["cut"] = site.upload(hello_tree(f"cut-{number}"))
        path = to(site, walk, "cut")
        # Not by its lines: a run begins by trimming what is there.
        site.host.shell(f": > /srv/walk/events.jsonl; rm -f /tmp/{cut}")
        if cut == "follower":
            site.host.shell(f"setsid farrier release apply {path} > /tmp/{cut} 2>&1 &")
        else:
            command = ["ssh", *site.host.ssh_args, f"sudo farrier release apply {path} > /tmp/{cut} 2>&1"]
            client = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        begun = "grep -q 'sleep 1' /srv/walk/events.jsonl"
        site.wait_for("the build", begun, tell=f"tail -n 5 /tmp/{cut}; tail -n 20 /srv/walk/events.jsonl")
        if cut == "follower":
            site.host.shell("kill -9 $(pgrep -f '[f]arrier release apply')")
        else:
            client.kill()
            client.wait()
        site.wait_for("the end", f"! systemctl is-active -q farrier-deploy-walk && {begun}", 60)
        assert alone(site, workers=1) == f"cut-{number}"
        assert re.search('"outcome": "good"', site.host.read("/srv/walk/state.json"))
        assert not site.farrier("apply", path)["changed"]
