"""What this machine was told about mirrors, proxies and certificates, to tell a host in the lab the same.

A company's machine reaches the registries through a proxy, a mirror or a private certificate authority; a
host that the lab starts on it has to know them too. Nothing of it is written in the tree: it is read here
from apt's and pip's own configuration and from the environment, and handed on only when the caller asks
(`Machine.read()`), which `FARRIER_LAB_INHERIT=no` refuses for everybody.
"""

from __future__ import annotations

import configparser
import io
import os
import re
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from lab.errors import LabError

CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"  # Debian's bundle, on the machine and in the host
_CA_VARIABLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_PIP_OPTIONS = (
    "index-url",
    "extra-index-url",
    "trusted-host",
    "timeout",
    "default-timeout",
    "retries",
    "proxy",
)
_UV = (
    "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_INDEX", "UV_HTTP_TIMEOUT",
    "UV_INSECURE_HOST",
    "UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "UV_HTTP_RETRIES", "UV_KEYRING_PROVIDER",
)  # fmt: skip
_APT = re.compile(
    r'^Acquire::(https?::Proxy|Check-Valid-Until|Check-Date|Retries|ForceIPv[46])\b.* "[^"]+";$'
)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.S)


@dataclass(frozen=True)
class Suite:
    """One line of apt sources: where, and which suite there."""

    uri: str
    name: str


@dataclass(frozen=True)
class Machine:
    """What a host inherits. `Machine()` is a machine that was told nothing."""

    environment: dict[str, str] = field(default_factory=dict)
    pip: dict[str, str] = field(default_factory=dict)
    apt: tuple[str, ...] = ()
    authorities: tuple[str, ...] = ()  # PEM certificates that the distribution does not ship
    bundle: str = ""  # the bundle that somebody named: programs must be pointed to the host's own

    @classmethod
    def read(cls) -> Machine:
        """This machine's own settings, or nothing where FARRIER_LAB_INHERIT says no."""
        if os.environ.get("FARRIER_LAB_INHERIT", "yes").lower() in ("no", "0", "false"):
            return cls()
        authorities = _extra_authorities()
        named = next((os.environ[name] for name in _CA_VARIABLES if os.environ.get(name)), "")
        bundle = named or _pip_settings().get("cert", "") or (CA_BUNDLE if authorities else "")
        pip = {key: value for key, value in _pip_settings().items() if key in _PIP_OPTIONS}
        environment = {
            name: value
            for upper in _PROXIES
            for name in (upper, upper.lower())
            if (value := os.environ.get(name))
        } | {name: os.environ[name] for name in _UV if os.environ.get(name)}
        if bundle:
            pip["cert"] = CA_BUNDLE
            environment |= dict.fromkeys(_CA_VARIABLES, CA_BUNDLE)
        if "index-url" in pip:  # uv does not read pip's configuration
            environment.setdefault("UV_DEFAULT_INDEX", pip["index-url"])
        return cls(environment, pip, _apt_settings(), authorities, bundle)

    def pip_environment(self) -> dict[str, str]:
        """The environment with pip's options as variables, for installers in a container or a venv."""
        names = {"default-timeout": "PIP_DEFAULT_TIMEOUT"}
        return self.environment | {
            names.get(key, "PIP_" + key.upper().replace("-", "_")): value for key, value in self.pip.items()
        }

    def installer_environment(self) -> dict[str, str]:
        """For the role's `gunicorn_app_installer_env`; certificates go by `gunicorn_app_ca_bundle`."""
        return {name: value for name, value in self.pip_environment().items() if name not in _CA_VARIABLES}

    def files(self) -> dict[str, str]:
        """The files that tell a Debian host the same, by their path on the host."""
        files = {
            f"/usr/local/share/ca-certificates/machine-{number}.crt": pem + "\n"
            for number, pem in enumerate(self.authorities)
        }
        if self.environment:
            files["/etc/environment"] = "".join(f'{k}="{v}"\n' for k, v in sorted(self.environment.items()))
        if proxies := {k: v for k, v in self.environment.items() if k.upper() in _PROXIES}:
            pairs = " ".join(f'"{k}={v}"' for k, v in sorted(proxies.items()))
            files["/etc/systemd/system.conf.d/50-proxy.conf"] = f"[Manager]\nDefaultEnvironment={pairs}\n"
        if self.pip:
            options = "".join(f"{key} = {value}\n" for key, value in sorted(self.pip.items()))
            files["/etc/pip.conf"] = f"[global]\n{options}"
        if self.apt:
            files["/etc/apt/apt.conf.d/50machine"] = "\n".join(self.apt) + "\n"
        return files


def overlay(files: dict[str, str]) -> bytes:
    """A tar archive of files that root owns, to be unpacked at `/`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, text in sorted(files.items()):
            content = text.encode()
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(content), 0o440 if "/sudoers.d/" in path else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def debian_suites(release: str) -> list[Suite]:
    """Where this machine's apt gets Debian from, said for `release`: base, updates, security.

    FARRIER_MIRROR names another base. LabError where apt here knows no Debian mirror.
    """
    if given := os.environ.get("FARRIER_MIRROR"):
        return [Suite(given, release)]
    own = _os_release().get("VERSION_CODENAME", "")
    rows = _index_targets(("ORIGIN",)) or _index_targets(())
    suites: list[Suite] = []
    for uri, suite in rows:
        base, _, kind = suite.partition("-")
        if base in (own, "stable", "oldstable") and kind in ("", "updates", "security"):
            wanted = Suite(uri.rstrip("/"), f"{release}-{kind}" if kind else release)
            if wanted not in suites and (kind or all(known.name != wanted.name for known in suites)):
                suites.append(wanted)
    suites.sort(key=lambda suite: len(suite.name))
    if not suites or suites[0].name != release:
        raise LabError(
            "apt on this machine names no Debian mirror: set FARRIER_MIRROR to the address of one "
            "(the folder that holds dists/), or run where an image registry answers"
        )
    return suites


def _index_targets(proof: tuple[str, ...]) -> list[tuple[str, str]]:
    """apt's own answer: (address, suite) of each `main` index; with ORIGIN only those that say Debian."""
    flags = [] if proof else ["--no-release-info"]
    form = "$(CREATED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"
    try:
        answer = subprocess.run(
            ["apt-get", "indextargets", *flags, "--format", form], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise LabError(
            "no apt-get here: a base image needs Debian's apt, or a registry that answers"
        ) from None
    rows = [line.split("|") for line in answer.stdout.splitlines() if line.count("|") == 4]
    found = [
        (uri, suite)
        for made, uri, suite, component, origin in rows
        if made == "Packages" and component == "main" and (not proof or origin == "Debian")
    ]
    # Without release data a stranger's suite may bear Debian's name: take addresses that look like the
    # archive first.
    return found if proof else sorted(found, key=lambda row: "/debian" not in row[0])


def _os_release() -> dict[str, str]:
    text = Path("/etc/os-release").read_text() if Path("/etc/os-release").exists() else ""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key: value.strip('"') for key, _, value in pairs}


def _apt_settings() -> tuple[str, ...]:
    try:
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ()
    return tuple(line for line in dump.splitlines() if _APT.match(line))


def _pip_settings() -> dict[str, str]:
    """pip's settings in the order that pip reads them: machine, person, PIP_CONFIG_FILE, environment."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    places = [Path("/etc/pip.conf"), Path.home() / ".pip/pip.conf", config / "pip/pip.conf"]
    if named := os.environ.get("PIP_CONFIG_FILE"):
        places.append(Path(named))
    parser = configparser.RawConfigParser()
    try:
        parser.read(places)
    except configparser.Error as error:
        raise LabError(f"pip's configuration cannot be read: {error.message.splitlines()[0]}") from None
    settings = dict(parser["global"]) if parser.has_section("global") else {}
    for name, value in os.environ.items():
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE" and value:
            settings[name[4:].lower().replace("_", "-")] = value
    return settings


def _extra_authorities() -> tuple[str, ...]:
    """Certificates in the bundles that this machine uses and that the distribution does not ship."""
    shipped = set()
    for path in Path("/usr/share/ca-certificates").rglob("*.crt"):
        shipped.update(_CERTIFICATE.findall(path.read_text(errors="replace")))
    named = [os.environ[name] for name in _CA_VARIABLES if os.environ.get(name)]
    found: dict[str, None] = {}
    if by_pip := _pip_settings().get("cert"):
        named.append(by_pip)
    for bundle in map(Path, dict.fromkeys([*named, CA_BUNDLE])):
        if bundle.is_file():
            found |= dict.fromkeys(_CERTIFICATE.findall(bundle.read_text(errors="replace")))
    # An older bundle of the distribution's own shows a few differences: harmless, they are certificates too.
    return tuple(pem for pem in found if pem not in shipped)
