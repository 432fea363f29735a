"""Several apps of one host: the same rule as a deploy beside others has."""

from __future__ import annotations

from typing import Any

import pytest

from farrier.sizing import Budget, Settings, SizingError, Workload, plan
from farrier.sizing.memory import share_of
from farrier.sizing.together import (
    Member,
    available_to_all,
    connections_taken,
    planned_together,
    shared_database,
    taken,
)

MIB = 2**20


def member(name: str, weight: int = 100, **settings: Any) -> Member:
    load = Workload.profile("io", framework="django")
    return Member(name, weight, load, Settings.from_mapping(settings, "test"))


def test_where_all_fit_each_is_planned_as_if_alone() -> None:
    budget, members = Budget.given("4GiB", 2), [member("api", 900), member("wiki", 1)]
    for one, placed in zip(members, planned_together(budget, members), strict=True):
        alone = plan(budget, one.workload, one.settings)
        assert placed.plan.to_dict() == alone.to_dict()
        assert (placed.part, placed.by_weight) == (taken(alone), False)


def test_else_each_has_a_part_by_weight_and_stays_within_it() -> None:
    budget, members = Budget.given("768MiB", 1), [member("api", 300), member("wiki"), member("shop")]
    found = {placed.name: placed for placed in planned_together(budget, members)}
    assert all(placed.by_weight for placed in found.values())
    assert sum(placed.part for placed in found.values()) <= available_to_all(budget, members)
    assert all(taken(placed.plan) <= placed.part for placed in found.values())
    assert found["api"].part > found["wiki"].part == found["shop"].part


@pytest.mark.parametrize("limit", [{"memory_limit": "256MiB"}, {"memory_max": "200MiB"}])
def test_a_limit_of_one_app_bounds_that_one_only(limit: dict[str, str]) -> None:
    budget, members = Budget.given("768MiB", 2), [member("api", **limit), member("wiki"), member("shop")]
    load, settings = members[1].workload, Settings()
    assert available_to_all(budget, members) == share_of(budget, load, settings).available
    api, wiki, shop = planned_together(budget, members)
    assert not api.by_weight and wiki.by_weight and shop.by_weight
    assert api.part == taken(plan(budget, load, members[0].settings), limited=True) <= 256 * MIB
    assert wiki.part + shop.part > available_to_all(budget, members) - api.part - 2
    roomy = planned_together(Budget.given("2GiB", 2), members[:2])
    assert roomy[1].plan.to_dict() == plan(Budget.given("2GiB", 2), load, settings).to_dict()


def test_the_largest_reserve_counts_for_all() -> None:
    budget = Budget.given("2GiB", 2)
    members = [member("api", database_memory="1GiB"), member("wiki")]
    assert available_to_all(budget, members) == available_to_all(budget, members[:1]) < 1024 * MIB
    assert all(placed.by_weight for placed in planned_together(budget, members))


def test_what_does_not_fit_is_refused() -> None:
    members = [member("api"), member("wiki", memory_limit="256MiB")]
    with pytest.raises(
        SizingError, match=r"^api \(minimum .*\) and wiki \(.*\) need .* of 270 MiB; the small"
    ):
        planned_together(Budget.given("384MiB", 1), members)
    with pytest.raises(SizingError, match=r"^api: named twice"):
        planned_together(Budget.given("4GiB", 1), [member("api"), member("api")])
    with pytest.raises(SizingError, match=r"^api: weight 0 is not allowed"):
        planned_together(Budget.given("4GiB", 1), [member("api", 0)])
    assert planned_together(Budget.given("4GiB", 1), []) == []


def test_apps_that_share_a_database_do_not_each_have_all_of_it() -> None:
    def made(**settings: Any) -> Any:
        one = member("any", **settings)
        return plan(Budget.given("4GiB", 2), one.workload, one.settings)

    api, none = made(), made(uses_database=False)
    one, in_deploy = connections_taken(api)
    assert 95 // 2 < one <= in_deploy <= 95 and connections_taken(none) == (0, 0)
    assert shared_database([("api", api)]) is None
    assert shared_database([("api", api), ("wiki", none)]) is None
    warning = shared_database([("api", api), ("wiki", api), ("shop", api)])
    assert warning is not None and f"api {one} + wiki {one} + shop {one} = {3 * one} connections" in warning
    # what it proposes does: each app with so many of its own, and all together no more than there are
    assert "such as 36 (31 and the 5 in reserve)" in warning
    part = made(database_max_connections=36)
    assert 3 * connections_taken(part)[1] + 5 <= 100
    # one deploys at a time
    overlap = made(strategy="overlap", workers=2, threads=8, database_max_connections=400)
    assert connections_taken(overlap)[1] == 4 * 8 > connections_taken(overlap)[0]
    both = shared_database([("api", api), ("wiki", overlap)])
    assert both is not None and f"api {one} + wiki 32 = {one + 32} connections" in both
    small = made(database_max_connections=400)
    assert shared_database([("api", small), ("wiki", small)]) is None
