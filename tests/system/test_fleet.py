"""Several hosts in one play: one after the other, migrations once, and a host that fails stops the rest."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from lab import tools
from lab.checkout import ROOT
from lab.host import Host
from lab.machine import Machine

pytestmark = [pytest.mark.docker, pytest.mark.systemd]

PORT = 8766
NAMES = ("fleet1", "fleet2", "fleet3")
Done = subprocess.CompletedProcess[str]

APP = """\
import os
from pathlib import Path

if Path("/etc/broken-here").exists():
    raise RuntimeError("this host has something against it")
BODY = b"{version}"


def app(environ, start_response):
    start_response("{status}", [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))])
    return [BODY]
"""
MIGRATE = """\
from pathlib import Path

with Path("data/migrated").open("a") as log:
    log.write("{version}\\n")
"""
#: Asks until the file appears, by new connections and a kept one in turns, and never a second time.
CLIENT = """\
import http.client, json, os, sys, time
port, stop = int(sys.argv[1]), sys.argv[2]
asked, failed, seen = 0, [], []
kept = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
while not os.path.exists(stop):
    for one in (http.client.HTTPConnection("127.0.0.1", port, timeout=30), kept):
        asked += 1
        try:
            one.request("GET", "/", headers={} if one is kept else {"Connection": "close"})
            answer = one.getresponse()
            body = answer.read().decode()
            if answer.status != 200:
                failed.append(f"status {answer.status}")
            elif body not in seen:
                seen.append(body)
            if one is not kept or answer.will_close:
                one.close()
        except (OSError, http.client.HTTPException) as error:
            failed.append(repr(error))
            one.close()
    time.sleep(0.03)
print(json.dumps({"asked": asked, "failed": failed, "seen": seen}))
"""


@dataclass
class Fleet:
    """Three hosts, an app that is the same on all, and the playbooks."""

    hosts: dict[str, Host]
    source: Path
    inventory: Path
    variables: dict[str, Any] = field(default_factory=dict)

    def write(self, version: str, status: str = "200 OK") -> None:
        """The app's source as of this version."""
        (self.source / "main.py").write_text(APP.format(version=version, status=status))
        (self.source / "migrate.py").write_text(MIGRATE.format(version=version))

    def command(self, playbook: str, *flags: str, **changed: Any) -> list[str]:
        given = {**self.variables, **changed}
        known = {key: value for key, value in given.items() if value is not None}
        command = [tools.bin_path("ansible-playbook"), "-i", str(self.inventory), *flags]
        return [*command, f"playbooks/{playbook}.yml", "-e", json.dumps(known)]

    def play(self, playbook: str, *flags: str, **changed: Any) -> Done:
        return subprocess.run(
            self.command(playbook, *flags, **changed),
            cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip

    def migrated(self) -> list[str]:
        """The versions whose migrations ran, on all hosts together."""
        path = "/srv/hello/shared/data/migrated"
        return [
            line
            for host in self.hosts.values()
            for line in host.shell(f"cat {path} 2>/dev/null || true").split()
        ]

    def state(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.hosts[name].read("/srv/hello/state.json"))
        return found

    def served(self, *names: str) -> list[str]:
        """What each host answers, or each of these."""
        ask = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=20).read().decode())"
        run = ["python3", "-c", ask, f"http://127.0.0.1:{PORT}/"]
        return [self.hosts[name].run(run).stdout.strip() for name in names or NAMES]


def environment() -> dict[str, str]:
    return {**os.environ, **tools.ansible_environment(), "ANSIBLE_NOCOLOR": "1"}


@pytest.fixture(scope="module")
def fleet(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three hosts that serve version one, all set up in one batch."""
    tools.link_collection()
    folder = tmp_path_factory.mktemp("fleet")
    source = folder / "hello"
    source.mkdir()
    (source / "requirements.txt").write_text("")
    hosts = {name: Host(name, memory="320m", cpus=1.0, image=base_image) for name in NAMES}
    try:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(Host.start, hosts.values()))
        rows = {name: json.loads(host.inventory())["web"]["hosts"][name] for name, host in hosts.items()}
        inventory = folder / "hosts.json"
        inventory.write_text(json.dumps({"web": {"hosts": rows}}))
        machine = Machine.read()
        variables = {
            "gunicorn_app_name": "hello",
            "gunicorn_app_app": "main:app",
            "gunicorn_app_path": str(source),
            "gunicorn_app_bind": f"127.0.0.1:{PORT}",
            "gunicorn_app_shared": ["data"],
            "gunicorn_app_migrate_commands": ["python migrate.py"],
            "gunicorn_app_guard": {"seconds": 1},
            "gunicorn_app_ca_bundle": machine.bundle or "",
            "gunicorn_app_installer_env": machine.installer_environment(),
        }
        found = Fleet(hosts, source, inventory, variables)
        found.write("one")
        done = found.play("site", farrier_serial=3)
        assert done.returncode == 0, done.stdout + done.stderr
        yield found
    finally:
        for host in hosts.values():
            host.remove()


@contextmanager
def clients(fleet: Fleet) -> Iterator[dict[str, dict[str, Any]]]:
    """A client on each host for as long as the block runs; what they saw is there afterwards."""
    found: dict[str, dict[str, Any]] = {}

    def ask(name: str) -> None:
        script = ["python3", "-", str(PORT), "/tmp/client.stop"]
        found[name] = json.loads(fleet.hosts[name].run(script, input=CLIENT).stdout)

    for host in fleet.hosts.values():
        host.run(["rm", "-f", "/tmp/client.stop"])
    threads = [threading.Thread(target=ask, args=(name,)) for name in fleet.hosts]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        for host in fleet.hosts.values():
            host.run(["touch", "/tmp/client.stop"])
        for thread in threads:
            thread.join()


def _recap(done: Done) -> dict[str, dict[str, int]]:
    """Ansible's counts for each host that it came to."""
    rows = re.findall(r"^(fleet\d) +: (.*)$", done.stdout, re.MULTILINE)
    return {name: {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", row)} for name, row in rows}


def _error(done: Done) -> str:
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("[ERROR]: Task f")]
    assert len(lines) == 1, done.stdout + done.stderr
    return lines[0]


def test_hosts_that_are_set_up_at_once_migrate_once(fleet: Fleet) -> None:
    assert fleet.served() == ["one"] * 3
    assert fleet.migrated() == ["one"]


def test_a_release_goes_from_host_to_host_without_a_failed_request(fleet: Fleet) -> None:
    fleet.write("two")
    with clients(fleet) as found:
        done = fleet.play("deploy")
    assert done.returncode == 0, done.stdout + done.stderr
    for name, told in found.items():
        assert told["failed"] == [] and told["asked"] > 50, (name, told)
        assert told["seen"] == ["one", "two"], (name, told)
    assert fleet.migrated() == ["one", "two"]
    runs = [fleet.state(name)["history"][-1] for name in NAMES]
    # Each was over, guard and all, before the next began.
    assert [run["time"] for run in runs] == sorted({run["time"] for run in runs}), runs


def test_a_host_that_fails_stops_the_rest_which_stay_as_they_are(fleet: Fleet) -> None:
    fleet.hosts["fleet2"].run(["touch", "/etc/broken-here"])
    before = {name: fleet.state(name) for name in NAMES}
    fleet.write("three")
    with clients(fleet) as found:
        done = fleet.play("site")
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(
        r"main:app does not import: .*something against it.*; the play stops here, fleet3 is left as before$",
        _error(done),
    ), _error(done)
    assert {name: told["failed"] for name, told in found.items()} == {name: [] for name in NAMES}
    assert fleet.served() == ["three", "two", "two"]
    assert fleet.state("fleet3") == before["fleet3"] and "fleet3" not in _recap(done)
    assert fleet.migrated() == ["one", "two", "three"]

    fleet.hosts["fleet2"].run(["rm", "/etc/broken-here"])
    done = fleet.play("site", farrier_serial=[1, "50%"])
    assert [row["changed"] for row in _recap(done).values()] == [0, 1, 1], done.stdout + done.stderr
    assert fleet.served() == ["three"] * 3
    assert fleet.migrated() == ["one", "two", "three"]


def test_all_go_back_to_one_release_by_any_hosts_name_for_it(fleet: Fleet) -> None:
    known = json.loads(fleet.hosts["fleet1"].run(["farrier", "release", "list", "hello", "--json"]).stdout)
    with clients(fleet) as found:
        done = fleet.play("rollback", "--diff", gunicorn_app_release=known["rollback"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"+{known['rollback']}" in done.stdout
    assert {name: told["failed"] for name, told in found.items()} == {name: [] for name in NAMES}
    assert fleet.served() == ["two"] * 3
    asked = fleet.state("fleet1")["history"][-1]
    assert asked["action"] == "rollback" and asked["who"].endswith(f"@{socket.gethostname()}"), asked
    again = _recap(fleet.play("rollback", gunicorn_app_release=known["rollback"]))
    assert [row["changed"] for row in again.values()] == [0, 0, 0]
    ahead = fleet.play("rollback", "--check")
    assert [row["changed"] for row in _recap(ahead).values()] == [1, 1, 1], ahead.stdout + ahead.stderr
    assert fleet.served() == ["two"] * 3
    assert fleet.migrated() == ["one", "two", "three"]


def test_a_reload_exchanges_the_workers_and_loses_nothing(fleet: Fleet) -> None:
    def running() -> list[list[str]]:
        show = "systemctl show 'hello@*' -p MainPID | sort; pgrep -u hello | sort"
        return [host.shell(show).split() for host in fleet.hosts.values()]

    before = running()
    with clients(fleet) as found:
        done = fleet.play("reload", farrier_serial="50%")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: told["failed"] for name, told in found.items()} == {name: [] for name in NAMES}
    for old, new in zip(before, running(), strict=True):
        assert old[0] == new[0], "the main process stays"
        assert old != new, "its workers do not"
    assert [fleet.state(name)["history"][-1]["action"] for name in NAMES] == ["reload"] * 3


def test_a_release_that_the_guard_turns_back_goes_no_further(fleet: Fleet) -> None:
    before = fleet.served()
    fleet.write("bad", "500 Internal Server Error")
    with clients(fleet) as found:
        done = fleet.play("deploy", gunicorn_app_guard={"seconds": 20, "requests": 5})
    assert done.returncode == 2, done.stdout + done.stderr
    error = _error(done)
    assert re.search(r"\d+ % of \d+ responses were errors .* release \S+ serves again; the play stops", error)
    assert error.endswith("; the play stops here, fleet2, fleet3 are left as before"), error
    assert fleet.served() == before
    assert found["fleet2"]["failed"] == found["fleet3"]["failed"] == []
    assert set(found["fleet1"]["failed"]) == {"status 500"}
    assert re.search(r"is release \S+, which is bad: .*gunicorn_app_retry_bad", _error(fleet.play("deploy")))


def test_a_host_that_comes_alone_migrates_itself(fleet: Fleet) -> None:
    fleet.write("four")
    assert fleet.play("deploy", "--limit", "fleet3").returncode == 0
    assert fleet.served() == ["two", "two", "four"]
    assert fleet.migrated().count("four") == 1
    done = fleet.play("deploy", farrier_serial="100%", gunicorn_app_migrate_on="never")
    assert [row["changed"] for row in _recap(done).values()] == [1, 1, 0], done.stdout + done.stderr
    assert fleet.migrated().count("four") == 1


def _when_guarded(fleet: Fleet, running: subprocess.Popen[str]) -> None:
    """Returns when the first host watches its new release."""
    host, deadline = fleet.hosts["fleet1"], time.monotonic() + 200
    runs = "systemctl is-active -q farrier-deploy-hello"
    asked = f"{runs} && tail -n 1 /srv/hello/events.jsonl | grep -q guard && sleep 1 && {runs}"
    while host.run(["sh", "-c", asked], check=False).returncode:
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)


def _below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_a_lost_connection_is_taken_up_again(fleet: Fleet) -> None:
    fleet.write("five")
    command = fleet.command("deploy", "-v", "--limit", "fleet1", gunicorn_app_guard={"seconds": 6})
    running = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    _when_guarded(fleet, running)
    cut = [one for one in _below(running.pid) if one.name() == "ssh"]
    assert cut
    for one in cut:
        one.kill()
    told = running.communicate(timeout=100)[0]
    assert running.returncode == 0, told
    assert "fleet1: the connection ended without an answer" in told, told
    assert re.search(r"^<fleet1> .* guard  watched for \d+ s$", told, re.MULTILINE), told
    assert fleet.served("fleet1") == ["five"]


def test_a_killed_controller_stops_nothing_and_the_next_run_says_what_came_of_it(fleet: Fleet) -> None:
    fleet.write("six")
    command = fleet.command("deploy", "--limit", "fleet1", gunicorn_app_guard={"seconds": 6})
    running = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, text=True)
    _when_guarded(fleet, running)
    for one in [*_below(running.pid), psutil.Process(running.pid)]:
        one.kill()
    running.wait()
    done = fleet.play("deploy", "-v", "--limit", "fleet1", gunicorn_app_guard={"seconds": 6})
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^<fleet1> .* guard  watched for \d+ s$", done.stdout, re.MULTILINE), done.stdout
    assert fleet.served("fleet1") == ["six"]
    assert fleet.migrated().count("six") == 1
    assert fleet.state("fleet1")["history"][-1]["outcome"] == "good"


def test_a_host_that_was_never_set_up_is_told_so_by_deploy(fleet: Fleet) -> None:
    assert fleet.play("remove", "--limit", "fleet2").returncode == 0
    done = fleet.play("deploy", "--limit", "fleet2,fleet3")
    told = "gunicorn_app_name: hello was never set up on this host; run playbooks/site.yml there first"
    assert told + "; the play stops here, fleet3 is left as before" in _error(done)
    for playbook in ("reload", "rollback"):
        done = fleet.play(playbook, "--limit", "fleet2")
        assert "farrier is not on this host: run playbooks/site.yml there first" in _error(done)


def test_a_new_ref_of_a_repository_is_a_new_release(fleet: Fleet, tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=fleet.source, check=True, capture_output=True)

    for number, version in enumerate(("seven", "eight")):
        fleet.write(version)
        if not number:
            git("init", "-q")
        git("add", ".")
        git("commit", "-q", "-m", version)
        git("tag", version)
    git("clone", "-q", "--bare", ".", str(tmp_path / "hello.git"))
    fleet.hosts["fleet3"].put(tmp_path / "hello.git", "/opt/hello.git")
    given = {"gunicorn_app_path": None, "gunicorn_app_git_repo": "file:///opt/hello.git"}
    for playbook, version in (("site", "seven"), ("deploy", "eight")):
        done = fleet.play(playbook, "--limit", "fleet3", gunicorn_app_git_ref=version, **given)
        assert done.returncode == 0, done.stdout + done.stderr
        assert fleet.served("fleet3") == [version]
