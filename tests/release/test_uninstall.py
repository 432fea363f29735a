"""Several apps on one host, and taking one away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.systemd
Tree = Callable[[str], dict[str, str]]


def without_shared(site: Any) -> str:
    """The host but for what all apps share, which earlier tests may have left for the next app."""
    shared = ("/usr/local", "/etc/farrier", "/var/lib/farrier", "/run/farrier")
    return "\n".join(line for line in site.snapshot().splitlines() if not line.startswith(shared))


def test_two_apps_do_not_touch_each_other_and_go_without_a_trace(site: Any, hello_tree: Tree) -> None:
    site.host.run(["rmdir", "/etc/farrier/neighbour"])
    before = without_shared(site)
    one = site.spec("one-app", hello_tree("one"), bind="127.0.0.1:8401", settings={"workers": 1})
    two = site.spec("two", hello_tree("two"), bind="127.0.0.1:8402", keep_releases=1)
    site.apply(one)
    pid = site.host.shell("systemctl show -P MainPID one-app@blue")
    site.apply(two)
    for version in ("three", "four", "five"):
        site.apply({**two, "source": site.upload(hello_tree(version))})
    # keep_releases counts what serves; the one before it stays for a rollback.
    assert len(site.farrier("list", "two")["releases"]) == 2
    site.remove("two")
    assert site.host.shell("systemctl show -P MainPID one-app@blue") == pid
    assert site.get(8401) == "one blue"
    assert site.host.run(["id", "two"], check=False).returncode
    assert "nothing" not in site.farrier("show", "one-app")["history"][-1]["outcome"]
    line = site.refused(site.spec("one_app", hello_tree("x"), bind="127.0.0.1:8403"))
    assert "would share the slice farrier-one_app.slice" in line
    site.remove("one-app")
    assert without_shared(site) == before
    shared = "/usr/local/lib/farrier /usr/local/bin/farrier /etc/farrier /var/lib/farrier /run/farrier"
    assert site.host.shell(f"ls -d {shared} 2>/dev/null || true").strip() == ""
    assert not site.apply({"name": "one-app", "state": "absent"})["changed"]
    units = site.host.shell("systemctl list-units --all --plain --no-legend '*one-app*' '*one_app*' 'two*'")
    assert units.strip() == ""


def test_what_is_not_ours_stays(site: Any, hello_tree: Tree) -> None:
    site.host.shell("mkdir -p /srv/kept && echo theirs > /srv/kept/theirs.txt && useradd -m worker")
    try:
        spec = site.spec("kept", hello_tree("one"), bind="127.0.0.1:8404", user="worker")
        site.apply(spec)
        site.host.shell("echo data > /srv/kept/shared/data.txt")
        site.apply({"name": "kept", "state": "absent", "keep_data": True})
        left = site.host.shell("cd /srv/kept && find . -type f | sort").split()
        assert left == ["./shared/data.txt", "./theirs.txt"]
        assert site.host.run(["id", "worker"], check=False).returncode == 0
    finally:
        site.host.shell("rm -rf /srv/kept; userdel -r worker")
