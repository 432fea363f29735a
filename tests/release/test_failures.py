"""Each way in which a deploy can fail: one clear line, and the host as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.systemd
Tree = Callable[[str], dict[str, str]]
PORT = 8201


@pytest.fixture(scope="module")
def desk(site: Any, hello_tree: Tree) -> Iterator[dict[str, Any]]:
    """An app that serves release one throughout this file."""
    # One worker, so that other apps of these tests have room beside it.
    spec = site.spec("desk", hello_tree("one"), bind=f"127.0.0.1:{PORT}", settings={"workers": 1})
    site.apply(spec)
    yield spec
    site.remove("desk")


def left(site: Any) -> str:
    """What must be the same after a failure: all but the records of runs."""
    lines = site.snapshot().splitlines()
    skipped = r"/srv/desk/(state\.json|events\.jsonl|lock)|/var/lib/farrier/(uploads|cache)|/run/farrier"
    return "\n".join(line for line in lines if not re.match(skipped, line))


@pytest.fixture
def as_before(site: Any, desk: dict[str, Any]) -> Iterator[None]:
    before, state, answer = left(site), site.state("desk"), site.get(PORT)
    yield
    assert left(site) == before
    after = site.state("desk")
    assert (after["active"], after["release"], after["run"]) == (state["active"], state["release"], {})
    assert site.get(PORT) == answer
    colours = site.host.shell("systemctl list-units 'desk@*' --all --plain --no-legend | awk '{print $1,$3}'")
    assert colours.strip() == f"desk@{after['active']}.service active"


APP = "def app(e, s):\n    s('200 OK', [])\n    return [b'two']\n"
BROKEN = {
    "import": ({"main.py": "import nothere\n"}, "No module named 'nothere' (main.py, line 1)"),
    "name": ({"main.py": "other = 1\n"}, "app"),
    "syntax": ({"main.py": "def app(:\n"}, "SyntaxError"),
    "boot": (
        {"main.py": "import os\nif 'FARRIER_PLAN' in os.environ: raise RuntimeError('no database')\n" + APP},
        "RuntimeError: no database",
    ),
    "requirement": (
        {"main.py": APP, "requirements.txt": "surely-no-such-package-as-this==9.9\n"},
        "surely-no-such-package-as-this",
    ),
    "gunicorn": (
        {"main.py": APP, "requirements.txt": "gunicorn==21.2.0\n"},
        "txt pins gunicorn 21.2.0",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_release_never_serves(site: Any, desk: dict[str, Any], as_before: None, case: str) -> None:
    tree, told = BROKEN[case]
    line = site.refused({**desk, "source": site.upload(tree)})
    assert told in line
    assert "\n" not in line


def test_a_boot_that_hangs_is_given_up(site: Any, desk: dict[str, Any], as_before: None) -> None:
    served = "import os, sys, time\nif 'FARRIER_PLAN' in os.environ{}: time.sleep(600)\n" + APP
    hang = served.format(" and '--check-config' not in sys.argv")
    line = site.refused({**desk, "source": site.upload({"main.py": hang}), "start_timeout": 5})
    assert "not ready after 5 s" in line
    line = site.refused({**desk, "source": site.upload({"main.py": served.format("")}), "start_timeout": 5})
    assert line.endswith("config: main:app was not loaded after 10 s")


def test_an_import_that_hangs_is_placed(site: Any, desk: dict[str, Any], as_before: None) -> None:
    tree = {
        "main.py": "import slow\n" + APP,
        "slow.py": "import time\n\ndef wait():\n    time.sleep(600)\n\nwait()\n",
    }
    line = site.refused({**desk, "source": site.upload(tree), "start_timeout": 1})
    assert line.endswith("app: main:app does not import: still busy after 4 s at slow.py, line 4, in wait")


def test_a_process_that_an_import_starts_does_not_outlive_the_trial(site: Any, desk: dict[str, Any]) -> None:
    """It has the pipes of the import check, for ever; what serves keeps the one of its own."""
    starts = "import subprocess\nsubprocess.Popen(['sleep', '613'], start_new_session=True)\n"
    answer = site.apply({**desk, "source": site.upload({"main.py": starts + APP})})
    groups = site.host.shell(
        "for p in $(pgrep -fx 'sleep 613'); do cat /proc/$p/cgroup; done | grep systemd:"
    )
    active = site.state("desk")["active"]
    assert {line.rsplit("/", 1)[-1] for line in groups.splitlines()} == {f"desk@{active}.service"}
    assert sum(step["seconds"] for step in answer["steps"]) < 60
    site.apply(desk)


def test_a_readiness_check_that_hangs_is_named(site: Any, desk: dict[str, Any], as_before: None) -> None:
    tree = {"main.py": "import time\n\ndef database():\n    time.sleep(600)\n\n" + APP}
    line = site.refused({**desk, "source": site.upload(tree), "ready": "main:database", "start_timeout": 12})
    assert re.search(r"not ready after 12 s: main:database: no answer within \d+ s$", line), line


def test_names_of_our_own_are_refused(site: Any, hello_tree: Tree) -> None:
    for name in ("farrier", "farrier-deploy-desk", "farrier_desk"):
        line = site.refused(site.spec(name, hello_tree("x"), bind="127.0.0.1:8204"))
        assert line.startswith(f"name: given '{name}'; allowed: a name that is not farrier")


def test_a_failed_command_is_named(site: Any, desk: dict[str, Any], as_before: None) -> None:
    commands = {"build": ["echo fine", "echo 'error: no node here' >&2; exit 3"]}
    line = site.refused({**desk, "commands": commands})
    assert "commands.build: echo 'error: no node here'" in line
    line = site.refused({**desk, "commands": {"migrate": ["kill -9 $$"]}})
    assert "killed" in line


REFUSED = {
    "python": ({"python": "3.99"}, "python: given 3.99, which this host does not have; it has 3.11"),
    "workers": ({"settings": {"workers": 0}}, "workers must be a whole number of at least 1"),
    "class": ({"settings": {"worker_class": "eventlet"}}, "eventlet"),
    "sha": (
        {"source": {"type": "archive", "path": "/nowhere.tar.gz", "sha256": "0" * 64}},
        "is not on this host",
    ),
    "privileged": ({"bind": "300.1.1.1:80"}, "300.1.1.1"),
    "root": ({"root": "/srv/elsewhere"}, "lives in /srv/desk"),
    "chdir": ({"chdir": "no/such"}, "chdir: given no/such"),
    "ref": (
        {"source": {"type": "git", "repo": "file:///tmp/nowhere.git", "ref": "main"}},
        "source.repo: file:///tmp/nowhere.git",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_value_is_one_line(site: Any, desk: dict[str, Any], as_before: None, case: str) -> None:
    more, told = REFUSED[case]
    line = site.refused({**desk, **more})
    assert told in line
    assert "\n" not in line


def test_a_port_in_use_is_refused(site: Any, desk: dict[str, Any], as_before: None, hello_tree: Tree) -> None:
    site.host.shell("systemd-run --unit=squatter python3 -m http.server 8299 --bind 127.0.0.1")
    try:
        site.wait_for("the squatter", "ss -ltn | grep -q :8299")
        line = site.refused({**desk, "bind": "127.0.0.1:8299"})
        assert re.fullmatch(r"bind: given 127.0.0.1:8299: the port is in use by python3 \(pid \d+\)", line)
        line = site.refused(site.spec("second", hello_tree("x"), bind=f"127.0.0.1:{PORT}"))
        assert line == f"bind: given 127.0.0.1:{PORT}, which the app desk has; choose another"
    finally:
        site.host.run(["systemctl", "stop", "squatter"])


def test_a_full_disk_leaves_nothing(site: Any, desk: dict[str, Any], as_before: None) -> None:
    """The folder of a second app is a small file system that its build fills."""
    site.host.shell("mkdir -p /srv/tight && mount -t tmpfs -o size=300m tmpfs /srv/tight")
    try:
        fill = "head -c 400M /dev/zero > filler"
        spec = site.spec("tight", {"main.py": APP}, bind="127.0.0.1:8202", commands={"build": [fill]})
        line = site.refused(spec)
        assert "no space left" in line.lower()
        assert site.host.shell("ls -A /srv/tight").strip() == ""
        site.host.shell("head -c 200M /dev/zero > /srv/tight/theirs")
        assert "MiB free at /srv/tight" in site.refused(spec)
        assert site.host.shell("ls -A /srv/tight").strip() == "theirs"
    finally:
        site.host.shell("umount /srv/tight; rmdir /srv/tight")


def test_a_failed_first_deploy_leaves_a_bare_host(site: Any, desk: dict[str, Any], as_before: None) -> None:
    spec = site.spec("fresh", {"main.py": "raise SystemExit('no')\n"}, bind="127.0.0.1:8203")
    assert "main:app does not import" in site.refused(spec)
    for place in ("/srv/fresh", "/etc/farrier/fresh", "/etc/systemd/system/fresh.socket"):
        assert site.host.run(["test", "-e", place], check=False).returncode
    assert site.host.run(["id", "fresh"], check=False).returncode


def test_names_of_others_are_refused(
    site: Any, desk: dict[str, Any], as_before: None, hello_tree: Tree
) -> None:
    tree = hello_tree("x")
    assert "user: mail exists already with the home" in site.refused(
        site.spec("mail", tree, bind="127.0.0.1:8204")
    )
    site.host.write("/etc/systemd/system/taken.socket", "[Socket]\nListenStream=8999\n")
    try:
        line = site.refused(site.spec("taken", tree, bind="127.0.0.1:8204"))
        assert "/etc/systemd/system/taken.socket holds" in line
    finally:
        site.host.run(["rm", "/etc/systemd/system/taken.socket"])


def test_a_second_run_follows_or_waits_and_a_stopped_one_is_undone(
    site: Any, desk: dict[str, Any], hello_tree: Tree
) -> None:
    slow = {**desk, "commands": {"build": ["sleep 60"]}}
    site.host.write("/tmp/slow.json", json.dumps(slow))
    before = site.state("desk")
    begin = (
        f"PYTHONPATH={site.wheel} env --default-signal=INT setsid "
        "python3 -m farrier release apply /tmp/slow.json --json > /tmp/slow.{}.out 2>&1 &"
    )
    site.host.shell(begin.format(1))
    site.wait_for("the build", "tail -3 /srv/desk/events.jsonl | grep -q 'sleep 60'")
    line = site.refused({**desk, "source": site.upload(hello_tree("other"))}, wait=2)
    assert re.search(r"another run holds it: tests, pid \d+, for \d+ s", line)
    assert re.search(r"another run holds it", site.refused({"name": "desk", "state": "absent"}))
    # Ctrl-C of the one who follows does not stop the deploy, and who comes next goes on following it.
    site.host.shell("kill -INT $(pgrep -f '[r]elease apply /tmp/slow.json')")
    site.wait_for("the follower's end", "grep -q 'goes on in' /tmp/slow.1.out", 10)
    assert site.host.shell("systemctl is-active farrier-deploy-desk").strip() == "active"
    site.host.shell(begin.format(2))
    site.wait_for("the next follower", "grep -q 'following it' /tmp/slow.2.out", 10)
    site.host.run(["systemctl", "stop", "farrier-deploy-desk"])
    site.wait_for("its end", "grep -q 'stopped by systemctl stop' /tmp/slow.2.out", 10)
    after = site.state("desk")
    assert after["release"] == before["release"]
    assert after["history"][-1]["message"] == "stopped by systemctl stop"
    assert site.get(PORT).startswith("one")


def test_four_runs_at_once_end_with_what_one_of_them_wants(
    site: Any, desk: dict[str, Any], hello_tree: Tree
) -> None:
    for number, version in enumerate(("same", "same", "same", "another")):
        spec = {**desk, "source": site.upload(hello_tree(version))}
        site.host.write(f"/tmp/run{number}.json", json.dumps(spec))
    site.host.shell(
        f"export PYTHONPATH={site.wheel}; for n in 0 1 2 3; do "
        "python3 -m farrier release apply /tmp/run$n.json --json > /tmp/run$n.out 2>/dev/null & done; wait"
    )
    for number in range(4):
        told = json.loads(site.host.read(f"/tmp/run{number}.out"))
        assert not told["failed"], told["msg"]
    assert site.get(PORT).split()[0] in ("same", "another")
    assert site.state("desk")["run"] == {}


def test_the_lock_is_roots_and_names_nobody_who_has_gone(site: Any, desk: dict[str, Any]) -> None:
    assert site.host.shell("stat -c %a /srv/desk/lock").strip() == "600"
    block = site.host.run(["runuser", "-u", "desk", "--", "flock", "/srv/desk/lock", "true"], check=False)
    assert block.returncode
    site.refused({**desk, "source": site.upload({"main.py": "import nothere\n"})})
    assert site.host.read("/srv/desk/lock") == ""


@pytest.mark.parametrize("key", ["build", "migrate"])
def test_a_command_that_takes_all_memory_is_killed_and_nothing_that_serves(
    site: Any, desk: dict[str, Any], as_before: None, key: str, hello_tree: Tree
) -> None:
    def serving() -> list[int]:
        found = json.loads(site.host.read(f"/run/farrier/desk/{site.state('desk')['active']}.json"))
        return [found["pid"], *(one["pid"] for one in found["workers"])]

    before = serving()
    hungry = "echo begun; exec python3 -c 'taken = b\"x\" * (900 << 20)'"
    line = site.refused({**desk, "source": site.upload(hello_tree(key)), "commands": {key: [hungry]}})
    assert line.startswith(f"desk: commands.{key}: echo begun;")
    assert re.search(
        r": killed, because it needed more than the \d+ MiB that are free beside what serves; ", line
    )
    assert serving() == before
