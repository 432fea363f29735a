"""A spec is checked whole, and each wrong value is one line that names its key."""

from __future__ import annotations

from typing import Any

import pytest

from farrier.release.spec import Spec, SpecError, parse_bind

GOOD: dict[str, Any] = {
    "name": "shop",
    "app": "shop.main:create_app()",
    "source": {"type": "git", "repo": "git@example.org:shop.git", "ref": "main"},
}

WRONG: list[tuple[str, Any, str]] = [
    ("name", "Shop", "name: given 'Shop'; allowed: lower-case"),
    ("name", "x" * 32, "name: given"),
    ("state", "gone", "state: given 'gone'; allowed: present, absent"),
    ("app", "main app", "app: given 'main app'; allowed: module:callable"),
    ("bind", "example.org:80", "bind: given 'example.org:80'; allowed:"),
    ("bind", 0, "bind: given 0; allowed:"),
    ("bind", "127.0.0.1:70000", "from 1 to 65535"),
    ("root", "/srv", "root: given '/srv'; allowed: an absolute path at least two folders deep"),
    ("root", "/srv/../etc", "root: given"),
    ("user", "root", "user: given 'root'; allowed: any user but root"),
    ("python", "2.7", "python: given '2.7'; allowed: a version such as"),
    ("installer", "conda", "installer: given 'conda'; allowed: auto, uv, pip"),
    ("requirements", "../other.txt", "requirements: given '../other.txt'; allowed: a path inside the source"),
    ("pythonpath", ["/etc"], "pythonpath: given '/etc'; allowed: paths inside the source"),
    ("env", {"A-B": "x"}, "env.A-B: no environment name"),
    ("env", {"A": "bell\a"}, "env.A: given a value; allowed: text without control characters"),
    ("env", {"A": ["x"]}, "env.A: given a value; allowed: text or a number"),
    ("env", {"A": "x" * 200_000}, "env.A: given a value; allowed: at most 127 KiB"),
    ("ready", "not a function", "ready: given 'not a function'; allowed: module:function"),
    ("health_path", "health", "health_path: given 'health'; allowed: a path such as /health"),
    ("keep_releases", 0, "keep_releases: given 0; allowed: a whole number from 1 to 50"),
    ("settings", {"workers": 0}, "settings.workers:"),
    ("settings", {"workerz": 2}, "settings.workerz:"),
    ("workload", {"app_memory": "lots"}, "workload:"),
    ("commands", {"test": []}, "commands.test: no such key; allowed: build, migrate"),
    ("commands", {"build": "make"}, "commands.build: given 'make'; allowed: a list of commands"),
    ("source", {"type": "svn"}, "source.type: given 'svn'; allowed: archive, git, requirement"),
    ("source", {"type": "archive", "path": "/x", "sha256": "y"}, "source.sha256: given 'y'; allowed: 64"),
    ("source", {"type": "git", "repo": "--upload-pack=x"}, "source.repo: given '--upload-pack=x'"),
    ("source", {"type": "git", "repo": "r", "deploy_key": "abc"}, "source.deploy_key: given '...'; allowed:"),
    ("source", {"type": "requirement", "requirement": "--index-url x"}, "source.requirement: given"),
    ("colour", "blue", "colour: no such key; allowed: schema, name"),
    ("guard", {"second": 3}, "guard.second: no such key; allowed: seconds, errors, latency"),
    ("guard", {"seconds": -1}, "guard.seconds: given -1; allowed: a number from 0 to 3600"),
    ("guard", {"errors": "5 %"}, "guard.errors: given '5 %'; allowed: a number from 0 to 1"),
    ("guard", {"latency": 0.5}, "guard.latency: given 0.5; allowed: a number from 1 to 1000"),
    ("guard", {"requests": 2.5}, "guard.requests: given 2.5; allowed: a whole number from 1 to"),
    ("guard", {"restarts": True}, "guard.restarts: given True; allowed: a whole number from 1 to 1000"),
    ("guard", 30, "guard: given 30; allowed: an object"),
    ("weight", 0, "weight: given 0; allowed: a whole number from 1 to 1000"),
    ("measure", {"second": 3}, "measure.second: no such key; allowed: enabled, requests, headers, seconds"),
    ("measure", {"enabled": 1}, "measure.enabled: given 1; allowed: true or false"),
    ("measure", {"seconds": 0}, "measure.seconds: given 0; allowed: a whole number from 2 to 600"),
    ("measure", {"requests": "GET /"}, "measure.requests: given 'GET /'; allowed: a list of requests"),
    ("measure", {"requests": ["/"]}, "measure.requests: given '/'; allowed: a list of requests: METHOD"),
    # What farrier measure would not take, either.
    ("measure", {"requests": ["GET /ä"]}, "measure.requests: given 'GET /ä'; allowed"),
    ("measure", {"requests": ["CONNECT /"]}, "measure.requests: given 'CONNECT /'; allowed"),
    ("measure", {"requests": ["GET /a\x01"]}, "measure.requests: given"),
    ("measure", {"requests": ["POST / a\0b"]}, "measure.requests: given"),
    ("measure", {"headers": "Host: shop"}, "measure.headers: given a value; allowed: a list of NAME: VALUE"),
    ("measure", {"headers": ["shop"]}, "measure.headers: given a value; allowed: a list of NAME: VALUE"),
    ("measure", {"headers": ["Host: a\r\nX: b"]}, "measure.headers: given a value; allowed"),
    ("measure", False, "measure: given False; allowed: an object"),
    ("notify", {"slack": "x"}, "notify.slack: no such key; allowed: webhook, command"),
    ("notify", {"webhook": "hooks.example.org"}, "notify.webhook: given a value; allowed: an http or https"),
    ("notify", {"command": ["mail"]}, "notify.command: given ['mail']; allowed: a command for /bin/sh"),
    ("migrate_here", "yes", "migrate_here: given 'yes'; allowed: true or false"),
    ("retry_bad", 1, "retry_bad: given 1; allowed: true or false"),
]


@pytest.mark.parametrize(("key", "value", "told"), WRONG)
def test_a_wrong_value_is_named_in_one_line(key: str, value: Any, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        Spec.from_mapping({**GOOD, key: value})
    assert told in str(caught.value)
    assert len(caught.value.problems) == 1


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        Spec.from_mapping({**GOOD, "bind": "x", "keep_releases": "3", "python": "4"})
    assert [line.split(":")[0] for line in caught.value.problems] == ["bind", "python", "keep_releases"]
    assert caught.value.status == 2


def test_a_secret_is_never_repeated() -> None:
    for bad in ({"env": {"KEY": "hush\0hush"}}, {"installer_env": {"TOKEN": "hush\x01"}}):
        with pytest.raises(SpecError) as caught:
            Spec.from_mapping({**GOOD, **bad})
        assert "hush" not in str(caught.value)


def test_a_spec_reads_back_equal() -> None:
    given = {**GOOD, "env": {"A": 1, "B": True}, "commands": {"build": ["make"]}, "settings": {"workers": 2}}
    spec = Spec.from_mapping(given)
    again = Spec.from_mapping(spec.to_dict())
    assert again.to_dict() == spec.to_dict()
    assert again.env == {"A": "1", "B": "true"}
    assert again.commands_build == ("make",)


def test_what_is_left_out_follows_the_name() -> None:
    spec = Spec.from_mapping(GOOD)
    assert (spec.root, spec.user, spec.group, spec.bind) == ("/srv/shop", "shop", "shop", "127.0.0.1:8000")


def test_absent_needs_a_name_only() -> None:
    assert Spec.from_mapping({"name": "shop", "state": "absent"}).state == "absent"


@pytest.mark.parametrize(
    ("given", "stream", "url"),
    [
        ("8000", "8000", "http://127.0.0.1:8000"),
        ("*:80", "80", "http://127.0.0.1:80"),
        ("localhost:8000", "127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("[::1]:8000", "[::1]:8000", "http://[::1]:8000"),
        ("[::]:8000", "[::]:8000", "http://[::1]:8000"),
        ("unix:/run/shop/shop.sock", "/run/shop/shop.sock", "http+unix:///run/shop/shop.sock"),
    ],
)
def test_addresses(given: str, stream: str, url: str) -> None:
    bind = parse_bind(given)
    assert (bind.listen_stream, bind.url) == (stream, url)


def test_guard_and_notify_come_back_as_they_were_given() -> None:
    guard = {"seconds": 5, "errors": 0.1, "restarts": 2, "latency": None}
    hook = "https://user:pass@hooks.example.org/T0/B0"
    spec = Spec.from_mapping({**GOOD, "guard": guard, "notify": {"webhook": hook}, "migrate_here": False})
    assert (spec.guard.seconds, spec.guard.errors, spec.guard.restarts) == (5.0, 0.1, 2)
    assert spec.guard.latency == Spec.from_mapping(GOOD).guard.latency
    assert spec.notify.webhook == hook
    assert not spec.migrate_here
    kept = spec.to_dict()
    assert Spec.from_mapping(kept).to_dict() == kept
    assert spec.differs(kept) == []
    other = Spec.from_mapping(
        {**kept, "guard": {**guard, "seconds": 6}, "who": "somebody", "retry_bad": True}
    )
    assert other.differs(kept) == ["guard"]


def test_a_measurement_asks_what_farrier_measure_takes() -> None:
    given = {"requests": ["GET  /two  spaces"], "headers": ["Host: shop.example", "Authorization: Basic abc"]}
    spec = Spec.from_mapping({**GOOD, "measure": given})
    assert spec.measure.to_dict() == given == Spec.from_mapping(spec.to_dict()).measure.to_dict()
    assert spec.measure.secrets == ["Basic abc"]
    plain = Spec.from_mapping(GOOD).measure
    assert (plain.asked, plain.requests, plain.to_dict()) == (("GET /",), (), {})
    # Which requests, headers and bound: another digest is another measurement.
    digests = {
        Spec.from_mapping({**GOOD, "measure": one}).measure.digest
        for one in ({}, given, {**given, "seconds": 20}, {"requests": ["GET /"]})
    }
    assert len(digests) == 4
    assert Spec.from_mapping({**GOOD, "measure": {"enabled": True}}).measure.digest == plain.digest
