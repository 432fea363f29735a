"""`make test` and `make lint`: every check of the tree, each by its own tool, with its own closing lines."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from lab import checkout, engine, hygiene, tools
from lab.errors import LabError
from lab.image import STEP as IMAGE_STEP
from lab.image import ensure_base
from lab.progress import Steps

# Quick and pure first, so that a plain mistake shows in seconds; a folder that does not exist yet is left
# out.
_ORDER = ("unit", "serve", "serve_examples", "release", "system")
_IN_CI = os.environ.get("CI", "").lower() == "true"


def test() -> None:
    """All tests, in the order of `_ORDER`; Molecule's scenarios are the last. LabError where one failed."""
    started_before = engine.started_here()
    with Steps() as steps:
        with steps.step(tools.STEP) as outcome:
            outcome.append(tools.ensure(steps))
        _lab(steps)
    try:
        failed = _pytest()
    finally:
        if engine.started_here() != started_before:
            engine.stop()
    if failed:
        raise LabError(f"failed: {', '.join(failed)}")


def _lab(steps: Steps) -> None:
    """Engine and base image, made here so that their progress shows; without them only CI fails."""
    try:
        with steps.step("Docker engine") as outcome:
            found = engine.ensure(install=True, steps=steps)
            outcome.append(found.version)
        with steps.step(IMAGE_STEP) as outcome:
            outcome.append(ensure_base(steps=steps))
    except LabError as error:
        if _IN_CI:
            raise
        steps.say(f"No lab on this machine, tests that need it are skipped: {error}")


def _pytest() -> list[str]:
    tests = checkout.ROOT / "tests"
    present = [f"tests/{name}" for name in _ORDER if any((tests / name).rglob("test_*.py"))]
    others = sorted(
        f"tests/{folder.name}"
        for folder in tests.iterdir()
        if folder.is_dir() and folder.name not in (*_ORDER, "molecule") and any(folder.rglob("test_*.py"))
    )
    loose = sorted(f"tests/{path.name}" for path in tests.glob("test_*.py"))
    extra = os.environ.get("PYTEST_ARGS", "").split()
    return _run("pytest", [tools.bin_path("pytest"), "--durations=10", *extra, *loose, *present, *others])


def lint() -> None:
    """All checkers; each runs, whatever the ones before it found."""
    with Steps() as steps, steps.step(tools.STEP) as outcome:
        outcome.append(tools.ensure(steps))
    failed = []
    for name, command in (
        ("ruff check", ["ruff", "check", "."]),
        ("ruff format", ["ruff", "format", "--check", "."]),
        ("mypy", ["mypy"]),
        ("yamllint", ["yamllint", "--strict", "."]),
        ("ansible-lint", ["ansible-lint", "--profile", "production", "--offline"]),
    ):
        failed += _run(name, [tools.bin_path(command[0]), *command[1:]])
    print("\n== hygiene", flush=True)
    findings = hygiene.findings()
    print("\n".join(findings) if findings else "nothing slipped in", flush=True)
    if findings:
        failed.append("hygiene")
    if failed:
        raise LabError(f"failed: {', '.join(failed)}")


def _run(name: str, command: Sequence[str], env: dict[str, str] | None = None) -> list[str]:
    """Run one checker with its own output; its name in a list if it failed."""
    print(f"\n== {name}", flush=True)
    status = subprocess.run(
        list(command), cwd=checkout.ROOT, env=tools.environment() | (env or {}), check=False
    ).returncode
    return [name] if status else []
