"""Several apps on one host: each its minimum, the rest by weight, never more than there is."""

from __future__ import annotations

import itertools

import pytest

from farrier.sizing import App, Budget, Settings, SizingError, Workload, apportion, needs, part_of, plan
from farrier.sizing.memory import share_of

MIB = 2**20


def parts(available: int, *apps: tuple[str, int, int, int]) -> dict[str, int]:
    """In MiB, as far as they are whole."""
    made = [App(name, weight, least * MIB, wanted * MIB) for name, weight, least, wanted in apps]
    found = apportion(available * MIB, made)
    return {name: size // MIB for name, size in found.items()}


def test_the_rest_goes_by_weight() -> None:
    # 400 - 100 - 60 = 240: three to one
    assert parts(400, ("api", 300, 100, 1000), ("wiki", 100, 60, 1000)) == {"api": 280, "wiki": 120}


def test_what_one_does_not_want_goes_to_the_others() -> None:
    # 240 left, 80 each: wiki wants 20 of them, so the two others share 220
    apps = (("api", 100, 60, 500), ("wiki", 100, 60, 80), ("shop", 100, 40, 500))
    assert parts(400, *apps) == {"api": 170, "wiki": 80, "shop": 150}
    # shop is full in the second round only
    apps = (("api", 100, 60, 500), ("wiki", 100, 60, 80), ("shop", 100, 40, 145))
    assert parts(400, *apps) == {"api": 175, "wiki": 80, "shop": 145}


def test_where_all_have_what_they_want_the_rest_goes_by_weight() -> None:
    assert parts(1000, ("api", 300, 100, 200), ("wiki", 100, 100, 200)) == {"api": 650, "wiki": 350}


def test_a_single_app_gets_all_and_no_app_nothing() -> None:
    assert parts(400, ("api", 1, 100, 200)) == {"api": 400}
    assert apportion(400, []) == {}


def test_what_does_not_fit_is_refused_with_the_size_that_would() -> None:
    apps = [App("api", 100, 160 * MIB, 300 * MIB), App("wiki", 100, 128 * MIB, 300 * MIB)]
    with pytest.raises(SizingError) as error:
        apportion(217 * MIB, apps, reserved=95 * MIB)
    assert str(error.value) == (
        "api (minimum 160 MiB) and wiki (128 MiB) need 288 MiB of 217 MiB; the smallest size that takes both "
        "is 448 MiB: give the host more, or put one of them on another; 95 MiB are kept for the rest of the "
        "host: set reserve_memory and database_memory where that uses less"
    )
    with pytest.raises(
        SizingError, match=r"^api \(minimum 160 MiB\) needs 160 MiB of 100 MiB; .* takes it is"
    ):
        apportion(100 * MIB, apps[:1], reserved=60 * MIB)
    with pytest.raises(SizingError, match="the smallest size that takes all 3 is"):
        apportion(100 * MIB, [*apps, App("shop", 1, MIB, MIB)])


@pytest.mark.parametrize("weight", [0, 1001, -1, 1.5, True])
def test_a_weight_that_is_none(weight: object) -> None:
    with pytest.raises(
        SizingError, match=r"^api: weight .* is not allowed: allowed is a whole number from 1 to 1000$"
    ):
        App("api", weight, 1, 1)  # type: ignore[arg-type]


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(SizingError, match=r"^api: named twice"):
        apportion(100, [App("api", 1, 1, 1), App("api", 1, 1, 1)])


def test_sums_and_bounds_hold_for_all_and_the_order_does_not_matter() -> None:
    for weights in itertools.product((1, 7, 1000), repeat=3):
        for available in (31, 32, 100, 101, 9999, 10**9 + 7):
            apps = [
                App("a", weights[0], 10, 40),
                App("b", weights[1], 1, 10**6),
                App("c", weights[2], 20, 20),
            ]
            found = apportion(available, apps)
            assert sum(found.values()) <= available
            assert sum(found.values()) > available - len(apps)
            assert all(found[app.name] >= app.minimum for app in apps)
            assert apportion(available, apps[::-1]) == found
            more = apportion(available + 1000, apps)
            assert all(more[name] >= size for name, size in found.items())


@pytest.mark.parametrize("scope", ["given", "host"])
@pytest.mark.parametrize("part", [100, 217, 300])
def test_a_part_of_a_host_is_exactly_that_for_its_plan(scope: str, part: int) -> None:
    budget, load, settings = Budget.given("512MiB", 1, scope), Workload.profile("io"), Settings()
    small = part_of(budget, load, settings, part * MIB)
    assert share_of(small, load, settings).available == part * MIB
    assert small.memory_bytes + small.taken_bytes == budget.memory_bytes
    # the host has what it had: its part of it is no small host
    assert plan(small, load, settings).value("low_memory_mode") is False


@pytest.mark.parametrize("memory", ["256MiB", "512MiB", "4GiB"])
@pytest.mark.parametrize("load", [Workload.profile("io", framework="flask"), Workload.profile("async")])
def test_needs_are_the_smallest_parts_that_will_do(memory: str, load: Workload) -> None:
    budget, settings = Budget.given(memory, 1), Settings.from_mapping({"low_memory_mode": False}, "test")
    minimum, wanted = needs(budget, load, settings)
    assert minimum < wanted

    def level(part: int) -> str:
        return plan(part_of(budget, load, settings, part), load, settings).verdict.level

    assert (level(minimum - MIB), level(minimum)) == ("not viable", "tight")
    assert (level(wanted - MIB), level(wanted)) == ("tight", "comfortable")


def test_an_app_that_no_size_makes_comfortable_wants_what_it_can_use() -> None:
    load, settings = Workload.profile("io"), Settings.from_mapping({"database_max_connections": 6}, "test")
    minimum, wanted = needs(Budget.given("1GiB", 1), load, settings)
    assert minimum < wanted < 1024 * MIB
    with pytest.raises(SizingError, match=r"^no size was found on which one worker of 3072 GiB runs"):
        needs(Budget.given("1GiB", 1), Workload.profile("io", app_memory="3T"), settings)
