"""Whatever a person, a crash or a boot does to the units: one colour serves, and it is the right one."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.systemd
Tree = Callable[[str], dict[str, str]]
PORT = 8701


@pytest.fixture(scope="module")
def pair(site: Any, hello_tree: Tree) -> Iterator[dict[str, Any]]:
    """An app whose two colours have served: green does now."""
    spec = site.spec("pair", hello_tree("one"), bind=f"127.0.0.1:{PORT}", settings={"workers": 1})
    site.apply(spec)
    spec["source"] = site.upload(hello_tree("two"))
    site.apply(spec)
    yield spec
    site.remove("pair")


def serving(site: Any) -> list[str]:
    """The colours that run, after a request has woken whoever is to serve."""
    assert site.get(PORT) == "two green"
    listed = "systemctl list-units 'pair@*' --all --plain --no-legend"
    return str(site.host.shell(f"{listed} | awk '$3 != \"inactive\" {{print $1, $3}}'")).split("\n")[:-1]


BY_HAND = [
    "systemctl start pair@blue",
    "systemctl restart pair@blue",
    "systemctl restart pair@green",
    "systemctl stop pair@green",
    "systemctl restart pair.socket",
    "systemctl restart 'pair@*'",
    "systemctl start pair@blue pair@green",
    "systemctl stop pair.socket; systemctl start pair.socket",
    "systemctl restart farrier-pair.slice",
    "systemctl kill -s KILL pair@green",
    "systemctl kill -s KILL --kill-who=main pair@green",
    "systemctl daemon-reexec",
    # What a boot does once everything was stopped.
    "systemctl stop pair.socket 'pair@*'; systemctl start sockets.target",
]


@pytest.mark.parametrize("what", BY_HAND)
def test_by_hand(site: Any, pair: dict[str, Any], what: str) -> None:
    site.host.shell(what)
    site.wait_for(
        "an answer",
        f"curl -fsS --max-time 20 http://127.0.0.1:{PORT}/ >/dev/null 2>&1 || "
        f"python3 -c \"import urllib.request as u; u.urlopen('http://127.0.0.1:{PORT}/', timeout=20)\"",
    )
    site.wait_for(
        "rest", "! systemctl list-units 'pair@*' --plain --no-legend | grep -qE 'activating|deactivating'"
    )
    assert serving(site) == ["pair@green.service active"]
    # And what the units are by then is what a deploy would have them be.
    assert not site.apply(pair)["changed"]


# Boots slowly where it is to serve, so that something can happen meanwhile; said in shared/slow.
SLOW = """\
import os, sys, time
if "FARRIER_PLAN" in os.environ and "--check-config" not in sys.argv:
    with open("/srv/pair/shared/slow") as file:
        time.sleep(float(file.read()))
"""
MEANWHILE = {
    "the old one crashes": ("systemctl kill -s KILL pair@{old}", None),
    "the old arbiter crashes": ("systemctl kill -s KILL --kill-who=main pair@{old}", None),
    "the new one crashes": ("systemctl kill -s KILL pair@{new}", False),
    "the new arbiter crashes": ("systemctl kill -s KILL --kill-who=main pair@{new}", False),
    "the old one is restarted": ("systemctl restart pair@{old}", None),
    "the new one is restarted": ("systemctl restart pair@{new}", None),
    "the socket is restarted": ("systemctl restart pair.socket", None),
    "the slice is restarted": ("systemctl restart farrier-pair.slice", None),
}


def begun(site: Any, spec: dict[str, Any], hello_tree: Tree, word: str) -> tuple[str, str]:
    """A run that is in the middle of its start; the old colour and the new one."""
    spec["source"] = site.upload({"main.py": SLOW + hello_tree(word)["main.py"]})
    site.host.write("/tmp/pair.json", json.dumps(spec))
    site.host.shell("echo 3 > /srv/pair/shared/slow; chmod 644 /srv/pair/shared/slow; rm -f /tmp/pair.out")
    old = site.state("pair")["active"]
    seen = int(site.host.shell("wc -l < /srv/pair/events.jsonl"))
    site.host.shell("setsid farrier release apply /tmp/pair.json --json > /tmp/pair.out 2>/dev/null &")
    start = f'tail -n +{seen + 1} /srv/pair/events.jsonl | grep -q \'"event": "start", "step": "start"\''
    new = "green" if old == "blue" else "blue"
    site.wait_for("the start", f"{start} && test $(systemctl show -P MainPID pair@{new}) != 0")
    return old, new


def alone(site: Any) -> str:
    """The colour on record, which is the only one that runs, and its release's word."""
    site.wait_for(
        "rest", "! systemctl list-units 'pair@*' --plain --no-legend | grep -qE 'activating|deactivating'"
    )
    state = site.state("pair")
    word = str(site.get(PORT))
    listed = "systemctl list-units 'pair@*' --all --plain --no-legend"
    units = site.host.shell(f"{listed} | awk '$3 != \"inactive\" {{print $1, $3}}'").splitlines()
    assert units == [f"pair@{state['active']}.service active"]
    assert word.split()[1] == state["active"]
    return word.split()[0]


@pytest.mark.parametrize("strategy", ["overlap", "rolling"])
@pytest.mark.parametrize("what", MEANWHILE)
def test_in_the_middle_of_an_exchange(
    site: Any, pair: dict[str, Any], hello_tree: Tree, strategy: str, what: str
) -> None:
    pair["settings"] = {"workers": 2, "strategy": strategy}
    site.host.shell("echo 0 > /srv/pair/shared/slow; chmod 644 /srv/pair/shared/slow")
    site.apply(pair)
    before = site.get(PORT).split()[0]
    command, good = MEANWHILE[what]
    word = f"{strategy}-{list(MEANWHILE).index(what)}"
    old, new = begun(site, pair, hello_tree, word)
    site.host.run(["sh", "-c", command.format(old=old, new=new)], check=False)
    site.wait_for("the run's end", "test -s /tmp/pair.out", 90)
    told = json.loads(site.host.read("/tmp/pair.out"))
    assert good is None or told["failed"] is not good, told["msg"]
    assert alone(site) == (before if told["failed"] else word)
    assert site.state("pair")["run"] == {}
    # And what a failed run did not bring, the next one does.
    site.host.shell("echo 0 > /srv/pair/shared/slow")
    site.apply(pair)
    assert alone(site) == word


@pytest.mark.parametrize("strategy", ["overlap", "rolling", "queue"])
def test_a_host_that_reboots_in_the_middle(
    site: Any, pair: dict[str, Any], hello_tree: Tree, strategy: str
) -> None:
    pair["settings"] = {"workers": 2, "strategy": strategy}
    site.host.shell("echo 0 > /srv/pair/shared/slow; chmod 644 /srv/pair/shared/slow")
    site.apply(pair)
    before = site.get(PORT).split()[0]
    _, new = begun(site, pair, hello_tree, f"boot-{strategy}")
    reboot(site)
    assert alone(site) == before
    refused = site.host.run(["systemctl", "start", f"pair@{new}"], check=False)
    assert alone(site) == before, refused.stderr
    site.host.shell("echo 0 > /srv/pair/shared/slow")
    site.apply(pair)
    assert alone(site) == f"boot-{strategy}"
    assert not site.apply(pair)["changed"]


def reboot(site: Any) -> None:
    """The power goes and comes back: what is in memory is lost, what is on disk is not."""
    site.host.docker.call("kill", site.host.container)
    site.host.docker.call("start", site.host.container)
    running = ["systemctl", "is-system-running", "--wait"]
    end = time.monotonic() + 90
    while site.host.run(running, check=False).stdout.strip() not in ("running", "degraded"):
        assert time.monotonic() < end
        time.sleep(0.2)


def test_what_broke_meanwhile_does_not_keep_out_what_mends_it(site: Any, hello_tree: Tree) -> None:
    """The release that serves does not boot any more; a run fails beside it, and the next one mends it."""
    gone = "import os\nif os.path.exists('/srv/broke/shared/gone'): raise RuntimeError('the table is gone')\n"
    spec = site.spec("broke", {"main.py": gone + hello_tree("one")["main.py"]}, bind=f"127.0.0.1:{PORT + 2}")
    spec["settings"] = {"workers": 1}
    site.apply(spec)
    try:
        site.host.shell("touch /srv/broke/shared/gone; systemctl kill -s KILL broke@blue")
        site.wait_for("the loop", "test $(systemctl show -P NRestarts broke@blue) -ge 2")
        line = site.refused({**spec, "source": site.upload({"main.py": "import nothere\n"})})
        assert "nothere" in line
        assert re.search(r"; release \S+: systemctl start broke@blue\.service: ", line), line
        assert site.state("broke")["run"] == {}
        site.apply({**spec, "source": site.upload(hello_tree("two"))})
        assert site.get(PORT + 2).startswith("two")
    finally:
        site.remove("broke")


def test_a_crash_loop_can_be_removed_without_a_trace(site: Any, hello_tree: Tree) -> None:
    spec = site.spec("loop", hello_tree("one"), bind=f"127.0.0.1:{PORT + 1}")
    site.apply(spec)
    site.host.shell(
        "echo 'raise SystemExit(3)' > /srv/loop/current/src/main.py; systemctl kill -s KILL loop@blue"
    )
    site.wait_for("the loop", "test $(systemctl show -P NRestarts loop@blue) -ge 3")
    site.remove("loop")
    left = "ls -d /run/farrier/loop /srv/loop /etc/farrier/loop /etc/systemd/system/loop* 2>/dev/null || true"
    assert site.host.shell(left).strip() == ""
    assert site.host.shell("systemctl list-units --all --plain --no-legend 'loop*'").strip() == ""
