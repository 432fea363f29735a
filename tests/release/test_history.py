"""What is remembered of every run, which release a rollback takes, and what a person can say of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.systemd
Tree = Callable[[str], dict[str, str]]
PORT = 8811


@pytest.fixture(scope="module")
def diary(site: Any, hello_tree: Tree) -> Iterator[dict[str, Any]]:
    """An app with three releases, the third of which serves."""
    spec = site.spec("diary", hello_tree("one"), bind=f"127.0.0.1:{PORT}", settings={"workers": 1})
    spec["ids"] = []
    for version in ("one", "two", "three"):
        spec["source"] = site.upload(hello_tree(version))
        spec["ids"].append(site.apply(plain(spec), wait=120)["release"])
    yield spec
    site.remove("diary")


def plain(spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**{key: value for key, value in spec.items() if key != "ids"}, **more}


def last(site: Any) -> dict[str, Any]:
    """The newest run in the history."""
    run: dict[str, Any] = site.farrier("list", "diary")["history"][-1]
    return run


def test_every_run_is_told_with_who_what_and_how(site: Any, diary: dict[str, Any]) -> None:
    runs = site.farrier("list", "diary")["history"]
    assert [run["release"] for run in runs] == diary["ids"]
    assert [run["from"] for run in runs] == ["", *diary["ids"][:2]]
    assert {(run["who"], run["action"], run["outcome"]) for run in runs} == {("tests", "deploy", "good")}
    assert all(run["source"].startswith("sha256:") and run["seconds"] > 0 for run in runs)
    assert runs[-1]["strategy"] in ("overlap", "rolling", "queue")


def test_the_table_of_a_tired_person(site: Any, diary: dict[str, Any]) -> None:
    said = site.host.shell("farrier release list diary")
    rows, marks = (part.splitlines() for part in said.split("\n\n"))
    assert rows[0].split()[:3] == ["when", "(UTC)", "who"]
    assert [diary["ids"][index] in row for index, row in enumerate(rows[1:4])] == [True] * 3
    assert f"archive {diary['source']['sha256'][:10]}" in rows[3]
    assert [row[0] for row in marks[1:]] == [" ", "<", "*"]
    assert marks[2].endswith("what a rollback takes")
    assert marks[3].endswith("serves")


def test_a_failed_run_is_told(site: Any, diary: dict[str, Any]) -> None:
    line = site.refused(plain(diary, source=site.upload({"main.py": "import nothere\n"}), who="kate@laptop"))
    run = last(site)
    assert (run["outcome"], run["who"], run["action"]) == ("failed", "kate@laptop", "deploy")
    assert run["message"] in line
    assert "nothere" in run["message"]


def test_a_mark_is_what_a_rollback_passes_over(site: Any, diary: dict[str, Any]) -> None:
    one, two, three = diary["ids"]
    marked = site.farrier("mark", "diary", two, "--bad", "it lost a form")
    assert marked["bad"]["why"] == "it lost a form"
    found = site.farrier("list", "diary")
    assert found["rollback"] == one
    assert [item["bad"] is not None for item in found["releases"]] == [False, True, False]
    refused = site.farrier("rollback", "diary", "--to", two, check=False)
    assert "which is bad: it lost a form" in refused["msg"]
    assert f"allowed: {one}, or that one with --force" in refused["msg"]
    # The same source again is the same release.
    line = site.refused(plain(diary, source=source_of(site, two)))
    assert "this is release" in line
    assert "it lost a form" in line
    assert site.state("diary")["release"] == three
    site.farrier("rollback", "diary")
    assert site.state("diary")["release"] == one
    assert last(site)["action"] == "rollback"
    assert (last(site)["who"], last(site)["from"]) == ("root", three)


def source_of(site: Any, release: str) -> dict[str, Any]:
    path = f"/srv/diary/releases/{release}/release.json"
    found: dict[str, Any] = json.loads(site.host.read(path))["spec"]["source"]
    return found


def test_what_is_bad_serves_if_somebody_insists(site: Any, diary: dict[str, Any]) -> None:
    two = diary["ids"][1]
    site.farrier("rollback", "diary", "--to", two, "--force")
    assert site.get(PORT).startswith("two")
    site.farrier("mark", "diary", two, "--good")
    assert site.farrier("list", "diary")["releases"][1]["bad"] is None


def test_what_was_bad_is_tried_again(site: Any, diary: dict[str, Any]) -> None:
    three = diary["ids"][2]
    site.farrier("mark", "diary", three, "--bad", "slow")
    again = plain(diary, source=source_of(site, three))
    assert "slow" in site.refused(again)
    assert "slow" in site.refused(again, "--check")
    site.apply(again, "--retry-bad")
    assert site.get(PORT).startswith("three")
    found = site.farrier("list", "diary")
    assert found["release"] == three
    assert [item["bad"] for item in found["releases"] if item["id"] == three] == [None]
    # That it was retried is nothing that stays.
    assert not site.apply(again)["changed"]


def test_settings_and_reloads_are_runs_too(site: Any, diary: dict[str, Any]) -> None:
    site.apply(plain(diary, keep_releases=4))
    assert (last(site)["action"], last(site)["message"]) == ("settings", "keep_releases")
    pid = site.host.shell("systemctl show -P MainPID diary@blue diary@green")
    site.farrier("reload", "diary")
    assert (last(site)["action"], last(site)["outcome"], last(site)["who"]) == ("reload", "good", "root")
    assert site.host.shell("systemctl show -P MainPID diary@blue diary@green") == pid
    diary["keep_releases"] = 4


def test_a_killed_run_is_told_too(site: Any, diary: dict[str, Any], hello_tree: Tree) -> None:
    wait = "until [ -e /srv/diary/shared/go ]; do touch /srv/diary/shared/waits; sleep 0.1; done"
    spec = plain(
        diary, source=site.upload(hello_tree("four")), commands={"migrate": [wait]}, who="kate@laptop"
    )
    site.host.write("/run/diary.json", json.dumps(spec))
    site.host.shell(
        f"PYTHONPATH={site.wheel} systemd-run --quiet --unit=diary-apply -E PYTHONPATH={site.wheel} "
        "python3 -m farrier release apply /run/diary.json"
    )
    site.wait_for("the migration", "test -e /srv/diary/shared/waits")
    site.host.shell("systemctl kill -s KILL farrier-deploy-diary")
    site.wait_for("its end", "! systemctl is-active farrier-deploy-diary", 20)
    site.host.shell("touch /srv/diary/shared/go")
    site.apply({**spec, "who": "paul@desk"})
    killed, done = site.farrier("list", "diary")["history"][-2:]
    assert (killed["who"], killed["outcome"]) == ("kate@laptop", "failed")
    assert killed["message"].startswith("ended at migrate by a kill; ")
    assert (done["who"], done["outcome"], done["action"]) == ("paul@desk", "good", "deploy")
    assert site.get(PORT).startswith("four")
