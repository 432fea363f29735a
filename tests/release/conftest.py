"""A real systemd host, the runtime wheel on it, and small apps to deploy."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from farrier.release import runtime
from lab.host import Host
from tests.release.interrupting import PORT, WORKERS

NEIGHBOUR = "/etc/farrier/neighbour"
CA = "/etc/ssl/certs/ca-certificates.crt"
HELLO = """\
import os

VERSION = "{version}"


def app(environ, start_response):
    body = f"{{VERSION}} {{os.environ.get('FARRIER_INSTANCE', '')}}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""


class Site:
    """What a deploy is done with on the host, as the Ansible module does it: the wheel through PYTHONPATH."""

    def __init__(self, host: Host, wheel: str) -> None:
        self.host = host
        self.wheel = wheel

    def upload(self, tree: Mapping[str, str]) -> dict[str, str]:
        """A source of type archive, lying where uploads lie."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
            for name, text in tree.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(text.encode()), 0o644
                archive.addfile(entry, io.BytesIO(text.encode()))
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        path = f"/var/lib/farrier/uploads/{digest}.tar.gz"
        local = Path(os.environ.get("TMPDIR", "/tmp")) / f"{digest}-{os.getpid()}.tar.gz"
        local.write_bytes(buffer.getvalue())
        try:
            self.host.put(local, path)
        finally:
            local.unlink()
        return {"type": "archive", "path": path, "sha256": digest}

    def spec(self, name: str, tree: Mapping[str, str] | None = None, **more: Any) -> dict[str, Any]:
        """The wanted state of a small app."""
        spec: dict[str, Any] = {"schema": 1, "name": name, "app": "main:app", "who": "tests"}
        spec["installer_env"] = {"PIP_CERT": CA, "SSL_CERT_FILE": CA, "PIP_DEFAULT_TIMEOUT": "120"}
        # Thirty seconds of watching after each deploy are for the tests of the guard.
        spec["guard"] = {"seconds": 0}
        # So is the measuring for those of it.
        spec["measure"] = {"enabled": False}
        if tree is not None:
            spec["source"] = self.upload(tree)
        return {**spec, **more}

    def farrier(self, *args: str, input: str = "", check: bool = True, wait: float = 60) -> dict[str, Any]:
        """One ``farrier release`` command with --json: the launcher, or the wheel where there is none yet."""
        launch = (
            'if [ -x /usr/local/bin/farrier ]; then exec farrier release "$@"; '
            'else exec python3 -m farrier release "$@"; fi'
        )
        done = self.host.run(
            ["sh", "-c", launch, "sh", *args, "--json"],
            input=input,
            check=False,
            env={
                "PYTHONPATH": self.wheel,
                "PYTHONDONTWRITEBYTECODE": "1",
                "FARRIER_DEPLOY_WAIT": str(wait),
            },
        )
        assert done.stdout.startswith("{"), done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        if check:
            assert not answer.get("failed"), answer["msg"] + "\n" + done.stderr
        return answer

    def apply(
        self, spec: Mapping[str, Any], *flags: str, check: bool = True, wait: float = 60
    ) -> dict[str, Any]:
        return self.farrier("apply", "-", *flags, input=json.dumps(spec), check=check, wait=wait)

    def refused(self, spec: Mapping[str, Any], *flags: str, wait: float = 60) -> str:
        """The one line with which a run is refused or fails."""
        answer = self.apply(spec, *flags, check=False, wait=wait)
        assert answer["failed"], answer
        assert "Traceback" not in answer["msg"]
        return str(answer["msg"])

    def remove(self, name: str, root: str = "") -> None:
        self.apply({"name": name, "state": "absent", **({"root": root} if root else {})})

    def get(self, port: int, path: str = "/") -> str:
        script = "import sys,urllib.request as u; print(u.urlopen(sys.argv[1], timeout=60).read().decode())"
        return self.host.run(["python3", "-c", script, f"http://127.0.0.1:{port}{path}"]).stdout.strip()

    def state(self, name: str, root: str = "") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.host.read(f"{root or f'/srv/{name}'}/state.json"))
        return found

    def snapshot(self) -> str:
        """Everything that a deploy may write, by path, mode, owner and content."""
        return self.host.shell(
            "for d in /etc/farrier /etc/systemd/system /srv /usr/local /var/lib/farrier /run/farrier "
            "/etc/passwd /etc/group; do [ -e $d ] && find $d -printf '%p %m %u %l\\n'; done | sort; "
            "cat /etc/passwd /etc/group; find /etc/farrier /etc/systemd/system -type f 2>/dev/null "
            "| sort | xargs -r md5sum"
        )

    def wait_for(self, what: str, script: str, seconds: float = 60, tell: str = "") -> None:
        """Until a script on the host succeeds; `tell` is another one, which says more where it does not."""
        end = time.monotonic() + seconds
        while self.host.run(["sh", "-c", script], check=False).returncode:
            if time.monotonic() >= end:
                told = self.host.run(["sh", "-c", tell], check=False) if tell else None
                more = f": {told.stdout}{told.stderr}" if told else ""
                raise AssertionError(f"{what}: not within {seconds:.0f} s{more}")
            time.sleep(0.05)


@pytest.fixture(scope="session")
def site(lab_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The lab's host with the runtime wheel of this checkout on it."""
    folder = tmp_path_factory.mktemp("wheel")
    package = Path(runtime.__file__).parents[1]
    draft = folder / "draft.whl"
    runtime.pack(package, draft)
    version = runtime.find(None).version
    wheel = folder / f"farrier-{version}-py3-none-any.whl"
    draft.rename(wheel)
    place = f"/opt/farrier-test/{wheel.name}"
    lab_host.put(wheel, place)
    if lab_host.run(["test", "-e", CA], check=False).returncode:
        lab_host.put(Path(CA), CA)
    # With the last app goes what apps share; a neighbour keeps the fetched uv from test to test.
    lab_host.run(["mkdir", "-p", NEIGHBOUR])
    yield Site(lab_host, place)
    lab_host.run(["rm", "-rf", "/opt/farrier-test", NEIGHBOUR])


def hello(version: str) -> dict[str, str]:
    """A WSGI app that answers its version and its colour."""
    return {"main.py": HELLO.format(version=version)}


@pytest.fixture(scope="session")
def hello_tree() -> Any:
    return hello


@pytest.fixture(scope="module")
def walk(site: Any, hello_tree: Any) -> Iterator[dict[str, Any]]:
    """An app with two releases that are built, so that a run is no more than the exchange."""
    spec = site.spec("walk", hello_tree("even"), bind=f"127.0.0.1:{PORT}", settings={"workers": WORKERS})
    site.apply(spec)
    sources = {"even": spec["source"], "odd": site.upload(hello_tree("odd"))}
    spec["source"] = sources["odd"]
    site.apply(spec)
    yield {"spec": spec, "sources": sources}
    site.remove("walk")
