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

# A folder that does not exist yet is left out.
_ORDER = ("release", "serve", "serve_examples", "measure", "unit", "system")
# They wait more than they work, and each has servers and hosts of its own. What is left wants the machine.
# Long files first, in the order that is given: one of eight minutes that begins last has a lane to itself.
_SIDE_BY_SIDE = ("release", "serve", "serve_examples", "measure", "unit")
_LANES_FLAGS = ("--dist", "loadfile", "--no-loadscope-reorder")
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
    present = {
        name for folder in tests.iterdir()
        if (name := folder.name) != "molecule" and folder.is_dir() and any(folder.rglob("test_*.py"))
    }  # fmt: skip
    ordered = [name for name in _ORDER if name in present]
    others = sorted(present.difference(_ORDER))
    loose = sorted(path.name for path in tests.glob("test_*.py"))
    side_by_side = [name for name in ordered if name in _SIDE_BY_SIDE]
    alone = [*(name for name in ordered if name not in _SIDE_BY_SIDE), *others, *loose]
    extra = os.environ.get("PYTEST_ARGS", "").split()
    failed = []
    for label, names, flags in (
        ("tests, side by side", side_by_side, ["-n", str(_lanes()), *_LANES_FLAGS]),
        ("tests, one by one", alone, []),
    ):
        command = [tools.bin_path("pytest"), "--durations=10", *flags, *extra]
        failed += _run(label, [*command, *(f"tests/{name}" for name in names)]) if names else []
    return failed


def _lanes() -> int:
    """A file at a time on each CPU, four at most: each lane that needs a host has one of 512 MB."""
    return max(1, min(4, len(os.sched_getaffinity(0))))


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
