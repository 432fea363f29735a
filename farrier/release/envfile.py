"""Reading ``.env`` files, and writing what systemd's ``EnvironmentFile=`` reads back exactly."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import FarrierError
from .spec import ENV_NAME, env_value_problem

# Inside double quotes systemd takes a backslash away before these four and before a newline only.
_QUOTED = str.maketrans({"\\": "\\\\", '"': '\\"', "`": "\\`", "$": "\\$"})
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$", "`": "`"}


def systemd_env(values: Mapping[str, str]) -> str:
    """The text of an ``EnvironmentFile=`` that gives exactly `values` (systemd.exec(5))."""
    return "".join(f'{name}="{value.translate(_QUOTED)}"\n' for name, value in sorted(values.items()))


def masked(values: Mapping[str, str], plain: frozenset[str] = frozenset()) -> str:
    """The same for a person's eyes: names, and a digest instead of each value that may be a secret."""
    import hashlib

    lines = []
    for name, value in sorted(values.items()):
        # Salted by the name, and short: it shows that a value changed, not what it is.
        digest = hashlib.sha256(f"{name}\0{value}".encode()).hexdigest()[:6]
        lines.append(f"{name}={value if name in plain else f'******** ({digest})'}\n")
    return "".join(lines)


def parse_dotenv(text: str, source: str) -> dict[str, str]:
    """The names and values of a ``.env`` file.

    ``export`` is allowed before a name; single quotes are literal, double quotes know \\n, \\t, \\" and \\\\,
    both may span lines; outside quotes `` #`` starts a comment. Nothing is expanded: ``$`` stays ``$``.
    Raises FarrierError naming the line.
    """
    out: dict[str, str] = {}
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    position, line = 0, 1
    while position < len(text):
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        raw = text[position:end].strip()
        if not raw or raw.startswith("#"):
            position, line = end + 1, line + 1
            continue
        match = re.compile(r"[ \t]*(?:export[ \t]+)?([^\s=]+)[ \t]*=[ \t]*").match(text, position)
        if not match or not ENV_NAME.fullmatch(match[1]):
            raise FarrierError(f"env_files: {source}, line {line}: no NAME=value there")
        value, next_position = _value(text, match.end(), source, line)
        if problem := env_value_problem(value):
            raise FarrierError(f"env_files: {source}, line {line}: {match[1]} needs {problem}")
        out[match[1]] = value
        line += text.count("\n", position, next_position)
        position = next_position
    return out


def _value(text: str, start: int, source: str, line: int) -> tuple[str, int]:
    """One value from `start`, and where the next line begins."""
    quote = text[start : start + 1]
    if quote in ("'", '"'):
        pattern = r"'([^']*)'" if quote == "'" else r'"((?:[^"\\]|\\.)*)"'
        match = re.compile(pattern, re.DOTALL).match(text, start)
        if not match:
            raise FarrierError(f"env_files: {source}, line {line}: a quote is opened and never closed")
        end = text.find("\n", match.end())
        end = len(text) if end < 0 else end
        rest = text[match.end() : end].strip()
        if rest and not rest.startswith("#"):
            raise FarrierError(f"env_files: {source}, line {line}: text after the closing quote")
        inner = match[1] if quote == "'" else re.sub(r"\\(.)", _unescape, match[1], flags=re.DOTALL)
        return inner, end + 1
    end = text.find("\n", start)
    end = len(text) if end < 0 else end
    return re.split(r"(?:^|\s)#", text[start:end], maxsplit=1)[0].strip(), end + 1


def _unescape(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[1], match[0])
