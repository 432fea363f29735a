"""What a person reads at 3 a.m."""

from __future__ import annotations

import itertools

import pytest

from farrier.sizing import Budget, Plan, Settings, Workload, explain, plan, render_plan
from farrier.sizing.explain import GROUPS
from farrier.sizing.plan import ORDER


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_no_line_is_wider_than_the_screen(width: int) -> None:
    choices = Settings.from_environ({"WORKERS": "40", "GUNICORN_GRACEFUL_TIMEOUT": "900"})
    for memory, kind, settings in itertools.product(
        ("64M", "512M", "64G"), ("io", "async"), (Settings(), choices)
    ):
        text = render_plan(plan(Budget.given(memory, 2), Workload.profile(kind), settings), width)
        assert max(len(line) for line in text.splitlines()) <= width
        assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_the_table_shows_every_field_once_with_value_and_bound() -> None:
    assert sorted(itertools.chain(*GROUPS.values())) == sorted(ORDER)
    one = plan(Budget.given("512M", 1), Workload.profile("io"))
    lines = render_plan(one, 200).splitlines()
    for name, field in one.fields.items():
        row = next(line for line in lines if line.startswith(f" {name} "))
        assert row.endswith(f"[{field.bound_by}]"), row


def test_a_plan_of_an_older_version_is_shown_without_what_it_lacks() -> None:
    data = plan(Budget.given("512M", 1), Workload.profile("io")).to_dict()
    fields = data["fields"]
    assert isinstance(fields, dict)
    del fields["malloc_trim_threshold"]
    text = render_plan(Plan.from_dict(data), 100)
    assert " malloc_arena_max " in text and "malloc_trim_threshold" not in text


def test_verdict_and_warnings_come_first() -> None:
    one = plan(Budget.given("512M", 1), Workload.profile("io"), Settings.from_environ({"WORKERS": "90"}))
    first, *rest = render_plan(one, 80).splitlines()
    assert first == "NOT VIABLE on 512 MiB, 1 CPU"
    table = next(index for index, line in enumerate(rest) if line.endswith("why [bound by]"))
    assert any(line.startswith("! WORKERS: 90 workers:") for line in rest[:table])
    fine = render_plan(plan(Budget.given("512M", 1), Workload.profile("io", framework="flask")), 80)
    assert fine.startswith("COMFORTABLE on 512 MiB, 1 CPU for small team use, 5-10 users\n")
    assert "minimum" in fine and "recommended" in fine


def test_one_is_singular() -> None:
    one = plan(Budget.given("512M", 1), Workload.profile("cpu", "asgi", boot_seconds=50))
    assert explain(one, "workers").startswith("workers = 1 process\n")
    assert explain(one, "threads").startswith("threads = 1 thread a worker\n")
    assert one["timeout"].why.startswith("1 worker boots in 50 s on 1 CPU, silent meanwhile: 3 times that")
    assert " on 512 MiB, 2 CPUs for" in render_plan(
        plan(Budget.given("512M", 2), Workload.profile("io")), 100
    )


def test_a_choice_is_marked_with_where_it_was_made() -> None:
    one = plan(Budget.given("1G", 1), Workload.profile("io"), Settings.from_environ({"WORKERS": "3"}))
    row = next(line for line in render_plan(one, 200).splitlines() if line.startswith(" workers "))
    assert row.endswith("[person: WORKERS]")


def test_one_number_with_inputs_arithmetic_and_what_would_change_it() -> None:
    one = plan(Budget.given("512M", 2.5), Workload.profile("async", framework="django"))
    text = explain(one, "workers")
    assert text.startswith("workers = 2 processes\n")
    for part in (
        "4 wanted",
        "3 need 394 MiB with a deploy and a one-off command, of 364 MiB",
        "Bound by: memory",
        "It would change with",
        "512 MiB (given)",
        "110 MiB a process",
    ):
        assert part in " ".join(text.split()), part
    assert max(len(line) for line in text.splitlines()) <= 80
    assert text.endswith("What if:\n  on 256 MiB  1\n  on 1 GiB    4\n  on 2 GiB    4")
    still = explain(one, "keepalive")
    assert still.endswith("What if:\n  half or twice the memory or CPUs would not change it")


def test_every_field_can_be_explained_on_every_kind_of_machine() -> None:
    choices = Settings.from_environ({"WORKERS": "3", "K_SERVICE": "shop"})
    for memory, kind, settings in itertools.product(
        ("64M", "4G", "256G"), ("io", "async"), (Settings(), choices)
    ):
        one = plan(Budget.given(memory, 0.5), Workload.profile(kind), settings)
        for name in one.fields:
            assert one[name].bound_by in explain(one, name)
            assert "another {" not in explain(one, name)
    with pytest.raises(KeyError):
        explain(one, "moon")
