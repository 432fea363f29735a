"""Kills a run of the host-side unit when one of its steps begins, and looks at what is left."""

from __future__ import annotations

import json
from typing import Any

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
