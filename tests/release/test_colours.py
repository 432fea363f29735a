"""Whatever a person, a crash or a boot does to the units: one colour serves, and it is the right one."""

from __future__ import annotations

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
