"""Sizes and CPUs as people write them."""

from __future__ import annotations

import pytest

from farrier.sizing import SizingError, format_bytes, format_cpus, parse_bytes, parse_cpus

MIB = 2**20


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("512MiB", 512 * MIB),
        ("512M", 512 * MIB),
        ("512 MB", 512 * MIB),
        ("512m", 512 * MIB),
        ("512Mi", 512 * MIB),
        ("1g", 1024 * MIB),
        ("1.5GiB", 1536 * MIB),
        ("64k", 65536),
        ("536870912", 512 * MIB),
        (536870912, 512 * MIB),
        ("1e9", 10**9),
        ("0", 0),
        ("7b", 7),
        ("1TiB", 2**40),
    ],
)
def test_sizes(given: str | int, expected: int) -> None:
    assert parse_bytes(given) == expected


@pytest.mark.parametrize(
    "given",
    ["lots", "", "-1", "-5M", "512X", "M", "1.2.3G", "nan", "inf", "512bb", "9e30", "1 0M M", True, None, []],
)
def test_what_is_no_size(given: object) -> None:
    with pytest.raises(SizingError) as error:
        parse_bytes(given)  # type: ignore[arg-type]
    assert str(error.value) == (
        f"{given!r} is not a size: write bytes or a number with K, M, G or T, such as 512MiB"
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (512 * MIB, "512 MiB"),
        (1024 * MIB, "1 GiB"),
        (1536 * MIB, "1.5 GiB"),
        (1100 * MIB, "1100 MiB"),
        (5 * MIB + MIB // 2, "5.5 MiB"),
        (24 * 1024 * MIB + 300 * MIB, "24.3 GiB"),
        (-512 * MIB, "-512 MiB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize("size_mib", [1, 64, 418, 512, 1000, 1024, 3072, 65536])
def test_a_shown_size_can_be_given_again(size_mib: int) -> None:
    assert parse_bytes(format_bytes(size_mib * MIB)) == size_mib * MIB


@pytest.mark.parametrize(
    ("given", "expected"), [("0.5", 0.5), ("500m", 0.5), (2, 2.0), (" 4 ", 4.0), ("1.5", 1.5)]
)
def test_cpus(given: str | int, expected: float) -> None:
    assert parse_cpus(given) == expected


@pytest.mark.parametrize("given", ["0", "-1", "many", "", "nan", "inf", "m", 0, False, None])
def test_what_is_no_number_of_cpus(given: object) -> None:
    with pytest.raises(SizingError, match="is not a number of CPUs"):
        parse_cpus(given)  # type: ignore[arg-type]


def test_cpus_for_people() -> None:
    assert [format_cpus(cpus) for cpus in (0.5, 1.0, 2.25, 64.0)] == ["0.5", "1", "2.25", "64"]
