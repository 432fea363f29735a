"""Each check judges one thing; a healthy snapshot is all ok, and each fault is named with its mend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from farrier.doctor import CHECKS, Snapshot, examine
from farrier.doctor.snapshot import Traffic

MIB = 2**20
PLAN = {
    "workers": 2,
    "memory_max": 300 * MIB,
    "backlog": 2048,
    "worker_connections": 1000,
    "verdict": {"level": "tight", "why": "low memory mode"},
    "fields": {"workers": {"value": 2}, "timeout": {"value": 30}},
}
HEALTHY = Snapshot(
    name="blog",
    plan=PLAN,
    in_force={"workers": 2, "timeout": 30, "bind": ["127.0.0.1:8000"]},
    workers=({"pid": 1, "ready": True}, {"pid": 2, "ready": True}),
    instance="blue",
    unit={"ActiveState": "active", "NRestarts": "0"},
    memory_limit=300 * MIB,
    memory_used=100 * MIB,
    oom_kills=0,
    machine_memory=512 * MIB,
    machine_available=200 * MIB,
    swap=512 * MIB,
    somaxconn=4096,
    queue_limit=2048,
    queue_depth=0,
    files_limit=65536,
    files_open=20,
    tmp_dir="/dev/shm",
    tmp_type="tmpfs",
    tmp_free=64 * MIB,
    disk_free=2**30,
    release_size=50 * MIB,
    lock_age=None,
    health=(True, "200 in 4 ms"),
    traffic=Traffic(1000, 2),
    overflows=0,
)


def test_a_healthy_app_has_nothing_to_change() -> None:
    findings = examine(HEALTHY)
    assert len(findings) == len(CHECKS)
    assert {f.level for f in findings} == {"ok"}
    assert not [f for f in findings if f.change]


def test_nothing_known_is_said_to_be_unknown_and_never_ok_by_default() -> None:
    levels = {f.check: f.level for f in examine(Snapshot(name="blog"))}
    for quiet in (
        "lock",
        "deploy",
        "last deploy",
        "releases",
        "reload",
        "colours",
        "account",
        "neighbours",
        "database",
    ):  # nothing there is what a quiet host has
        assert levels.pop(quiet) == "ok"
    assert set(levels.values()) == {"unknown"}


@pytest.mark.parametrize(
    ("change", "check", "level", "words"),
    [
        ({"unit": {"ActiveState": "failed", "Result": "oom-kill"}}, "running", "wrong", "oom-kill"),
        ({"unit": {"ActiveState": "active", "NRestarts": "3"}}, "running", "look", "3 times"),
        ({"workers": ({"ready": False},)}, "workers", "wrong", "0 of 2"),
        ({"in_force": {"workers": 9}}, "settings", "look", "workers is 9, planned 2"),
        ({"oom_kills": 2}, "memory", "wrong", "killed 2 processes"),
        ({"memory_used": 290 * MIB}, "memory", "look", "97%"),
        ({"memory_limit": None}, "memory", "look", "nothing limits it"),
        ({"memory_limit": 200 * MIB}, "limits", "look", "the plan wants 300 MiB"),
        (
            {"plan": {**PLAN, "verdict": {"level": "not viable", "why": "1 worker needs 300 MiB"}}},
            "viable",
            "look",
            "not viable here by its plan: 1 worker needs 300 MiB",
        ),
        ({"swap": 0}, "swap", "look", "no swap"),
        ({"machine_available": 10 * MIB}, "machine", "wrong", "10 MiB of 512 MiB"),
        ({"queue_limit": 128, "somaxconn": 128}, "backlog", "look", "planned 2048"),
        ({"queue_depth": 1500}, "backlog", "look", "1500 connections wait"),
        ({"files_limit": 256}, "descriptors", "wrong", "may need 1064"),
        ({"files_open": 60000}, "descriptors", "look", "60000 of 65536"),
        ({"tmp_type": "ext4"}, "heartbeat", "look", "on ext4"),
        ({"tmp_free": MIB}, "heartbeat", "wrong", "1 MiB free"),
        ({"disk_free": 10 * MIB}, "disk", "look", "next release wants"),
        ({"lock_age": 7200.0}, "lock", "look", "120 minutes"),
        ({"health": (False, "503 not ready")}, "health", "wrong", "503"),
        ({"run": {"phase": "start"}}, "deploy", "look", "'start'; what served before"),
        ({"second": "blog@green.service"}, "colours", "wrong", "blog@green.service"),
        ({"account": "user blog"}, "account", "wrong", "user blog"),
        (
            {"together": 600 * MIB, "neighbours": ("api",)},
            "neighbours",
            "look",
            "api: 600 MiB expected of 512",
        ),
        (
            {"connections": "api 88 + blog 44 = 132 connections, more than 95: set database_max_connections"},
            "database",
            "look",
            "132 connections, more than 95",
        ),
    ],
)
def test_each_fault_is_named_with_its_mend(
    change: dict[str, Any], check: str, level: str, words: str
) -> None:
    finding = next(f for f in examine(replace(HEALTHY, **change)) if f.check == check)
    assert finding.level == level
    assert words in finding.seen
    assert finding.change


def test_the_mend_for_a_short_queue_names_the_sysctl_only_when_the_kernel_cut_it() -> None:
    cut = replace(HEALTHY, queue_limit=128, somaxconn=128)
    old = replace(HEALTHY, queue_limit=128, somaxconn=4096)
    mends = [next(f for f in examine(s) if f.check == "backlog").change for s in (cut, old)]
    assert "somaxconn=2048" in mends[0]
    assert "sysctl" not in mends[1]


def test_a_server_that_nobody_deployed_gets_advice_without_systemd() -> None:
    here = replace(HEALTHY, deployed=False, pid=42, unit={}, in_force={"workers": 9}, queue_limit=128)
    told = " ".join(f.change for f in examine(here))
    assert "kill -HUP 42" in told
    assert "systemctl" not in told
    assert "journalctl" not in told
