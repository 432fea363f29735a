"""The plan that preflight makes for a host: beside other apps, and what it says where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.farrier.web.plugins.module_utils import host_plan
from ansible_collections.farrier.web.plugins.module_utils.app_options import remote_source, spec_of
from ansible_collections.farrier.web.plugins.module_utils.host import Refused
from ansible_collections.farrier.web.plugins.module_utils.sizing.budget import Budget
from ansible_collections.farrier.web.plugins.module_utils.sizing.units import MIB
from ansible_collections.farrier.web.plugins.plugin_utils.app_source import checked_options

from farrier.errors import FarrierError
from farrier.release import layout, sized
from farrier.release import state as states
from farrier.release.layout import Layout
from farrier.release.spec import Spec
from farrier.sizing import Settings, Workload, plan
from farrier.sizing import budget as sizing_budget
from farrier.sizing.memory import share_of

HOST = Budget.given("512MiB", 1, "host")


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/etc/farrier of a host of 512 MiB, for both who look at it."""
    monkeypatch.setattr(host_plan, "ETC", tmp_path)
    monkeypatch.setattr(sized, "ETC", tmp_path)
    monkeypatch.setattr(layout, "ETC", tmp_path)
    own = sizing_budget.Budget.given("512MiB", 1, "host")
    monkeypatch.setattr(sizing_budget, "read_budget", lambda **_: own)
    return tmp_path


def _has(etc: Path, name: str, mib: int) -> None:
    (etc / name).mkdir()
    (etc / name / "plan.json").write_text(json.dumps({"memory_deploy_peak": mib * MIB}))


def _options(**given: Any) -> dict[str, Any]:
    whole = {"name": "shop", "app": "main:app", "requirement": "shop", "prefix": "gunicorn_app_", **given}
    options: dict[str, Any] = checked_options(whole, {})
    return options


@pytest.mark.parametrize(
    "beside", [{}, {"blog": 60}, {"blog": 150}, {"blog": 150, "shop": 300}, {"blog": 500}]
)
@pytest.mark.parametrize("given", [{}, {"memory": "200MiB"}, {"settings": {"workers": 2}}])
def test_preflight_and_the_release_plan_the_same(
    etc: Path, beside: dict[str, int], given: dict[str, Any]
) -> None:
    for name, mib in beside.items():
        _has(etc, name, mib)
    options = _options(**given)
    spec = Spec.from_mapping(spec_of(options, remote_source(options)))
    try:
        expected = sized.plan_for(spec, Layout("shop", etc / "root"), {}, {}).to_dict()
    except FarrierError as refused:
        with pytest.raises(Refused, match=r"^gunicorn_app_memory: shop .*\bblog\b.* give the host more"):
            host_plan.plan_beside_others(options, HOST)
        assert "blog" in str(refused)
        return
    made = host_plan.plan_beside_others(options, HOST)[1].to_dict()
    values = {key for key in made if key not in ("fields", "inputs", "warnings")}
    assert {key: made[key] for key in values} == {key: expected[key] for key in values}


def _serves(etc: Path, name: str, weight: int, app_memory: str, **chosen: Any) -> None:
    """Another app with the plan that it has alone."""
    settings = Settings.from_mapping({"runtime": "systemd", **chosen}, "settings.json")
    made = plan(Budget.given("512MiB", 1, "host"), Workload.profile(app_memory=app_memory), settings)
    (etc / name).mkdir()
    (etc / name / "plan.json").write_text(json.dumps(made.to_dict()))
    (etc / name / "app.json").write_text(json.dumps({"name": name, "weight": weight}))


@pytest.mark.parametrize("weights", [(100, 100), (300, 100), (100, 300)])
@pytest.mark.parametrize("chosen", [{}, {"memory_limit": "300MiB"}])
def test_two_apps_share_by_weight_and_both_who_look_say_the_same(
    etc: Path, weights: tuple[int, int], chosen: dict[str, Any]
) -> None:
    _serves(etc, "blog", weights[1], "90MiB", **chosen)
    options = _options(weight=weights[0], workload={"app_memory": "60MiB"})
    spec = Spec.from_mapping(spec_of(options, remote_source(options)))
    assert spec.weight == weights[0]
    found = sized.fitted(spec, Layout("shop", etc / "root"), {}, {})
    made = host_plan.plan_beside_others(options, HOST)[1].to_dict()
    values = {key for key in made if key not in ("fields", "inputs", "warnings")}
    assert {key: made[key] for key in values} == {key: found.plan.to_dict()[key] for key in values}
    assert "shared with blog" in found.plan.budget.memory_source
    # blog took what it wanted when it was alone; where a person limited it, that is taken as given.
    assert [one.name for one, _ in found.too_large] == ([] if chosen else ["blog"])
    parts = [size for _, size in found.too_large]
    share = share_of(HOST, found.plan.workload, found.plan.settings)
    assert sum(parts) + sized.peak(found.plan) <= share.available


def test_more_weight_is_a_larger_part(etc: Path) -> None:
    _serves(etc, "blog", 100, "90MiB")
    found = []
    for weight in (50, 500):
        spec = Spec.from_mapping(
            spec_of(
                _options(weight=weight, workload={"app_memory": "60MiB"}),
                {"type": "requirement", "requirement": "shop"},
            )
        )
        found.append(sized.fitted(spec, Layout("shop", etc / "root"), {}, {}, by_part=True))
    light, heavy = (one.plan.budget.memory_bytes for one in found)
    assert light < heavy
    assert {one.name: size for one, size in found[0].too_large}["blog"] > {
        one.name: size for one, size in found[1].too_large
    }["blog"]


def test_an_app_that_serves_is_planned_as_it_was_measured(etc: Path) -> None:
    """By its profile a second run on an unchanged host would be refused."""
    host = Budget.given("256MiB", 1, "host")
    small = Workload.profile(framework="django", app_memory="30MiB", measured=True)
    for name in ("shop", "blog", "wiki"):
        settings = Settings.from_mapping({"runtime": "systemd"}, "settings.json")
        made = plan(host, small, settings)
        (etc / name).mkdir()
        (etc / name / "plan.json").write_text(json.dumps(made.to_dict()))
        said = {"name": name, "weight": 100, "workload": {"framework": "django"}}
        (etc / name / "app.json").write_text(json.dumps(said))
    made = host_plan.plan_beside_others(_options(workload={"framework": "django"}), host)[1]
    assert made.workload.to_dict() == small.to_dict()
    # what is said now is another app, of which nobody knows that it is so small
    with pytest.raises(Refused, match=r"or say gunicorn_app_workload\.app_memory if it takes less"):
        host_plan.plan_beside_others(_options(workload={"framework": "django", "kind": "mixed"}), host)


def test_what_no_parts_would_help_is_refused_with_the_size_that_would(etc: Path) -> None:
    _serves(etc, "blog", 100, "200MiB")
    options = _options(workload={"app_memory": "250MiB"})
    with pytest.raises(Refused) as refused:
        host_plan.plan_beside_others(options, HOST)
    assert str(refused.value).startswith("gunicorn_app_memory: shop (minimum ")
    assert "the smallest size that takes both is " in str(refused.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"memory": "10MiB"}, "memory: given 10MiB; shop needs at least "),
        ({"memory": "2GiB"}, "memory: given 2 GiB, more than this host has (512 MiB)"),
        (
            {"settings": {"memory_limit": "2GiB"}},
            "settings.memory_limit: given 2 GiB, more than this host has",
        ),
        ({"settings": {"workers": 90}}, "settings.workers: 90 does not fit on this host: 90 workers need "),
        ({"database": {"memory": "480MiB"}}, "database.memory: 480 MiB leave too little: "),
        ({"database": {"max_connections": 3}}, "database.max_connections: 3 connections (yours) less 5 "),
        (
            {"database": {"max_connections": 8}, "settings": {"workers": 4}},
            "settings.workers: 8 connections (yours) less 5 in reserve = 3, and 4 workers ",
        ),
    ],
)
def test_what_does_not_fit_is_told_by_the_variable_that_a_person_wrote(
    etc: Path, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(Refused) as refused:
        host_plan.plan_beside_others(_options(**given), HOST)
    assert str(refused.value).startswith(f"gunicorn_app_{told}")


def test_the_least_memory_that_is_told_is_enough_and_a_little_less_is_not(etc: Path) -> None:
    with pytest.raises(Refused) as refused:
        host_plan.plan_beside_others(_options(memory="10MiB"), HOST)
    least = int(str(refused.value).split("at least ")[1].split()[0])
    host_plan.plan_beside_others(_options(memory=f"{least}MiB"), HOST)
    with pytest.raises(Refused):
        host_plan.plan_beside_others(_options(memory=f"{least - 4}MiB"), HOST)


def test_a_host_that_is_too_small_for_any_choice_says_so(etc: Path) -> None:
    with pytest.raises(Refused, match=r"^this host is too small for shop: "):
        host_plan.plan_beside_others(_options(), Budget.given("100MiB", 1, "host"))


def test_enough_connections_are_no_matter(etc: Path) -> None:
    made = host_plan.plan_beside_others(_options(database={"max_connections": 20}), HOST)[1]
    assert made.value("db_pool_size")


def test_a_machine_by_its_sold_size_is_taken(etc: Path) -> None:
    seen = Budget.given("440MiB", 1, "host")
    assert host_plan.plan_beside_others(_options(memory="512MiB"), seen)[1].value("workers")


@pytest.mark.parametrize(("now", "claimed"), [(200, 100), (100, 200)])
def test_both_reckon_with_a_deploy_under_way_and_with_none_that_is_gone(
    etc: Path, tmp_path: Path, now: int, claimed: int
) -> None:
    _has(etc, "shop", now)
    shop = Layout("shop", tmp_path / "srv")
    (etc / "shop" / "app.json").write_text(json.dumps({"root": str(shop.root)}))
    (etc / "shop" / "claim.json").write_text(json.dumps({"memory_deploy_peak": claimed * MIB}))
    for others in (host_plan.others, sized.others):
        with states.locked(shop, "kate"):
            # What serves stays as large as it is until the run has made it smaller.
            assert [one.taken for one in others("blog")] == [200 * MIB]
        assert [one.taken for one in others("blog")] == [now * MIB]
