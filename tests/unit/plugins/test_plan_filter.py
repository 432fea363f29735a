"""farrier.web.plan: the plan as a template sees it."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.farrier.web.plugins.filter.plan import FilterModule

plan = FilterModule().filters()["plan"]


def test_more_memory_is_never_fewer_workers() -> None:
    workers = [plan(f"{size}MiB", cpus=4)["workers"] for size in (256, 512, 4096)]
    assert workers == sorted(workers) and workers[0] < workers[-1]


def test_a_persons_choice_stands_and_is_shown_as_theirs() -> None:
    made = plan("2GiB", cpus=2, settings={"workers": 3})
    assert made["workers"] == 3
    assert made["fields"]["workers"]["source"] == "settings"


@pytest.mark.parametrize(
    ("memory", "more"),
    [
        ("lots", {}),
        ("1GiB", {"cpus": "many"}),
        ("1GiB", {"workload": {"speed": 1}}),
        ("1GiB", {"settings": {"workers": 0}}),
    ],
)
def test_what_it_does_not_understand_it_says_in_one_line(memory: str, more: dict[str, object]) -> None:
    with pytest.raises(AnsibleFilterError) as refused:
        plan(memory, **more)
    assert refused.value.message.startswith("farrier.web.plan: ") and "\n" not in refused.value.message
