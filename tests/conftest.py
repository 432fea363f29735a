"""What all tests may ask for: the lab's base image and its systemd host.

A test marked `docker` or `systemd` runs against the real thing. Where this machine cannot have an engine it
is skipped with the reason in one line; with CI=true it fails, for there nobody would read a skip.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from functools import cache

import pytest

from lab import engine
from lab.errors import LabError
from lab.host import Host
from lab.image import ensure_base

IN_CI = os.environ.get("CI", "").lower() == "true"


@cache
def _engine() -> engine.Engine | str:
    try:
        return engine.ensure()
    except LabError as error:
        return str(error)


def _refuse(reason: str) -> None:
    if IN_CI:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CI=true a test that was skipped has failed, whyever it was skipped."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"nothing may be skipped in CI: {reason}"
    return report


def _end_by_exit(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def pytest_configure() -> None:
    """A TERM unwinds like Ctrl-C does, so that fixtures take their hosts away.

    A shell starts what it puts in the background without Ctrl-C, and nohup without HUP; what the tests start
    has both, as somebody's terminal gives them.
    """
    signal.signal(signal.SIGTERM, _end_by_exit)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that need an engine say so by a marker; here it is kept."""
    if any(item.get_closest_marker(name) for name in ("docker", "systemd")):
        found = _engine()
        if isinstance(found, str):
            _refuse(found)


@pytest.fixture(scope="session")
def docker_engine() -> engine.Engine:
    """The Docker engine of this machine, found or started."""
    found = _engine()
    if isinstance(found, str):
        _refuse(found)
    assert isinstance(found, engine.Engine)
    return found


@pytest.fixture(scope="session")
def base_image(docker_engine: engine.Engine) -> str:
    """The name of the lab's Debian 12 base image."""
    return ensure_base()


@pytest.fixture(scope="session")
def lab_host(base_image: str) -> Iterator[Host]:
    """One systemd host for the session, held to 512 MB and 1 CPU; tests leave it as they found it."""
    with Host("tests", memory="512m", cpus=1.0, image=base_image) as host:
        yield host
