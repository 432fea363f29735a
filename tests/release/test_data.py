"""A person's data in shared/ and the account that it belongs to: through failures, removals, other apps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.systemd
Tree = Callable[[str], dict[str, str]]
PORT = 8501
BROKEN = {"main.py": "import nothere\n"}


@pytest.fixture
def clean(site: Any) -> Iterator[None]:
    yield
    for name in ("vault", "ledger"):
        site.apply({"name": name, "state": "absent"})
        site.host.shell(
            f"rm -rf /srv/{name}; userdel {name} 2>/dev/null || true; groupdel {name} 2>/dev/null || true"
        )


def owner(site: Any, path: str) -> str:
    return str(site.host.shell(f"stat -c '%U:%G:%a' {path}").strip())


def test_kept_data_outlives_a_failed_deploy_and_strangers(site: Any, hello_tree: Tree, clean: None) -> None:
    spec = site.spec("vault", hello_tree("one"), bind=f"127.0.0.1:{PORT}")
    site.apply(spec)
    site.host.shell("echo data > /srv/vault/shared/data.txt; chown vault: /srv/vault/shared/data.txt")
    site.apply({"name": "vault", "state": "absent", "keep_data": True})
    assert site.host.shell("find /srv/vault -type f").split() == ["/srv/vault/shared/data.txt"]
    # The user stays with its data: a number given to the next account would hand it over.
    assert owner(site, "/srv/vault/shared/data.txt").startswith("vault:vault:")
    assert not site.apply({"name": "vault", "state": "absent", "keep_data": True})["changed"]
    site.refused({**spec, "source": site.upload(BROKEN)})
    assert site.host.read("/srv/vault/shared/data.txt") == "data\n"
    assert owner(site, "/srv/vault/shared") == "vault:vault:750"
    site.apply({**spec, "source": site.upload(hello_tree("one"))})
    assert site.host.read("/srv/vault/shared/data.txt") == "data\n"
    site.apply({"name": "vault", "state": "absent"})
    assert site.host.run(["test", "-e", "/srv/vault"], check=False).returncode
    assert site.host.run(["id", "vault"], check=False).returncode


def test_kept_data_can_be_let_go_later(site: Any, hello_tree: Tree, clean: None) -> None:
    site.apply(site.spec("vault", hello_tree("one"), bind=f"127.0.0.1:{PORT}"))
    site.host.shell("echo data > /srv/vault/shared/data.txt")
    site.apply({"name": "vault", "state": "absent", "keep_data": True})
    assert site.apply({"name": "vault", "state": "absent"})["changed"]
    assert site.host.run(["test", "-e", "/srv/vault"], check=False).returncode
    assert site.host.run(["id", "vault"], check=False).returncode
    assert not site.apply({"name": "vault", "state": "absent"})["changed"]


def test_a_folder_made_by_hand_is_given_back_by_a_failure(site: Any, hello_tree: Tree, clean: None) -> None:
    make = (
        "mkdir -p /srv/vault/shared/in && cd /srv/vault/shared && echo a > in/data.txt && chown -R mail: in"
    )
    site.host.shell(f"{make} && echo b > roots.txt && chmod 755 .")
    before = site.host.shell("find /srv/vault -printf '%p %u %g %m\n' | sort")
    fails = site.spec("vault", BROKEN, bind=f"127.0.0.1:{PORT}")
    site.refused(fails)
    assert site.host.shell("find /srv/vault -printf '%p %u %g %m\n' | sort") == before
    assert site.host.run(["id", "vault"], check=False).returncode
    site.apply({**fails, "source": site.upload(hello_tree("one"))})
    # What was root's as the folder was is the app's now; another's files stay another's.
    assert owner(site, "/srv/vault/shared/roots.txt").startswith("vault:vault:")
    assert owner(site, "/srv/vault/shared/in/data.txt").startswith("mail:")


def test_data_of_a_number_that_is_nobodys_is_taken_over(site: Any, hello_tree: Tree, clean: None) -> None:
    site.host.shell("mkdir -p /srv/vault/shared/in && echo a > /srv/vault/shared/in/data.txt")
    site.host.shell("chown -R 4711:4711 /srv/vault/shared")
    site.apply(site.spec("vault", hello_tree("one"), bind=f"127.0.0.1:{PORT}"))
    assert owner(site, "/srv/vault/shared/in/data.txt").startswith("vault:vault:")


def test_a_killed_and_then_failed_first_deploy_keeps_what_came_between(
    site: Any, hello_tree: Tree, clean: None
) -> None:
    spec = site.spec("vault", BROKEN, bind=f"127.0.0.1:{PORT}")
    site.host.shell("mkdir -p /srv/vault")
    slow = {**spec, "commands": {"build": ["sleep 60"]}}
    site.host.write("/tmp/vault.json", json.dumps(slow))
    site.host.shell(
        f"PYTHONPATH={site.wheel} setsid python3 -m farrier release apply /tmp/vault.json "
        "> /tmp/vault.out 2>&1 &"
    )
    site.wait_for("the build", "tail -3 /srv/vault/events.jsonl | grep -q 'sleep 60'")
    site.host.shell("systemctl kill -s KILL farrier-deploy-vault; echo mine > /srv/vault/shared/mine.txt")
    site.wait_for("the end", "grep -q 'run it again' /tmp/vault.out", 20)
    site.refused({**spec, "commands": {}})
    assert site.host.read("/srv/vault/shared/mine.txt") == "mine\n"


def test_an_account_that_two_apps_run_as_stays_until_the_last(
    site: Any, hello_tree: Tree, clean: None
) -> None:
    first = site.spec("vault", hello_tree("one"), bind=f"127.0.0.1:{PORT}", settings={"workers": 1})
    second = site.spec("ledger", hello_tree("two"), bind=f"127.0.0.1:{PORT + 1}", user="vault")
    second["settings"] = first["settings"]
    site.apply(first)
    site.apply(second)
    site.apply({"name": "vault", "state": "absent"})
    assert site.host.run(["id", "vault"], check=False).returncode == 0
    site.host.shell("systemctl restart ledger@blue")
    assert site.get(PORT + 1).startswith("two")
    # It may take more of the memory now, and still runs as that user.
    site.apply(second)
    assert site.get(PORT + 1).startswith("two")
    site.apply({"name": "ledger", "state": "absent"})
    assert site.host.run(["id", "vault"], check=False).returncode
    assert site.host.run(["getent", "group", "vault"], check=False).returncode


def test_a_folder_with_releases_of_another_tool_is_refused(site: Any, hello_tree: Tree, clean: None) -> None:
    site.host.shell("mkdir -p /srv/vault/releases/20240101 /srv/vault/shared")
    line = site.refused(site.spec("vault", hello_tree("one"), bind=f"127.0.0.1:{PORT}"))
    assert line.startswith("root: /srv/vault holds releases, which farrier did not make")
    assert site.host.shell("ls /srv/vault/releases").strip() == "20240101"
