"""A new release is measured before it serves; what comes of it makes the plan and refuses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.systemd
Tree = Callable[[str], dict[str, str]]
PORT = 9041
SHORT = {"enabled": True, "seconds": 4}
ANSWER = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]
"""


@pytest.fixture
def gauge(site: Any) -> Iterator[Callable[..., dict[str, Any]]]:
    """Deploys an app of one file, measured."""

    def deploy(text: str, **more: Any) -> dict[str, Any]:
        spec = site.spec("gauge", {"main.py": text}, bind=f"127.0.0.1:{PORT}", **{"measure": SHORT, **more})
        return {"spec": spec, **site.apply(spec)}

    yield deploy
    site.remove("gauge")


def step(answer: dict[str, Any], name: str) -> list[str]:
    return [one["detail"] for one in answer["steps"] if one["name"] == name]


def test_the_plan_stands_on_what_was_measured_and_stays_as_it_is(site: Any, gauge: Any) -> None:
    # Named, so that its times count: a front page that nobody named says little where it computes. It ends
    # when it has all of its figures, and two with all of them are alike.
    named = {"requests": ["GET /"], "seconds": 20}
    first = gauge(ANSWER, measure=named)
    assert not first["warnings"], first["warnings"]
    assert " MiB, " in step(first, "measure")[0] and " a request" in step(first, "measure")[0]
    workload = first["plan"]["inputs"]["workload"]
    assert workload["measured"] and workload["cpu_per_request"] > 0
    assert workload["app_memory_bytes"] % 2**20 == 0
    shown = site.farrier("show", "gauge")
    assert shown["measured"]["requests"] == ["GET /"] and shown["measured"]["app_memory"] > 10 << 20
    told = site.host.run(["farrier", "release", "show", "gauge"]).stdout
    assert "the plan stands on a measurement of 20" in told
    told = site.host.run(["farrier", "status", "gauge"]).stdout
    assert "stands on  a measurement of 20" in told
    # The same again is nothing to do, and another release of the same app has the same plan.
    assert not site.apply(first["spec"])["changed"]
    second = gauge("# Another source.\n" + ANSWER, measure=named)
    assert step(second, "measure")
    same = {
        key: value for key, value in second["plan"].items() if key not in ("fields", "inputs", "warnings")
    }
    assert same == {key: first["plan"][key] for key in same}
    # Going back needs no measuring.
    assert not step(site.farrier("rollback", "gauge"), "measure")


def test_a_release_from_before_is_measured_where_it_serves(site: Any, gauge: Any) -> None:
    first = gauge(ANSWER, measure={"enabled": False})
    assert not step(first, "measure") and not first["plan"]["inputs"]["workload"]["measured"]
    spec = {**first["spec"], "measure": SHORT}
    would = site.apply(spec, "--check")
    assert step(would, "measure") == ["GET /"]
    answer = site.apply(spec)
    assert answer["release"] == first["release"]
    assert answer["plan"]["inputs"]["workload"]["measured"]
    assert not site.apply(spec)["changed"]


def test_an_app_that_serves_its_own_hosts_only_is_asked_as_one_of_them(site: Any, gauge: Any) -> None:
    choosy = ANSWER.replace(
        "    start", "    if environ['HTTP_HOST'] != 'shop.example':\n"
        "        start_response('400 Bad Request', [('Content-Length', '0')])\n"
        "        return []\n    start",
    )  # fmt: skip
    first = gauge(choosy)
    assert first["warnings"] == ["gauge was measured by what says little of it: GET / answered 400"]
    workload = first["plan"]["inputs"]["workload"]
    assert workload["measured"] and workload.get("cpu_per_request") is None
    shown = site.host.run(["farrier", "release", "show", "gauge"]).stdout
    assert "GET / answered 400: its times and what it takes were left out" in shown
    # Other options measure what serves again, once.
    spec = {**first["spec"], "measure": {**SHORT, "requests": ["GET /"], "headers": ["Host: shop.example"]}}
    second = site.apply(spec)
    assert second["release"] == first["release"] and not second["warnings"]
    assert second["plan"]["inputs"]["workload"]["cpu_per_request"] > 0
    assert not site.apply(spec)["changed"]


def test_a_measurement_that_fails_refuses_nothing(site: Any, gauge: Any) -> None:
    failing = ANSWER.replace('"200 OK"', '"500 Oh"')
    answer = gauge(failing)
    (line,) = answer["warnings"]
    assert line.startswith("gauge could not be measured: ") and "GET / answers 500" in line
    assert line.endswith("; planned by what the import showed")
    assert site.state("gauge")["release"] == answer["release"]
    told = site.host.run(["farrier", "release", "show", "gauge"]).stdout
    assert "the plan stands on no measurement of its own: " in told and "GET / answers 500" in told
    # It is not tried again and again.
    assert not site.apply(answer["spec"])["changed"]


def test_one_that_takes_too_much_is_killed_and_nothing_that_serves(site: Any, gauge: Any) -> None:
    gauge(ANSWER, measure={"enabled": False})
    greedy = "hoard = []\n" + ANSWER.replace(
        "    return", "    hoard.append(bytearray(600 << 20))\n    return"
    )
    answer = gauge(greedy)
    assert len(answer["warnings"]) == 1, answer["warnings"]
    assert answer["warnings"][0].startswith("gauge could not be measured: ")
    state = json.loads(
        site.host.shell(
            "cat /run/farrier/gauge/$(cat /srv/gauge/state.json | python3 -c "
            "'import json,sys; print(json.load(sys.stdin)[\"active\"])').json"
        )
    )
    assert not state["endings"].get("killed for memory"), state["endings"]


def test_an_app_that_starts_a_thread_at_import_is_not_preloaded_and_the_plan_says_why(
    site: Any, gauge: Any
) -> None:
    wait = "threading.Thread(target=threading.Event().wait, daemon=True, name='ticker').start()"
    busy = f"import threading\n{wait}\n"
    plan = gauge(busy + ANSWER)["plan"]
    assert plan["preload_app"] is False
    assert plan["inputs"]["workload"]["preload_safe"] is False
    found = json.loads(site.host.shell("cat /srv/gauge/current/release.json"))["measured"]["measurement"]
    assert any("ticker" in one for one in found["preload_findings"])
