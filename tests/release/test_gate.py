"""A release that is no good never takes a request, and the old one never stops: with somebody using it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.release.client import using

pytestmark = pytest.mark.systemd
Tree = Callable[[str], dict[str, str]]
PORT = 9101
APP = "def app(e, s):\n    s('200 OK', [])\n    return [b'bad one']\n\ndef fine():\n    return True\n"
# True in what is to serve and in a gate, and in neither the import nor the check of the config.
BOOTS = "import os, sys, time\nboots = 'FARRIER_PLAN' in os.environ and '--check-config' not in sys.argv\n"
EAT = "food = []\nwhile True:\n    food.append(bytearray(b'x') * (8 << 20))\n"
BROKEN = {
    "import": (
        "import nothere\n",
        "app: main:app does not import: ModuleNotFoundError: No module named 'nothere'",
    ),
    "import that eats": (
        f"import os\n{EAT}",
        r"app: main:app was killed because it needed more than the \d+ MiB",
    ),
    "config": (f"{BOOTS}if 'FARRIER_PLAN' in os.environ: raise RuntimeError('no database')\n", "no database"),
    "hangs": (f"{BOOTS}if boots: time.sleep(600)\n", "not ready after 8 s"),
    "eats": (f"{BOOTS}if boots:\n    {EAT.replace(chr(10), chr(10) + '    ')}\n", "memory"),
    "health": ("", "main:ready: .*no queue"),
}
WAYS: dict[str, dict[str, Any]] = {
    "overlap": {"workers": 2, "strategy": "overlap"},
    "rolling": {"workers": 2, "strategy": "rolling"},
    "queue, gate": {"workers": 2, "strategy": "queue"},
    "queue, no gate": {"workers": 2, "strategy": "queue", "memory_limit": "150M"},
}


@pytest.fixture(scope="module")
def gate(site: Any) -> Iterator[dict[str, Any]]:
    """An app that serves; no test of this file moves it."""
    good = {"main.py": APP.replace("bad", "good") + "\ndef ready():\n    return True\n"}
    spec = site.spec("gate", good, bind=f"127.0.0.1:{PORT}", start_timeout=8, ready="main:ready")
    spec["settings"] = {"workers": 2}
    site.apply(spec)
    yield spec
    site.remove("gate")


def main(site: Any) -> str:
    """The main process of what serves, and how often systemd had to start it again."""
    active = site.state("gate")["active"]
    return str(site.host.shell(f"systemctl show -P MainPID -P NRestarts gate@{active}"))


# The flags of the listening socket in a process of what serves, as fcntl(2) has them.
FLAGS = """
import os, sys
pid, port = sys.argv[1], f":{int(sys.argv[2]):04X}"
rows = [row.split() for row in open(f"/proc/{pid}/net/tcp")]
listening = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(port) and row[3] == "0A"}
for name in os.listdir(f"/proc/{pid}/fd"):
    if os.readlink(f"/proc/{pid}/fd/{name}") in listening:
        print(open(f"/proc/{pid}/fdinfo/{name}").read().split("flags:")[1].split()[0])
"""


def accept_waits(site: Any) -> bool:
    """Whether accept() on the shared socket would wait for a connection, all other work with it."""
    pid = main(site).split()[0]
    # As its own user: root here has not the right to look at what others hold.
    told = site.host.run(["python3", "-c", FLAGS, pid, str(PORT)], user="gate").stdout.split()
    return not int(told[0], 8) & os.O_NONBLOCK


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("broken", BROKEN)
def test_a_bad_release_takes_no_request(site: Any, gate: dict[str, Any], way: str, broken: str) -> None:
    gate["settings"] = WAYS[way]
    plan = site.apply(gate)["plan"]
    assert plan["strategy"] == way.split(",")[0]
    assert way != "queue, gate" or plan["gate_beside"] is True
    assert way != "queue, no gate" or plan["gate_beside"] is False
    code, told_of = BROKEN[broken]
    # Where the plan has no room for a trial, an import that eats is only found out by the boot.
    blind = way == "queue, no gate" and broken not in ("import", "config")
    if blind and broken == "import that eats":
        told_of = "needed more memory than its limit"
    ready = (
        "\ndef ready():\n    raise RuntimeError('no queue')\n" if broken == "health" else "\nready = fine\n"
    )
    before = main(site)
    with using(site, PORT) as told:
        line = site.refused({**gate, "source": site.upload({"main.py": code + APP + ready})})
    assert told.failed == ()
    assert told.said == ("good",)
    assert re.search(told_of, line), line
    assert "\n" not in line
    # What can only be seen by a boot is seen beside, or else the old one is back within the same promise.
    if not blind:
        assert main(site) == before
        assert told.longest < 5
    assert told.longest < 25
    # systemd would clear the mark for both colours when it starts one of them.
    assert not accept_waits(site)
    state = site.state("gate")
    assert state["run"] == {}
    other = "green" if state["active"] == "blue" else "blue"
    assert site.host.run(["systemctl", "is-active", "-q", f"gate@{other}"], check=False).returncode
    assert not site.apply(gate)["changed"]


def test_workers_that_fail_one_after_another_are_given_back(site: Any, gate: dict[str, Any]) -> None:
    """Rolling: the first worker of the new release boots, a later one does not."""
    # preloaded they would all boot from one import
    gate["settings"] = {"workers": 3, "strategy": "rolling", "preload_app": False}
    site.apply(gate)
    before = main(site)
    code = (
        f"{BOOTS}if boots:\n    with open('/srv/gate/shared/boots', 'a') as file: file.write('x')\n"
        "    if len(open('/srv/gate/shared/boots').read()) > 1: raise RuntimeError('a second one')\n"
    )
    with using(site, PORT) as told:
        line = site.refused({**gate, "source": site.upload({"main.py": f"{code}{APP}\nready = fine\n"})})
    assert "a second one" in line
    assert told.failed == ()
    assert main(site) == before
    pid = before.split()[0]
    site.wait_for("its three workers", f"test $(pgrep -c -P {pid}) = 3", 10)
    assert not site.apply(gate)["changed"]


def test_an_app_that_fills_the_host_is_still_deployed(site: Any, gate: dict[str, Any]) -> None:
    """What has no room beside itself is not imported beside itself: the queue brings it in."""
    eats = "food = bytearray(b'x') * (230 << 20)\n"
    good = APP.replace("bad", "large") + "\nready = fine\n"
    gate["settings"] = {"workers": 1, "strategy": "queue"}
    gate["workload"] = {"app_memory": "280M"}
    gate["source"] = site.upload({"main.py": eats + good})
    plan = site.apply(gate)["plan"]
    assert plan["gate_beside"] is False
    before = main(site)
    gate["source"] = site.upload({"main.py": f"{eats}# again\n{good}"})
    with using(site, PORT) as told:
        answer = site.apply(gate)
    assert told.failed == ()
    assert main(site) != before
    details = {step["name"]: step["detail"] for step in answer["steps"]}
    assert details["check"] == "not imported: no room for the app beside the one that serves"
    assert details["config"] == "not checked: no room for the app beside the one that serves"
