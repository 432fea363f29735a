"""A run is killed at each of its steps: somebody serves throughout, and what is left is right at once.

The host-side unit gets SIGKILL in the moment in which a step begins. Systemd then starts the recovery; after
it one colour serves, with all of its workers, and the next run ends where this one would have.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.release.client import using

pytestmark = pytest.mark.systemd
Tree = Callable[[str], dict[str, str]]
PORT = 9001
WORKERS = 3

# Runs a command of `farrier release` and kills the deploy's main process when the n-th step of a name begins.
KILLER = """\
import json, os, signal, subprocess, sys, time
name, step, nth, *command = sys.argv[1:]
path, unit = f"/srv/{name}/events.jsonl", f"farrier-deploy-{name}.service"
events = open(path)
events.seek(0, 2)
run = subprocess.Popen(["farrier", "release", *command, "--json"], stdout=subprocess.PIPE, text=True)
seen, main, line = 0, 0, ""
while run.poll() is None and seen < int(nth):
    line = line if not line.endswith("\\n") else ""
    line += events.readline()
    if not line.endswith("\\n"):
        # Nothing yet, or half a line: one that crosses a page is written in two.
        time.sleep(0.002)
        continue
    main = main or int(subprocess.check_output(["systemctl", "show", "-P", "MainPID", unit]))
    event = json.loads(line)
    if event["event"] == "start" and event["step"] == step:
        seen += 1
        if seen == int(nth):
            os.kill(main, signal.SIGKILL)
print(run.communicate()[0])
while subprocess.run(["systemctl", "is-active", "-q", unit]).returncode == 0 or "deactivating" in (
    subprocess.run(["systemctl", "is-active", unit], stdout=subprocess.PIPE, text=True).stdout
):
    time.sleep(0.02)
sys.exit(seen < int(nth))
"""


@pytest.fixture(scope="module")
def walk(site: Any, hello_tree: Tree) -> Iterator[dict[str, Any]]:
    """An app with two releases that are built, so that a run is no more than the exchange."""
    spec = site.spec("walk", hello_tree("even"), bind=f"127.0.0.1:{PORT}", settings={"workers": WORKERS})
    site.apply(spec)
    sources = {"even": spec["source"], "odd": site.upload(hello_tree("odd"))}
    spec["source"] = sources["odd"]
    site.apply(spec)
    yield {"spec": spec, "sources": sources}
    site.remove("walk")


def killed(site: Any, step: str, nth: int, *command: str) -> dict[str, Any]:
    """What the follower of a killed run is told."""
    done = site.host.run(
        ["python3", "-c", KILLER, "walk", step, str(nth), *command], check=False, timeout=120
    )
    assert done.returncode == 0, f"{step} {nth} never began: {done.stdout[-400:]}{done.stderr[-400:]}"
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def alone(site: Any, workers: int = WORKERS) -> str:
    """The one colour that runs, which is the one on record and has all its workers; its release's word."""
    state = site.state("walk")
    listed = "systemctl list-units 'walk@*' --all --plain --no-legend"
    units = site.host.shell(f"{listed} | awk '$3 != \"inactive\" {{print $1, $3}}'").splitlines()
    assert units == [f"walk@{state['active']}.service active"], units
    assert state["run"] == {}
    site.wait_for(
        "its workers",
        f"test $(pgrep -c -P $(systemctl show -P MainPID walk@{state['active']})) = {workers}",
        10,
    )
    assert site.host.run(["sh", "-c", "ls /run/systemd/system/walk@*.d/*"], check=False).stdout == ""
    return str(site.get(PORT).split()[0])


def steps(answer: dict[str, Any]) -> list[tuple[str, int]]:
    """Every step of a run with its number among those of the same name; a config is checked but once."""
    names = [step["name"] for step in answer["steps"] if step["name"] not in ("recover", "config")]
    return [(name, names[: index + 1].count(name)) for index, name in enumerate(names)]


def to(site: Any, walk: dict[str, Any], word: str) -> str:
    """The file of a spec that wants the release with that word."""
    spec = {**walk["spec"], "source": walk["sources"][word]}
    site.host.write("/tmp/walk.json", json.dumps(spec))
    return "/tmp/walk.json"


@pytest.mark.parametrize("strategy", ["overlap", "rolling", "queue"])
def test_an_exchange_killed_at_each_step(site: Any, walk: dict[str, Any], strategy: str) -> None:
    walk["spec"]["settings"] = {"workers": WORKERS, "strategy": strategy}
    site.farrier("apply", to(site, walk, "odd"))
    # The run that nobody kills says which steps there are.
    every = steps(site.farrier("apply", to(site, walk, "even")))
    assert {"files", "start", "switch", "prune"} <= {name for name, _ in every}
    assert strategy != "rolling" or ("roll", 4) in every
    assert strategy != "queue" or ("gate", 1) in every
    word, other = "odd", "even"
    with using(site, PORT) as told:
        for step, nth in every:
            # So that the gate of a queue is there: it is left out for what has served with the same.
            walk["spec"]["env"] = {"WALK": f"{step} {nth}"}
            follower = killed(site, step, nth, "apply", to(site, walk, word))
            assert follower["failed"]
            assert "run it again and it goes on from there" in follower["msg"]
            serves = alone(site)
            assert serves == (word if step in ("stop", "guard", "prune") else other), step
            answer = site.farrier("apply", to(site, walk, word))
            # After the switch nothing is left to do, the spec on record included.
            assert answer["changed"] is (serves == other), (step, answer)
            assert alone(site) == word
            word, other = other, word
    assert told.failed == (), told.failed
    assert told.longest < 8
    assert set(told.said) == {"odd", "even"}


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
