"""``.env`` files, and what is shown of an environment."""

from __future__ import annotations

import pytest

from farrier.errors import FarrierError
from farrier.release.envfile import masked, parse_dotenv, systemd_env


def test_a_dotenv_file_is_read_as_people_write_it() -> None:
    text = """\
# settings
export A=1
B = two words  # a comment
C="a \\"quoted\\" line\\nand another" # more
D='literal $x \\n'
E=
F=http://x/#fragment
G="over
two lines"
"""
    assert parse_dotenv(text, ".env") == {
        "A": "1",
        "B": "two words",
        "C": 'a "quoted" line\nand another',
        "D": "literal $x \\n",
        "E": "",
        "F": "http://x/#fragment",
        "G": "over\ntwo lines",
    }


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_it() -> None:
    assert parse_dotenv("\ufeffA=1\r\nB=2\r\n", ".env") == {"A": "1", "B": "2"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("A=1\nnonsense\n", "env_files: .env, line 2: no NAME=value there"),
        ('A="never closed\n', "env_files: .env, line 1: a quote is opened and never closed"),
        ('A="x" y\n', "env_files: .env, line 1: text after the closing quote"),
        ("A-B=1\n", "env_files: .env, line 1"),
    ],
)
def test_a_wrong_line_is_named(text: str, told: str) -> None:
    with pytest.raises(FarrierError, match=told):
        parse_dotenv(text, ".env")


def test_what_we_write_for_systemd_reads_back() -> None:
    values = {"A": 'q"uo\\te', "B": "two\nlines", "C": ""}
    assert parse_dotenv(systemd_env(values), "env") == values


def test_masked_values_differ_when_the_secret_does() -> None:
    one, two = masked({"KEY": "hunter2"}), masked({"KEY": "hunter3"})
    assert "hunter" not in one + two
    assert one != two
    assert masked({"APP": "shop"}, frozenset({"APP"})) == "APP=shop\n"
