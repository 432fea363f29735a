"""Several apps share one host's memory by weight."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.systemd
Tree = Callable[[str], dict[str, str]]
PORT = 8801


@pytest.fixture(scope="module")
def first(site: Any, hello_tree: Tree) -> Iterator[dict[str, Any]]:
    """An app that takes a part of the host."""
    more = {"workload": {"app_memory": "40M"}, "settings": {"workers": 1}}
    spec = site.spec("big-one", hello_tree("one"), bind=f"127.0.0.1:{PORT}", **more)
    spec["answer"] = site.apply(spec)
    yield spec
    site.remove("big-one")


def test_a_second_app_is_planned_with_what_the_first_leaves(
    site: Any, first: dict[str, Any], hello_tree: Tree
) -> None:
    takes = first["answer"]["plan"]["memory_deploy_peak"]
    assert takes > 40 << 20
    spec = site.spec("late", hello_tree("two"), bind=f"127.0.0.1:{PORT + 1}", workload={"app_memory": "120M"})
    try:
        plan = site.apply(spec)["plan"]
        budget = plan["inputs"]["budget"]
        assert "shared with big-one" in budget["memory_source"]
        assert plan["memory_deploy_peak"] + takes <= 512 << 20
        # What runs is what was planned: the server does not take the whole machine for its own again.
        for name in ("big-one", "late"):
            told = site.host.run(["farrier", "doctor", name, "--json"], check=False).stdout
            found = {one["check"]: one for one in json.loads(told)[name]}
            assert found["settings"]["level"] == "ok", found["settings"]
        # Neither of them changes because of the other, however often both are applied.
        for one in (first, spec, first, spec):
            assert not site.apply({k: v for k, v in one.items() if k != "answer"})["changed"]
    finally:
        site.remove("late")


def test_what_does_not_fit_beside_the_others_is_refused_by_name(
    site: Any, first: dict[str, Any], hello_tree: Tree
) -> None:
    spec = site.spec("late", hello_tree("two"), bind=f"127.0.0.1:{PORT + 1}", workload={"app_memory": "410M"})
    line = site.refused(spec)
    assert line.startswith("memory: late (minimum ") and "big-one (" in line
    assert "; the smallest size that takes both is " in line
    line = site.refused({**spec, "settings": {"memory_limit": "450M", "workers": 1}})
    assert line.startswith("memory: late needs ")
    assert " MiB for big-one, and this host has 512 MiB in all; lower " in line
    assert "gunicorn_app_memory" in line
    assert site.host.run(["test", "-e", "/srv/late"], check=False).returncode
