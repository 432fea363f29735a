"""The four ways from one release to the next, each under requests that never stop."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.release.client import using

pytestmark = pytest.mark.systemd
Tree = Callable[[str], dict[str, str]]
PORT = 8901


@pytest.fixture(scope="module")
def lane(site: Any, hello_tree: Tree) -> Iterator[dict[str, Any]]:
    """An app that serves; each test takes it to another release."""
    spec = site.spec("lane", hello_tree("first"), bind=f"127.0.0.1:{PORT}", settings={"workers": 3})
    site.apply(spec)
    yield spec
    site.remove("lane")


def ran(answer: dict[str, Any]) -> list[str]:
    return [step["name"] for step in answer["steps"] if step["changed"]]


def workers(site: Any) -> dict[str, int]:
    """Serving processes by colour: the children of each main process."""
    script = (
        "for c in blue green; do p=$(systemctl show -P MainPID lane@$c); "
        'echo $c $([ "$p" = 0 ] && echo 0 || pgrep -c -P $p); done'
    )
    pairs = [line.split() for line in site.host.shell(script).splitlines()]
    return {colour: int(count) for colour, count in pairs}


class Count:
    """The most worker processes at once, looked at on the host every few milliseconds."""

    def __init__(self, site: Any) -> None:
        self.most = 0
        script = (
            "import os,time\nmost=0\n"
            "def mine():\n"
            "  for p in os.listdir('/proc'):\n"
            "    if p.isdigit():\n"
            "      try:\n"
            "        if b'worker [' in open(f'/proc/{p}/cmdline','rb').read(): yield p\n"
            "      except OSError: pass\n"
            "while not os.path.exists('/tmp/counted'):\n"
            "  most=max(most,len(list(mine()))); time.sleep(0.01)\n"
            "print(most)\n"
        )
        site.host.run(["rm", "-f", "/tmp/counted"])
        self.site = site
        self.thread = threading.Thread(
            target=lambda: setattr(self, "out", site.host.run(["python3", "-c", script]))
        )

    def __enter__(self) -> Count:
        self.thread.start()
        return self

    def __exit__(self, *ignored: object) -> None:
        self.site.host.run(["touch", "/tmp/counted"])
        self.thread.join(30)
        self.most = int(self.out.stdout)


@pytest.mark.parametrize(("before", "after", "rolls"), [(3, 3, 4), (3, 1, 0), (1, 3, 2)])
def test_rolling_is_one_for_one(
    site: Any, lane: dict[str, Any], hello_tree: Tree, before: int, after: int, rolls: int
) -> None:
    lane["settings"] = {"workers": before, "strategy": "rolling"}
    site.apply(lane)
    lane["settings"] = {"workers": after, "strategy": "rolling"}
    lane["source"] = site.upload(hello_tree(f"rolled-{before}-{after}"))
    with Count(site) as count, using(site, PORT) as told:
        answer = site.apply(lane)
    assert told.failed == ()
    assert told.said[-1] == f"rolled-{before}-{after}"
    assert count.most <= max(before, after) + 1
    assert ran(answer).count("roll") == rolls
    active = site.state("lane")["active"]
    assert workers(site) == {active: after, ("green" if active == "blue" else "blue"): 0}
    # The number is the plan's again, whatever signals brought it there.
    lane["settings"] = {"workers": 2, "strategy": "rolling"}
    assert "reload" in ran(site.apply(lane))
    site.wait_for("two", f"test $(pgrep -c -P $(systemctl show -P MainPID lane@{active})) = 2")


def test_a_queue_waits_for_no_more_than_the_boot(site: Any, lane: dict[str, Any], hello_tree: Tree) -> None:
    lane["settings"] = {"workers": 2, "strategy": "queue"}
    site.apply(lane)
    lane["source"] = site.upload(hello_tree("queued"))
    with using(site, PORT) as told:
        answer = site.apply(lane)
    assert told.failed == ()
    assert told.said[-1] == "queued"
    names = ran(answer)
    assert names.index("gate") < names.index("start") < names.index("switch")
    assert "stop" not in names
    detail = next(step["detail"] for step in answer["steps"] if step["name"] == "start")
    gap = re.fullmatch(r"(blue|green) in place of (blue|green), (\d+) ms after its end", detail)
    assert gap and int(gap[3]) < 3000, detail
    assert told.longest < 8


def test_a_chosen_overlap_is_one(site: Any, lane: dict[str, Any], hello_tree: Tree) -> None:
    lane["settings"] = {"workers": 2, "strategy": "overlap"}
    site.apply(lane)
    lane["source"] = site.upload(hello_tree("beside"))
    with using(site, PORT) as told:
        answer = site.apply(lane)
    assert told.failed == ()
    assert "roll" not in ran(answer)
    assert answer["steps"][-1]["name"] in ("prune", "stop")
    assert site.state("lane")["history"][-1]["strategy"] == "overlap"


def test_a_chosen_reload_does_settings_and_refuses_the_rest(
    site: Any, lane: dict[str, Any], hello_tree: Tree
) -> None:
    lane["settings"] = {"workers": 2, "strategy": "reload"}
    with using(site, PORT) as told:
        assert ran(site.apply(lane)) == ["files", "reload"]
        lane["settings"] = {"workers": 1, "strategy": "reload"}
        assert ran(site.apply(lane)) == ["files", "reload"]
    assert told.failed == ()
    allowed = "; allowed: changes of settings and limits, or another strategy: overlap, rolling, queue"
    line = site.refused({**lane, "source": site.upload(hello_tree("code"))})
    assert line == f"settings.strategy: given reload, which does not apply source{allowed}"
    line = site.refused({**lane, "env": {"A": "b"}, "app": "main:other"})
    assert line == f"settings.strategy: given reload, which does not apply app{allowed}"
    line = site.refused({**lane, "env": {"A": "b"}})
    assert line == f"settings.strategy: given reload, which does not apply env{allowed}"
    # Back to the release before is what is asked for at three in the morning: it goes some other way.
    site.farrier("rollback", "lane")
    assert site.get(PORT).startswith("queued")


def test_a_refused_reload_is_undone(site: Any, lane: dict[str, Any]) -> None:
    lane["source"] = site.upload({"main.py": site.host.read("/srv/lane/current/src/main.py")})
    lane["settings"] = {"workers": 2}
    site.apply(lane)
    before = site.host.read("/etc/farrier/lane/settings.json")
    with using(site, PORT) as told:
        line = site.refused({**lane, "settings": {"workers": 2, "worker_tmp_dir": "/nowhere"}})
    assert told.failed == ()
    assert line == "lane: the reload was refused: worker_tmp_dir /nowhere is not a folder"
    assert site.host.read("/etc/farrier/lane/settings.json") == before
    assert not site.apply(lane)["changed"]


def test_a_reload_by_hand_reads_what_a_person_edited(site: Any, lane: dict[str, Any]) -> None:
    site.apply(lane)
    active = site.state("lane")["active"]
    path = f"/etc/farrier/lane/{active}/settings.json"
    site.host.write(path, json.dumps({"workers": 3}), mode=0o640)
    site.host.run(["chgrp", "lane", path])
    answer = site.farrier("reload", "lane")
    assert ran(answer) == ["reload"]
    site.wait_for("three", f"test $(pgrep -c -P $(systemctl show -P MainPID lane@{active})) = 3")
    assert site.state("lane")["history"][-1]["action"] == "reload"
    site.host.write(path, json.dumps({"workers": "many"}), mode=0o640)
    site.host.run(["chgrp", "lane", path])
    line = site.farrier("reload", "lane", check=False)["msg"]
    assert line.startswith("lane: the reload was refused: "), line
    assert "many" in line
    # A deploy brings back what the spec says.
    assert ran(site.apply(lane)) == ["files", "reload"]
