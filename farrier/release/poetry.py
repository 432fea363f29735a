"""Reads TOML, and turns poetry.lock into requirements, under the app's own interpreter.

Run as a program (``python -Ic SOURCE toml FILE`` or ``… export FOLDER``), so it imports nothing of
farrier. Poetry and its export plugin would be some sixty packages in an environment of their own, more
than a 256 MB host should install to read one file; the lock holds everything that is needed, and the
interpreter's bundled pip brings the two parsers (packaging.markers, and tomli before Python 3.11).
"""

from __future__ import annotations

import glob
import json
import os
import re
import sys
import sysconfig
from typing import Any


def bundled_pip() -> None:
    """Puts the pip that every interpreter with venv carries on the path."""
    import ensurepip

    folders = [os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")]  # noqa: PTH118, PTH120
    folders.append(sysconfig.get_config_var("WHEEL_PKG_DIR") or "/usr/share/python-wheels")
    wheels = [path for folder in folders for path in glob.glob(os.path.join(folder, "pip-*.whl"))]  # noqa: PTH118, PTH207
    if wheels:
        sys.path.insert(0, wheels[-1])


def load(path: str) -> dict[str, Any]:
    try:
        import tomllib as toml  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        bundled_pip()
        from pip._vendor import tomli as toml
    with open(path, "rb") as stream:
        data: dict[str, Any] = toml.load(stream)
    return data


def export(folder: str) -> str:
    """The main dependencies of a Poetry project as pinned requirements, one a line, with hashes."""
    project = load(os.path.join(folder, "pyproject.toml"))  # noqa: PTH118
    lock = load(os.path.join(folder, "poetry.lock"))  # noqa: PTH118
    bundled_pip()
    packages: dict[str, list[dict[str, Any]]] = {}
    for package in lock.get("package", []):
        packages.setdefault(canonical(package["name"]), []).append(package)
    wanted = reachable(direct(project), packages)
    old_hashes = lock.get("metadata", {}).get("files", {})
    lines = []
    for name in sorted(wanted):
        for package in packages.get(name, []):
            if applies(markers_of(package)):
                lines.append(line_of(package, package.get("files") or old_hashes.get(package["name"], [])))
    return "\n".join([*lines, ""])


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def direct(project: dict[str, Any]) -> dict[str, set[str]]:
    """The project's own main dependencies that apply here: name -> extras (Poetry's form and PEP 621's)."""
    from pip._vendor.packaging.requirements import Requirement

    out: dict[str, set[str]] = {}
    for text in project.get("project", {}).get("dependencies", []):
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            out.setdefault(canonical(requirement.name), set()).update(requirement.extras)
    for name, value in project.get("tool", {}).get("poetry", {}).get("dependencies", {}).items():
        for one in value if isinstance(value, list) else [value]:
            one = one if isinstance(one, dict) else {}
            if name == "python" or (one.get("optional") and canonical(name) not in out):
                continue
            if applies(one.get("markers")):
                out.setdefault(canonical(name), set()).update(one.get("extras", []))
    return out


def reachable(start: dict[str, set[str]], packages: dict[str, list[dict[str, Any]]]) -> set[str]:
    """Every locked package that the direct ones need here, through extras and markers."""
    todo = [(name, frozenset(extras)) for name, extras in start.items()]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for package in packages.get(name, []):
            todo += edges(package, extras)
    return {name for name, _ in seen}


def edges(package: dict[str, Any], extras: frozenset[str]) -> list[tuple[str, frozenset[str]]]:
    needed = {
        canonical(re.split(r"[\s(\[;]", text, maxsplit=1)[0])
        for extra in extras
        for text in package.get("extras", {}).get(extra, [])
    }
    out = []
    for name, value in package.get("dependencies", {}).items():
        for one in value if isinstance(value, list) else [value]:
            one = one if isinstance(one, dict) else {}
            if one.get("optional") and canonical(name) not in needed:
                continue
            marker = re.sub(
                r"\s*(and\s+)?extra\s*==\s*[\"'][^\"']*[\"']", "", one.get("markers") or ""
            ).strip()
            if applies(marker):
                out.append((canonical(name), frozenset(one.get("extras", []))))
    return out


def markers_of(package: dict[str, Any]) -> str | None:
    """A package's own marker (lock 2.1: text, or one for each group)."""
    markers = package.get("markers")
    return markers.get("main") if isinstance(markers, dict) else markers


def applies(marker: str | None) -> bool:
    from pip._vendor.packaging.markers import Marker

    return not marker or bool(Marker(marker).evaluate({"extra": ""}))


def line_of(package: dict[str, Any], files: list[dict[str, str]]) -> str:
    source = package.get("source", {})
    name, version = package["name"], package["version"]
    if source.get("type") == "git":
        return f"{name} @ git+{source['url']}@{source.get('resolved_reference') or source['reference']}"
    if source.get("type") == "url":
        return f"{name} @ {source['url']}"
    if source.get("type") in ("directory", "file"):
        return f"./{source['url']}"
    hashes = " ".join(f"--hash={item['hash']}" for item in files if item.get("hash"))
    return f"{name}=={version} {hashes}".strip()


def main() -> None:
    """``toml FILE`` prints it as JSON, ``export FOLDER`` prints requirements."""
    what, path = sys.argv[1:3]
    if what == "toml":
        print(json.dumps(load(path), default=str))
    else:
        print(export(path), end="")


if __name__ == "__main__":
    main()
