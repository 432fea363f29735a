"""What a host inherits from the machine that it runs on: settings that were given, and nothing else."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from lab import machine
from lab.errors import LabError
from lab.machine import Machine, Suite, debian_suites, overlay

PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----"


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A person without settings: no variable, no file."""
    for name in list(os.environ):
        if name.upper().startswith(("PIP_", "UV_", "FARRIER_")) or name.upper().endswith(
            ("_PROXY", "BUNDLE", "_CERT")
        ):
            monkeypatch.delenv(name)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(machine, "_extra_authorities", tuple)
    monkeypatch.setattr(machine, "_apt_settings", tuple)


def test_a_bare_machine_hands_on_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_pip_settings", dict)
    assert Machine.read() == Machine()
    assert Machine().files() == {}


def test_proxies_reach_shells_and_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "localhost")
    files = Machine.read().files()
    assert 'HTTPS_PROXY="http://proxy.example:3128"\n' in files["/etc/environment"]
    assert '"no_proxy=localhost"' in files["/etc/systemd/system.conf.d/50-proxy.conf"]


def test_an_index_of_pip_is_told_to_uv_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "config" / "pip" / "pip.conf"
    config.parent.mkdir(parents=True)
    config.write_text("[global]\nindex-url = https://mirror.example/simple\n")
    read = Machine.read()
    assert read.environment["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    assert "index-url = https://mirror.example/simple\n" in read.files()["/etc/pip.conf"]
    assert read.pip_environment()["PIP_INDEX_URL"] == "https://mirror.example/simple"


def test_the_environment_wins_over_pips_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "config" / "pip" / "pip.conf"
    config.parent.mkdir(parents=True)
    config.write_text("[global]\nindex-url = https://file.example/simple\n")
    monkeypatch.setenv("PIP_INDEX_URL", "https://env.example/simple")
    assert Machine.read().pip["index-url"] == "https://env.example/simple"


def test_a_named_bundle_becomes_the_hosts_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = tmp_path / "company.pem"
    bundle.write_text(PEM.format("one"))
    monkeypatch.setenv("PIP_CERT", str(bundle))
    read = Machine.read()
    assert read.bundle == str(bundle)
    assert read.environment["PIP_CERT"] == read.environment["SSL_CERT_FILE"] == machine.CA_BUNDLE


def test_only_certificates_that_debian_does_not_ship_are_handed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    shipped = next(Path("/usr/share/ca-certificates").rglob("*.crt"), None)
    if shipped is None:
        pytest.skip("this machine has no certificates of the distribution to tell apart")
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(shipped.read_text() + PEM.format("ours") + "\n")
    monkeypatch.setenv("PIP_CERT", str(bundle))
    extra = machine._extra_authorities()
    assert PEM.format("ours") in extra
    assert shipped.read_text().strip() not in extra


def test_local_paths_of_pip_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/somewhere/wheels")
    monkeypatch.setenv("PIP_CACHE_DIR", "/somewhere/cache")
    read = Machine.read()
    assert "/somewhere" not in str(read.files())


def test_a_person_can_refuse_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("FARRIER_LAB_INHERIT", "no")
    assert Machine.read() == Machine()


def test_a_broken_pip_conf_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "pip.conf"
    broken.write_text("index-url = nowhere\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(broken))
    with pytest.raises(LabError, match=r"^pip's configuration cannot be read: [^\n]+$"):
        Machine.read()


def test_the_mirror_is_said_for_another_release(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        ("http://m.example/debian/", "bookworm"),
        ("http://m.example/debian-security/", "bookworm-security"),
        ("http://m.example/debian/", "bookworm-updates"),
        ("http://m.example/debian/", "bookworm-backports"),
    ]
    monkeypatch.setattr(machine, "_index_targets", lambda proof: rows)
    monkeypatch.setattr(machine, "_os_release", lambda: {"VERSION_CODENAME": "bookworm"})
    assert debian_suites("trixie") == [
        Suite("http://m.example/debian", "trixie"),
        Suite("http://m.example/debian", "trixie-updates"),
        Suite("http://m.example/debian-security", "trixie-security"),
    ]


def test_no_mirror_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_index_targets", lambda proof: [])
    with pytest.raises(LabError, match="set FARRIER_MIRROR"):
        debian_suites("bookworm")
    monkeypatch.setenv("FARRIER_MIRROR", "http://given.example/debian")
    assert debian_suites("bookworm") == [Suite("http://given.example/debian", "bookworm")]


def test_overlay_is_owned_by_root_and_keeps_sudoers_closed() -> None:
    packed = overlay({"/etc/sudoers.d/debian": "x\n", "/etc/pip.conf": "y\n"})
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        entries = {entry.name: entry for entry in archive}
    assert entries["etc/sudoers.d/debian"].mode == 0o440
    assert entries["etc/pip.conf"].mode == 0o644
    assert {entry.uid for entry in entries.values()} == {0}
