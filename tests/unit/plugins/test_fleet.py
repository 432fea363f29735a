"""One host among the others: who migrates, who is left alone, which release is meant."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.farrier.web.plugins.filter.batches import FilterModule
from ansible_collections.farrier.web.plugins.modules import release as release_module
from ansible_collections.farrier.web.plugins.plugin_utils import fleet

#: A worker of the same run: takes its turn, says so, and ends as it is told on its input.
WORKER = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import conftest
from ansible_collections.farrier.web.plugins.plugin_utils import fleet
try:
    with fleet.migrations_turn(Path(sys.argv[2]), sys.argv[3], lambda said: print(said, flush=True)) as turn:
        print("migrates" if turn.here else "goes on", flush=True)
        turn.good = not turn.here or sys.stdin.readline().strip() == "good"
except fleet.FirstFailed as refused:
    print(refused)
"""


def _worker(place: Path, host: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(Path(__file__).parent), str(place), host]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


def _told(worker: subprocess.Popen[str], word: str) -> None:
    worker.communicate(word + "\n", timeout=30)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return fleet.turn_place(str(tmp_path), "play", "shop")


def test_the_first_migrates_and_the_others_wait_for_it_and_go_on(place: Path) -> None:
    first = _worker(place, "web1")
    assert _line(first) == "migrates"
    others = [_worker(place, "web2"), _worker(place, "web3")]
    for host, other in zip(("web2", "web3"), others, strict=True):
        assert _line(other) == f"{host} waits for web1, which runs the migrations"
    _told(first, "good")
    assert [_line(other) for other in others] == ["goes on", "goes on"]
    for other in others:
        other.wait(10)
    later = _worker(place, "web4")
    assert _line(later) == "goes on"
    later.wait(10)


@pytest.mark.parametrize("end", ["failed", "killed"])
def test_where_the_first_fails_nobody_goes_on(place: Path, end: str) -> None:
    first = _worker(place, "web1")
    assert _line(first) == "migrates"
    other = _worker(place, "web2")
    assert _line(other).startswith("web2 waits")
    if end == "killed":
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    else:
        _told(first, "bad")
    assert _line(other).startswith("migrate_on: web1 runs the migrations for all and did not get through")
    other.wait(10)


def test_the_first_may_try_again_in_the_same_run(place: Path) -> None:
    for word in ("bad", "good"):
        first = _worker(place, "web1")
        assert _line(first) == "migrates"
        _told(first, word)
    other = _worker(place, "web2")
    assert _line(other) == "goes on"
    other.wait(10)


def test_each_app_and_each_play_has_a_first_host_of_its_own(tmp_path: Path) -> None:
    places = {fleet.turn_place(str(tmp_path), play, app) for play in ("a", "b") for app in ("shop", "blog")}
    assert len(places) == 4


def _task(any_errors_fatal: bool, order: str | None = None) -> Any:
    return SimpleNamespace(any_errors_fatal=any_errors_fatal, get_play=lambda: SimpleNamespace(order=order))


def test_a_failure_names_the_hosts_that_are_left_alone() -> None:
    hosts = {"ansible_play_hosts_all": ["a", "b", "c", "d", "e", "f"], "ansible_play_batch": ["b", "a"]}
    left = fleet.left_alone(_task(True), hosts)
    assert left == ["c", "d", "e", "f"]
    assert fleet.stopped_here(left) == "; the play stops here, c, d, e and 1 more are left as before"
    assert fleet.stopped_here(["c"]) == "; the play stops here, c is left as before"
    assert fleet.stopped_here([]) == ""
    # A play that goes on with the others, or in another order, promises nothing.
    assert fleet.left_alone(_task(False), hosts) == fleet.left_alone(_task(True, "shuffle"), hosts) == []


@pytest.mark.parametrize(
    ("result", "lost"),
    [
        ({"failed": True, "module_stdout": "", "module_stderr": "", "rc": -9}, True),
        ({"failed": True, "module_stdout": "", "module_stderr": "Killed", "rc": 137}, True),
        ({"failed": True, "module_stdout": "", "module_stderr": "Traceback ...", "rc": 1}, False),
        ({"failed": True, "msg": "the app does not import"}, False),
        ({"changed": True}, False),
    ],
)
def test_a_lost_connection_is_told_from_a_module_that_broke(result: dict[str, Any], lost: bool) -> None:
    assert bool(fleet._no_answer(result)) is lost


@pytest.mark.parametrize(
    ("given", "batches"),
    [
        (1, [1]),
        ("3", [3]),
        ("25%", ["25%"]),
        ([1, "25%"], [1, "25%"]),
        ('[1, "25%", "100%"]', [1, "25%", "100%"]),
        ("1,25%", [1, "25%"]),
    ],
)
def test_how_many_at_once_is_taken_as_a_person_writes_it(given: object, batches: list[object]) -> None:
    assert FilterModule().filters()["batches"](given) == batches


@pytest.mark.parametrize("given", ["two", 0, "0%", "125%", "[1", "", [], [1, "many"], -1, 1.5])
def test_how_many_at_once_is_refused_in_one_line(given: object) -> None:
    with pytest.raises(
        AnsibleFilterError, match=r"^farrier_serial: given .*; allowed: a number of hosts"
    ) as no:
        FilterModule().filters()["batches"](given)
    assert "\n" not in no.value.message


RELEASES = [
    {"id": "20261101-080000-aaaaaaaa", "served": "x"},
    {"id": "20261102-080000-bbbbbbbb", "served": "x", "previous": True, "bad": {"why": "too slow"}},
    {"id": "20261103-080000-cccccccc", "served": None},
    {"id": "20261104-080000-dddddddd", "served": "x", "active": True},
]


def _target(rollback: str | None = "20261101-080000-aaaaaaaa", **given: Any) -> str:
    options = {"name": "shop", "prefix": "gunicorn_app_", "release": "", "force": False, **given}
    found: str = release_module.target_of(options, {"releases": RELEASES, "rollback": rollback})["id"]
    return found


def test_a_rollback_without_a_name_goes_where_the_host_would_go() -> None:
    assert _target() == "20261101-080000-aaaaaaaa"
    with pytest.raises(release_module.Refused, match="no good release is kept on this host to go back to"):
        _target(None)


@pytest.mark.parametrize("given", ["20261101-080000-aaaaaaaa", "20261031-235959-aaaaaaaa", "aaaaaaaa"])
def test_a_release_is_named_by_its_id_by_another_hosts_or_by_what_it_was_built_from(given: str) -> None:
    assert _target(release=given) == "20261101-080000-aaaaaaaa"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"release": "eeeeeeee"},
            "gunicorn_app_release: given eeeeeeee, which shop does not have on this host",
        ),
        ({"release": "cccccccc"}, "gunicorn_app_release: given cccccccc, which shop does not have"),
        (
            {"release": "bbbbbbbb"},
            r"gunicorn_app_release: 20261102-080000-bbbbbbbb is bad: too slow",
        ),
    ],
)
def test_a_release_that_cannot_serve_is_refused_with_those_that_can(given: dict[str, str], told: str) -> None:
    with pytest.raises(release_module.Refused, match=f"^{told}"):
        _target(**given)
    if given["release"] == "bbbbbbbb":
        assert _target(**given, force=True) == "20261102-080000-bbbbbbbb"


def test_the_release_modules_documentation_has_every_option_as_it_is() -> None:
    documented = yaml.safe_load(release_module.DOCUMENTATION)["options"]
    shape = ("type", "choices", "default", "required")
    assert {name: {key: option.get(key) for key in shape} for name, option in documented.items()} == {
        name: {key: option.get(key) for key in shape} for name, option in release_module.ARGUMENTS.items()
    }
