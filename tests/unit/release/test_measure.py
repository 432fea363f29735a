"""What of a measurement is kept: no more digits than it is good for, and no change that is only noise."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from farrier.errors import FarrierError
from farrier.release import history, measure, sized
from farrier.release.events import Step
from farrier.release.spec import Measure, Spec
from farrier.release.state import Release
from farrier.release.view import unmeasured
from farrier.sizing import constants

MIB = 1 << 20
SHOP = {"name": "shop", "app": "m:app", "source": {"type": "requirement", "requirement": "s"}}
FOUND: dict[str, Any] = {
    "schema": 1,
    "interface": "wsgi",
    "framework": "flask",
    "worker_class": "gthread",
    "requests": [{"method": "GET", "path": "/", "status": 200, "count": 1200}],
    "import_memory": 41 * MIB + 17,
    "import_seconds": 0.2171,
    "boot_seconds": 0.3128,
    "app_memory": 48 * MIB + 1,
    "alone": {
        "workers": 2,
        "rss": 48 * MIB + 1,
        "pss": 30 * MIB,
        "uss": 21 * MIB + 9,
        "master_pss": 19 * MIB,
    },
    "shared": {"workers": 2, "rss": 47 * MIB, "pss": 20 * MIB, "uss": 5 * MIB + 1, "master_pss": None},
    "shared_fraction": 0.8941,
    "growth_per_1000": 0,
    "request_memory": 70_000,
    "connection_memory": None,
    "cpu_per_request": 0.001234,
    "wait_per_request": 0.050567,
    "preload_safe": True,
    "preload_findings": [],
    "notes": [],
}


def stored(**other: Any) -> dict[str, Any]:
    return measure._rounded(measure._judged(json.dumps({**FOUND, **other})))


def test_figures_are_kept_with_the_digits_that_they_are_good_for() -> None:
    kept = stored()
    assert (kept["app_memory"], kept["import_memory"]) == (49 * MIB, 42 * MIB)
    assert kept["request_memory"] == 80 * 1024
    assert kept["alone"]["uss"] == 22 * MIB and kept["alone"]["workers"] == 2
    assert kept["shared"]["master_pss"] is None and kept["connection_memory"] is None
    assert (kept["cpu_per_request"], kept["wait_per_request"]) == (0.0012, 0.051)
    assert (kept["boot_seconds"], kept["shared_fraction"], kept["growth_per_1000"]) == (0.31, 0.89, 0)


def test_figures_that_belong_together_are_kept_together() -> None:
    before = stored(growth_per_1000=0, growth_error=100_000)
    kept = measure.steadied(stored(growth_per_1000=None, growth_error=700_000), before)
    assert (kept["growth_per_1000"], kept["growth_error"]) == (0, 100_000)
    grown = stored(growth_per_1000=9 * MIB, growth_error=300_000)
    assert measure.steadied(grown, before)["growth_error"] == 300_000
    # one worker was looked at where two were before: their parts are of different wholes
    shared = {"workers": 1, "rss": 47 * MIB, "pss": 29 * MIB, "uss": 5 * MIB, "master_pss": 28 * MIB}
    assert measure.steadied(stored(shared=shared), before)["shared"] == shared


def test_what_differs_by_noise_is_the_same_plan() -> None:
    before = stored()
    again = stored(
        app_memory=int(FOUND["app_memory"] * 1.02), cpu_per_request=0.0014, boot_seconds=0.35,
        shared=None, shared_fraction=None,
        alone={**FOUND["alone"], "uss": FOUND["alone"]["uss"] + MIB},
    )  # fmt: skip
    kept = measure.steadied(again, before)
    spec = Spec.from_mapping(
        {"name": "shop", "app": "m:app", "source": {"type": "requirement", "requirement": "s"}}
    )
    assert sized.workload_for(spec, {"measurement": kept}) == sized.workload_for(
        spec, {"measurement": before}
    )
    # Kept figures do not walk away with every deploy.
    assert (
        measure.steadied(stored(app_memory=int(FOUND["app_memory"] * 1.04)), kept)["app_memory"] == 49 * MIB
    )


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"app_memory": 60 * MIB}, "app_memory"),
        ({"cpu_per_request": 0.003}, "cpu_per_request"),
        ({"growth_per_1000": 4 * MIB}, "growth_per_1000"),
        ({"preload_safe": False}, "preload_safe"),
    ],
)
def test_what_differs_by_more_is_taken(changed: dict[str, Any], key: str) -> None:
    now = stored(**changed)
    assert measure.steadied(now, stored())[key] == now[key] != stored()[key]


def test_another_worker_class_or_other_requests_are_not_the_same_measurement() -> None:
    for other in ({"worker_class": "sync"}, {"requests": [{**FOUND["requests"][0], "path": "/shop"}]}):
        now = stored(**other, app_memory=FOUND["app_memory"] + MIB)
        assert measure.steadied(now, stored()) == now


def test_an_app_that_answers_with_errors_is_not_measured_by_them() -> None:
    failing = [{**FOUND["requests"][0], "status": 500}]
    with pytest.raises(FarrierError, match=r"^GET / answered 500$"):
        measure._judged(json.dumps({**FOUND, "requests": failing}))
    with pytest.raises(FarrierError, match="could not be measured"):
        measure._judged(json.dumps({**FOUND, "app_memory": None}))


@pytest.mark.parametrize("status", [301, 302, 404, None])
def test_a_redirect_or_an_error_page_says_little_of_the_page_behind_it(status: int | None) -> None:
    asked = [
        {**FOUND["requests"][0], "status": 200},
        {**FOUND["requests"][0], "path": "/a", "status": status},
    ]
    found = stored(requests=asked)
    assert [found[name] for name in ("cpu_per_request", "wait_per_request", "request_memory")] == [None] * 3
    assert found["shared"] is None and found["shared_fraction"] is None
    assert (found["app_memory"], found["growth_per_1000"]) == (49 * MIB, None)
    line = f"GET /a answered {status}" if status else "GET /a got no answer"
    assert measure.elsewhere(found) == [line]
    assert found["notes"] == [f"{line}: its times and what it takes were left out"]
    # Growth that was seen is growth; and figures of the page itself are none of its error page.
    assert stored(requests=asked, growth_per_1000=3 * MIB)["growth_per_1000"] == 3 * MIB
    assert measure.steadied(found, stored(requests=[{**one, "status": 200} for one in asked])) == found


def test_that_nothing_grew_counts_only_by_requests_that_a_person_named() -> None:
    assert stored()["growth_per_1000"] == 0
    assert measure.front_page_only(FOUND)["growth_per_1000"] is None
    assert measure.front_page_only({**FOUND, "growth_per_1000": MIB})["growth_per_1000"] == MIB


def test_what_an_app_prints_beside_its_measurement_hides_it_nowhere() -> None:
    chatter = ["{not json", '{"level": "info"}'] * 40
    for printed in (json.dumps(FOUND), json.dumps(FOUND, indent=2)):
        assert measure._judged("\n".join([*chatter, printed, *chatter])) == FOUND
    long = {**FOUND, "notes": ["x" * 300_000]}
    assert measure._judged(json.dumps(long)) == long
    with pytest.raises(FarrierError, match="nothing that could be read"):
        measure._judged("\n".join(chatter))


def test_seconds_that_a_person_gave_are_given_whole() -> None:
    assert measure.bound(Measure(seconds=60), 0.2) == 60
    assert measure.bound(Measure(seconds=20), 0.2) == 20
    assert measure.bound(Measure(), 0.2) == 8
    assert measure.bound(Measure(), 30.0) == 20


def test_a_step_says_what_keeps_the_app_from_being_preloaded_and_the_notes() -> None:
    found = {**FOUND, "preload_safe": False, "preload_findings": ["a", "b", "c"], "notes": ["no second boot"]}
    line = measure.in_short(found)
    assert line.startswith("48 MiB, 1.23 ms CPU and 50.6 ms waiting a request, not safe to preload; ")
    assert line.endswith("; preloading: a, b (and 1 more); no second boot")
    shown = history.measured(Release("r1", "i", "now", measured={"measurement": found}))
    assert shown is not None and shown["told"] == ["preloading: a, b (and 1 more)", "no second boot"]
    assert shown["preload_findings"] == ["a", "b", "c"]


class Trial:
    """What ``farrier measure`` comes to in one deploy after the other, without a host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.outcomes: list[dict[str, Any] | FarrierError] = []
        self.release = Release("r1", "identity", "2026-11-01T00:00:00Z", runtime="0.3.0", done=["check"])
        self.scratch = tmp_path
        monkeypatch.setattr(measure, "_measurement", self.measurement)

    def measurement(self, build: Any) -> dict[str, Any]:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, FarrierError):
            raise outcome
        return dict(outcome)

    def run(self, former: Release | None = None, **options: Any) -> list[str]:
        spec = self.spec(**options)
        assert unmeasured(spec, self.release)
        build: Any = SimpleNamespace(release=self.release, spec=spec, scratch=self.scratch / "none")
        lines = measure.into(build, Step("measure"), former)
        self.release.done = ["check", "measure"]
        return lines

    def due(self, **options: Any) -> bool:
        return unmeasured(self.spec(**options), self.release)

    def spec(self, **options: Any) -> Spec:
        return Spec.from_mapping({**SHOP, "measure": options})


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Trial:
    return Trial(monkeypatch, tmp_path)


def test_other_options_measure_what_serves_again_and_the_same_do_not(trial: Trial) -> None:
    trial.outcomes = [FOUND, {**FOUND, "app_memory": 49 * MIB}]
    assert trial.run() == []
    assert not trial.due()
    for other in ({"requests": ["GET /a"]}, {"headers": ["Host: shop"]}, {"seconds": 60}):
        assert trial.due(**other), other
    assert not trial.due(enabled=False)
    # Asked something else, no figure of before stands in for the new one.
    assert trial.run(former=trial.release, seconds=60) == []
    assert trial.release.measured["measurement"]["app_memory"] == 49 * MIB
    assert not trial.due(seconds=60) and trial.due()


def test_after_a_lack_of_room_it_is_tried_once_more_and_after_anything_else_not(trial: Trial) -> None:
    full = measure.NoRoom("9 MiB are free beside what serves, and it takes 200 MiB")
    trial.outcomes = [full, full]
    (line,) = trial.run()
    assert line == f"could not be measured: {full}; planned by what the import showed"
    assert trial.due()
    trial.run()
    assert not trial.due() and trial.due(seconds=60)
    trial.outcomes = [FarrierError("GET / answered 500", 1)]
    trial.run(seconds=60)
    assert not trial.due(seconds=60)
    trial.outcomes = [FOUND]
    trial.run()
    assert not trial.due() and "not_measured" not in trial.release.measured


def test_a_release_of_a_runtime_that_cannot_measure_is_not_measured(trial: Trial) -> None:
    trial.release.runtime = "0.2.0+g0123456789"
    assert not trial.due()
    trial.release.runtime = "0.3.0+g0123456789"
    assert trial.due()


def test_a_request_that_was_answered_by_something_else_is_a_warning(trial: Trial) -> None:
    trial.outcomes = [{**FOUND, "requests": [{**FOUND["requests"][0], "status": 302}]}]
    assert trial.run() == ["was measured by what says little of it: GET / answered 302"]


def test_what_a_person_stated_stands_above_what_was_measured() -> None:
    spec = Spec.from_mapping(
        {
            "name": "shop",
            "app": "m:app",
            "source": {"type": "requirement", "requirement": "s"},
            "workload": {"app_memory": "90MiB"},
        }
    )
    workload = sized.workload_for(spec, {"measurement": stored(), "app_memory": 30 * MIB})
    assert workload.app_memory_bytes == 90 * MIB
    assert (workload.measured, workload.cpu_per_request, workload.boot_seconds) == (True, 0.0012, 0.31)


def test_a_front_page_that_computes_says_nothing_of_the_rest_where_nobody_named_a_request() -> None:
    computing = {**FOUND, "interface": "wsgi", "cpu_per_request": 0.01, "wait_per_request": 0.0}
    found = measure.front_page_only(computing)
    assert found["cpu_per_request"] is None and found["wait_per_request"] is None
    assert "name requests" in found["notes"][-1]
    assert found["app_memory"] == FOUND["app_memory"]
    waiting = {**computing, "wait_per_request": 0.05}
    assert measure.front_page_only(waiting) == {**waiting, "growth_per_1000": None}
    assert measure.front_page_only({**computing, "interface": "asgi"})["cpu_per_request"] == 0.01
    assert measure.WAITS_FROM == constants.WAITS_FROM
