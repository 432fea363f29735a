"""The text of units, where a wrong character would start something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from farrier.release import units
from farrier.release.layout import Layout
from farrier.release.spec import Spec
from farrier.sizing import Budget, Plan, Settings, Workload, plan

LAYOUT = Layout("my-shop", Path("/srv/my-shop"))


def spec(**more: Any) -> Spec:
    source = {"type": "requirement", "requirement": "shop"}
    return Spec.from_mapping({"name": "my-shop", "app": "shop:app", "source": source, **more})


def sized(memory: str = "1GiB", **chosen: Any) -> Plan:
    settings = Settings.from_mapping({"runtime": "systemd", **chosen}, "settings.json")
    return plan(Budget.given(memory, 1, "host"), Workload.profile(), settings)


@pytest.mark.parametrize(
    ("app", "word"),
    [
        ("shop:app", "serve shop:app\n"),
        ("shop.main:create_app()", 'serve "shop.main:create_app()"\n'),
        ("shop:make(a='$x', b=\"50%\")", 'serve "shop:make(a=\'$$x\', b=\\"50%%\\")"\n'),
    ],
)
def test_an_app_s_name_reaches_the_command_as_it_is(app: str, word: str) -> None:
    assert word in units.command(spec(app=app), LAYOUT, "blue", sized()).text


def test_a_dash_in_the_name_nests_no_slice() -> None:
    assert LAYOUT.slice == "farrier-my_shop.slice"
    assert "Slice=farrier-my_shop.slice\n" in units.template(spec(), LAYOUT).text


def test_both_colours_share_one_total_and_a_candidate_beside_the_other_gets_less() -> None:
    made = sized(strategy="overlap")
    own, beside = made.value("memory_max"), made.value("candidate_memory_max")
    assert isinstance(own, int)
    assert isinstance(beside, int)
    assert beside < own
    assert units.memory_total(made) == own
    held = [f"MemoryMax={beside}\n" in drop_in(made, way) for way in ("overlap", "rolling", "queue")]
    assert held == [True, False, False]


def drop_in(made: Plan, strategy: str, gate: bool = False) -> str:
    return units.candidate(LAYOUT, "green", made, strategy, "blue", gate).text


def test_a_candidate_is_told_how_it_is_to_start() -> None:
    made = sized()
    assert "Environment=FARRIER_FIRST_WORKERS=1\n" in drop_in(made, "rolling")
    gate, queue = drop_in(made, "queue", gate=True), drop_in(made, "queue")
    assert "Environment=FARRIER_GATE=1\n" in gate
    assert "After=" not in gate
    # In a queue it starts when the old colour has ended, whoever asks for both.
    assert "After=my-shop@blue.service\n" in queue
    assert "FARRIER_" not in queue + drop_in(made, "overlap")


def test_a_start_is_given_as_long_as_a_person_says_else_by_the_boot() -> None:
    assert units.start_timeout(spec(start_timeout=7), sized()) == 7
    slow = plan(Budget.given("1GiB", 1), Workload.profile(boot_seconds=20), Settings())
    assert units.start_timeout(spec(), slow) >= units.START_LEAST + 20 * units.START_FACTOR


def test_an_address_that_may_come_up_late_is_bound_all_the_same() -> None:
    assert "FreeBind=yes" in units.socket(spec(bind="10.0.0.5:80"), LAYOUT, sized()).text
    assert "FreeBind" not in units.socket(spec(bind="127.0.0.1:80"), LAYOUT, sized()).text
    assert "RemoveOnStop=yes" in units.socket(spec(bind="/run/x/y.sock"), LAYOUT, sized()).text


def test_farrier_s_own_names_stand_above_the_app_s() -> None:
    given = {"FARRIER_INSTANCE": "purple", "PYTHONPATH": "/mine", "PATH": "/bin"}
    env = units.environment(spec(), LAYOUT, "green", sized(), "R1", given, ["src"])
    assert env["FARRIER_INSTANCE"] == "green"
    assert env["PYTHONPATH"] == "/srv/my-shop/green/src/src:/mine"
    assert env["PATH"] == "/bin"
    assert env["FARRIER_RELEASE"] == "R1"


def test_a_weight_is_a_share_of_the_cpu_too_and_the_usual_one_is_systemd_s_own() -> None:
    assert "CPUWeight=300\n" in units.slice_(spec(weight=300), LAYOUT, sized()).text
    assert "CPUWeight" not in units.slice_(spec(), LAYOUT, sized()).text


def test_the_plan_s_allocator_settings_reach_the_app_and_the_app_s_own_stand_above() -> None:
    made = sized("256MiB")
    env = units.environment(spec(), LAYOUT, "blue", made, "r1", {}, [])
    for field, name in (
        ("malloc_arena_max", "MALLOC_ARENA_MAX"),
        ("malloc_trim_threshold", "MALLOC_TRIM_THRESHOLD_"),
    ):
        wanted = made.value(field) if field in made else None
        assert env.get(name) == (str(wanted) if wanted else None)
    assert (
        units.environment(spec(), LAYOUT, "blue", made, "r1", {"MALLOC_ARENA_MAX": "9"}, [])[
            "MALLOC_ARENA_MAX"
        ]
        == "9"
    )
