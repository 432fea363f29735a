"""What is told of a run, and that telling it never fails or holds up anything: with real servers."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from farrier.release import notify
from farrier.release.events import Journal
from farrier.release.spec import Spec

RUN = {
    "time": "2026-11-20T15:30:00Z", "run": "r", "outcome": "good", "action": "deploy", "strategy": "overlap",
    "release": "20261120-b", "from": "20261119-a", "who": "kate@laptop", "seconds": 12.3, "message": "",
    "source": "sha256:aaaa",
}  # fmt: skip


def spec(**more: Any) -> Spec:
    data = {"name": "shop", "app": "main:app", "source": {"type": "requirement", "requirement": "x"}}
    return Spec.from_mapping({**data, **more})


class Listener:
    """A server that keeps what it is told, and answers as it is told to."""

    def __init__(self, status: int = 200, headers: dict[str, str] | None = None) -> None:
        heard = self.heard = []  # type: list[tuple[str, dict[str, str], Any]]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                heard.append((self.path, dict(self.headers), json.loads(body or b"null")))
                self.send_response(status)
                for name, value in {**(headers or {}), "Content-Length": "0"}.items():
                    self.send_header(name, value)
                self.end_headers()

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *args: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port

    @contextmanager
    def listening(self, tls: ssl.SSLContext | None = None) -> Iterator[Listener]:
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            thread.join()
            self.server.server_close()


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*notify._OUTWARD, *notify._CERTIFICATES, "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def told(run: dict[str, Any] = RUN, serves: str = "20261120-b") -> dict[str, Any]:
    event = notify.event("shop", run, "http://127.0.0.1:8000", serves)
    assert event is not None
    return event


def send(chosen: Spec, event: dict[str, Any] | None = None) -> list[str]:
    journal = Journal(None, "r")
    journal.hide([chosen.notify.webhook])
    return notify.send(chosen, event or told(), journal)


def test_a_deploy_is_one_line_and_its_fields() -> None:
    host = socket.gethostname()
    event = told()
    assert event["text"] == f"shop on {host}: release 20261120-b deployed by kate@laptop in 12.3 s (overlap)"
    fields = ("app", "host", "release", "from", "outcome", "who", "why", "strategy", "seconds", "url")
    assert [event[name] for name in fields] == [
        "shop", host, "20261120-b", "20261119-a", "deployed", "kate@laptop", None, "overlap", 12.3,
        "http://127.0.0.1:8000",
    ]  # fmt: skip


LINES = [
    ({"outcome": "rolled back", "message": "43 % were errors"}, "rolled back",
     "release 20261120-b by kate@laptop was rolled back to 20261119-a: 43 % were errors"),
    ({"action": "rollback", "release": "20261119-a", "from": "20261120-b"}, "rolled back",
     "rolled back by kate@laptop from 20261120-b to 20261119-a in 12.3 s"),
    ({"outcome": "failed", "message": "no such module"}, "failed",
     "deploy by kate@laptop failed: no such module; 20261119-a serves"),
    ({"outcome": "failed", "action": "reload", "message": "refused"}, "failed",
     "reload by kate@laptop failed: refused; 20261119-a serves"),
]  # fmt: skip


@pytest.mark.parametrize(("run", "outcome", "line"), LINES)
def test_every_other_end_in_one_line(run: dict[str, Any], outcome: str, line: str) -> None:
    event = told({**RUN, **run}, serves="20261119-a")
    assert event["text"] == f"shop on {socket.gethostname()}: {line}"
    assert event["outcome"] == outcome


@pytest.mark.parametrize("action", ["reload", "settings"])
def test_what_went_well_and_moved_no_release_is_no_news(action: str) -> None:
    assert notify.event("shop", {**RUN, "action": action}, "", "x") is None


def test_a_webhook_gets_json() -> None:
    with Listener().listening() as hook:
        assert send(spec(notify={"webhook": f"http://ci:p%40ss@127.0.0.1:{hook.port}/T0/B0?x=1"})) == []
    path, headers, body = hook.heard[0]
    assert path == "/T0/B0?x=1"
    assert headers["Content-Type"] == "application/json"
    # "ci:p@ss", and the address itself goes without it.
    assert headers["Authorization"] == "Basic Y2k6cEBzcw=="
    assert headers["Host"] == f"127.0.0.1:{hook.port}"
    assert body == told()


def test_what_it_answers_is_told_without_the_address() -> None:
    with Listener(404).listening() as hook:
        said = send(spec(notify={"webhook": f"http://127.0.0.1:{hook.port}/secret-path"}))
    assert said == ["notify.webhook: it answered 404 Not Found"]


def test_what_is_told_goes_nowhere_else() -> None:
    with Listener().listening() as other:
        away = Listener(302, {"Location": f"http://127.0.0.1:{other.port}/"})
        with away.listening() as hook:
            said = send(spec(notify={"webhook": f"http://127.0.0.1:{hook.port}/"}))
    assert said == ["notify.webhook: it answered 302 Found"]
    assert other.heard == []


def test_nobody_there_and_nobody_answering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "LIMIT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        chosen = spec(notify={"webhook": f"http://127.0.0.1:{port}/", "command": "sleep 60"})
        said = send(chosen)
        assert time.monotonic() - began < 3
    assert len(said) == 2
    assert said[1] == "notify.webhook: no answer in 0 s" or "no answer" in said[1]
    assert send(spec(notify={"webhook": f"http://127.0.0.1:{port}/"})) == [
        "notify.webhook: Connection refused"
    ]


def test_a_proxy_of_the_installers_environment_is_used_but_for_what_is_near() -> None:
    with Listener().listening() as proxy:
        env = {"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}"}
        hook = {"webhook": "http://hooks.example.org/T0"}
        assert send(spec(notify=hook, installer_env=env)) == []
        assert proxy.heard[0][0] == "http://hooks.example.org/T0"
        assert notify.proxies(env, "hooks.example.org") == {"http": env["HTTP_PROXY"]}
        assert notify.proxies({**env, "NO_PROXY": ".example.org"}, "hooks.example.org") == {}
        assert notify.proxies({"all_proxy": "http://p:1"}, "x") == {
            "http": "http://p:1",
            "https": "http://p:1",
        }


def test_https_trusts_the_certificates_of_the_installers_environment(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", str(key),
         "-out", str(certificate), "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Listener().listening(context) as hook:
        address = {"webhook": f"https://localhost:{hook.port}/"}
        assert send(spec(notify=address, installer_env={"SSL_CERT_FILE": str(certificate)})) == []
        assert len(hook.heard) == 1
        refused = send(spec(notify=address))
        assert len(refused) == 1
        assert "certificate verify failed" in refused[0].lower()
        assert len(hook.heard) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run a command as somebody else")
def test_a_command_gets_the_event_as_the_apps_user() -> None:
    # Not pytest's own folder, which others may not enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        line = f"(id -un; echo $FARRIER_APP $FARRIER_OUTCOME $TOKEN; cat) > {folder}/heard"
        chosen = spec(user="nobody", group="nogroup", notify={"command": line}, env={"TOKEN": "t0k3n"})
        assert send(chosen) == []
        user, words, body = Path(folder, "heard").read_text().split("\n", 2)
    assert (user, words) == ("nobody", "shop deployed t0k3n")
    assert json.loads(body) == told()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run a command as somebody else")
def test_a_command_that_fails_is_told_in_its_own_words() -> None:
    who = {"user": "nobody", "group": "nogroup"}
    said = send(spec(**who, notify={"command": "echo the pager is off >&2; exit 3"}))
    assert said == ["notify.command: the pager is off (exit status 3)"]
    said = send(spec(user="nosuchuser", notify={"command": "true"}))
    assert said == ["notify.command: there is no user nosuchuser to run it as"]


def test_nobody_is_named_nobody_is_told() -> None:
    assert send(spec()) == []
