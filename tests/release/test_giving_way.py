"""An app that takes most of a host gives way to another one that does not fit otherwise, and nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.release.client import using

pytestmark = pytest.mark.systemd
Tree = Callable[[str], dict[str, str]]
PORT = 8811


@pytest.fixture
def greedy(site: Any, hello_tree: Tree) -> Iterator[dict[str, Any]]:
    """An app whose plan takes most of the host, so that another one has no room beside it."""
    spec = site.spec("greedy", hello_tree("greedy"), bind=f"127.0.0.1:{PORT + 2}", **GREEDY)
    spec["answer"] = site.apply(spec)
    yield spec
    site.remove("greedy")


GREEDY: dict[str, Any] = {"workload": {"app_memory": "100M"}}
LATE: dict[str, Any] = {"workload": {"app_memory": "130M"}, "weight": 300}


def _plan(site: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(site.host.read(f"/etc/farrier/{name}/plan.json"))
    return found


def _limit(site: Any, unit: str) -> int:
    return int(site.host.shell(f"systemctl show -P MemoryMax {unit}").strip())


def test_an_app_gives_way_to_one_that_does_not_fit_otherwise(
    site: Any, greedy: dict[str, Any], hello_tree: Tree
) -> None:
    before = greedy["answer"]["plan"]
    spec = site.spec("late", hello_tree("late"), bind=f"127.0.0.1:{PORT + 3}", **LATE)
    would = site.apply(spec, "--check")
    assert ("room", "greedy gives way") in [(one["name"], one["detail"]) for one in would["steps"]]
    try:
        with using(site, PORT + 2) as told:
            answer = site.apply(spec)
        assert [one["detail"] for one in answer["steps"] if one["name"] == "room"] == ["greedy gave way"]
        # Nobody who uses the other app loses a request by that.
        assert told.sent and not told.failed, told.failed
        now = _plan(site, "greedy")
        assert now["memory_deploy_peak"] < before["memory_deploy_peak"]
        assert now["memory_deploy_peak"] + answer["plan"]["memory_deploy_peak"] <= 512 << 20
        # What the slices may take together is no more than the host has, and the heavier one has more CPU.
        limits = [_limit(site, f"farrier-{name}.slice") for name in ("greedy", "late")]
        assert sum(limits) <= 512 << 20, limits
        assert site.host.shell("systemctl show -P CPUWeight farrier-late.slice").strip() == "300"
        assert site.get(PORT + 3).startswith("late") and site.get(PORT + 2).startswith("greedy")
        # Neither of them changes because of the other, however often both are applied.
        own = {key: value for key, value in greedy.items() if key != "answer"}
        for one in (own, spec, own, spec):
            assert not site.apply(one)["changed"]
        # A new release of the other one is of its part by weight too.
        site.apply({**own, "source": site.upload(hello_tree("again"))})
        assert _plan(site, "greedy")["memory_max"] == now["memory_max"]
    finally:
        site.remove("late")


def test_who_gave_way_in_vain_gets_it_back(site: Any, greedy: dict[str, Any]) -> None:
    # It imports where it is looked at, and does not come up where it is to serve.
    broken = "import os\nif os.environ.get('FARRIER_INSTANCE'):\n    raise RuntimeError('no database')\n"
    tree = {"main.py": broken + "def app(environ, start_response): ...\n"}
    spec = site.spec("late", tree, bind=f"127.0.0.1:{PORT + 3}", **LATE)
    assert "no database" in site.refused(spec)
    assert _plan(site, "greedy")["memory_max"] == greedy["answer"]["plan"]["memory_max"]
    assert site.get(PORT + 2).startswith("greedy")
    assert site.host.run(["test", "-e", "/etc/farrier/late"], check=False).returncode


def test_an_app_that_is_being_deployed_does_not_give_way(
    site: Any, greedy: dict[str, Any], hello_tree: Tree
) -> None:
    spec = site.spec("late", hello_tree("late"), bind=f"127.0.0.1:{PORT + 3}", **LATE)
    hold = "mkfifo /tmp/held; exec flock -x /srv/greedy/lock sh -c 'echo held >/tmp/held; exec sleep 600'"
    site.host.run(["systemd-run", "--unit=holds-greedy", "/bin/sh", "-c", hold])
    try:
        site.wait_for("the fifo", "test -p /tmp/held")
        site.host.shell("cat /tmp/held")
        line = site.refused(spec)
        assert line.startswith("late: greedy could not give way (the plan of greedy would now be of ")
        assert "another run holds it" in line
        assert _plan(site, "greedy")["memory_max"] == greedy["answer"]["plan"]["memory_max"]
    finally:
        site.host.run(["systemctl", "stop", "holds-greedy"], check=False)
        site.host.run(["rm", "-f", "/tmp/held"])
