"""The base image's name is its content: what would change it changes its name."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from lab import image
from lab.errors import LabError
from lab.machine import Machine


def test_same_content_same_name() -> None:
    assert image._key("bookworm", Machine()) == image._key("bookworm", Machine())


@pytest.mark.parametrize(
    ("release", "machine"),
    [
        ("trixie", Machine()),
        ("bookworm", Machine(environment={"HTTPS_PROXY": "http://proxy.example"})),
        ("bookworm", Machine(pip={"index-url": "https://mirror.example"})),
        ("bookworm", Machine(authorities=("PEM",))),
    ],
)
def test_other_content_other_name(release: str, machine: Machine) -> None:
    assert image._key(release, machine) != image._key("bookworm", Machine())


def test_another_recipe_or_month_is_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = image._key("bookworm", Machine())
    monkeypatch.setattr(image, "_FINISH", image._FINISH + "true\n")
    changed = image._key("bookworm", Machine())

    class NextMonth(datetime):
        @classmethod
        def now(cls, tz: object = None) -> NextMonth:
            return cls(2031, 2, 1, tzinfo=timezone.utc)

    monkeypatch.setattr(image, "datetime", NextMonth)
    assert len({before, changed, image._key("bookworm", Machine())}) == 3


def test_a_release_that_no_test_ran_on_is_refused() -> None:
    with pytest.raises(LabError, match=r"^release 'buster' is not one of bookworm, trixie$"):
        image.ensure_base("buster")
