"""The role by Molecule, on real systemd hosts: Debian 12 and 13 with 512 MB, Debian 12 with 256 MB."""

from __future__ import annotations

import json
import subprocess

import pytest

from lab import tools
from lab.checkout import ROOT, identity
from lab.image import ensure_base
from lab.machine import Machine

pytestmark = [pytest.mark.docker, pytest.mark.systemd]


def _without_certificates(environment: dict[str, str]) -> dict[str, str]:
    """The role brings the bundle to the host itself."""
    return {name: value for name, value in environment.items() if "CERT" not in name and "CA_" not in name}


@pytest.mark.parametrize(
    ("scenario", "release"), [("default", "bookworm"), ("default", "trixie"), ("small", "bookworm")]
)
@pytest.mark.usefixtures("docker_engine")
def test_scenario(scenario: str, release: str) -> None:
    tools.link_collection()
    machine = Machine.read()
    environment = {
        **tools.environment(),
        "MOLECULE_GLOB": "tests/molecule/*/molecule.yml",
        "FARRIER_LAB_ID": identity(),
        "FARRIER_LAB_IMAGE": ensure_base(release),
        "FARRIER_INSTALLER_ENV": json.dumps(_without_certificates(machine.pip_environment())),
        "FARRIER_CA_BUNDLE": machine.bundle or "",
        # What a task did, should it not be what was awaited.
        "ANSIBLE_VERBOSITY": "1",
    }
    command = [tools.bin_path("molecule"), "-c", "tests/molecule/base.yml", "test", "-s", scenario]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # What follows the fault is the removal of the host, which nobody needs to see.
    told = done.stdout.rpartition("PLAY [Destroy]")[0] or done.stdout
    assert done.returncode == 0, told[-15000:]
    # Molecule passes over a playbook that it does not find, and is content.
    assert "Missing playbook" not in done.stdout
