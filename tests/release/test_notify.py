"""A chat and a pager hear of every deploy, failure and rollback, and can hold none of them up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.systemd
Tree = Callable[[str], dict[str, str]]
PORT = 8801
HOOK = 8890
SECRET = "s3cr3t-part-of-the-address"
LISTENER = """\
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open("/run/hook.jsonl", "ab") as out:
            out.write(body + b"\\n")
        self.send_response(int(open("/run/hook.status").read()))
        self.send_header("Content-Length", "0")
        self.end_headers()

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def hook(site: Any) -> Iterator[str]:
    """A webhook on the host's loopback; what it heard lies in /run/hook.jsonl."""
    site.host.write("/run/hook.py", LISTENER)
    site.host.write("/run/hook.status", "200")
    site.host.shell(f"systemd-run --quiet --unit=hook python3 /run/hook.py {HOOK}")
    site.wait_for("the hook", f"ss -ltn | grep -q :{HOOK}", 20)
    yield f"http://127.0.0.1:{HOOK}/{SECRET}"
    site.host.shell("systemctl stop hook; rm -f /run/hook.*")


@pytest.fixture(scope="module")
def bell(site: Any, hook: str, hello_tree: Tree) -> Iterator[dict[str, Any]]:
    """An app whose runs are told to the hook, and to a command that writes into the app's shared folder."""
    told = {"webhook": hook, "command": "(id -un; echo $FARRIER_TEXT; cat) > /srv/bell/shared/told"}
    spec = site.spec(
        "bell", hello_tree("one"), bind=f"127.0.0.1:{PORT}", settings={"workers": 1}, notify=told
    )
    site.apply(spec)
    yield spec
    site.remove("bell")


def heard(site: Any) -> dict[str, Any]:
    """What the hook was told last."""
    event: dict[str, Any] = json.loads(site.host.read("/run/hook.jsonl").splitlines()[-1])
    return event


def test_a_deploy_is_told(site: Any, bell: dict[str, Any]) -> None:
    release = site.state("bell")["release"]
    event = heard(site)
    assert event["text"].startswith(f"bell on {site.host.name}: release {release} deployed by tests in ")
    assert (event["outcome"], event["app"], event["from"]) == ("deployed", "bell", None)
    assert event["url"] == f"http://127.0.0.1:{PORT}"
    user, text, body = site.host.read("/srv/bell/shared/told").split("\n", 2)
    assert (user, text, json.loads(body)) == ("bell", event["text"], event)


def test_a_run_without_a_change_is_no_news(site: Any, bell: dict[str, Any]) -> None:
    before = site.host.read("/run/hook.jsonl")
    assert not site.apply(bell)["changed"]
    assert site.host.read("/run/hook.jsonl") == before


def test_a_failure_and_a_rollback_are_told(site: Any, bell: dict[str, Any], hello_tree: Tree) -> None:
    first = site.state("bell")["release"]
    line = site.refused({**bell, "source": site.upload({"main.py": "import nothere\n"})})
    event = heard(site)
    assert event["outcome"] == "failed"
    assert event["why"] in line
    assert event["text"].endswith(f"; {first} serves")
    second = site.apply({**bell, "source": site.upload(hello_tree("two"))})["release"]
    site.farrier("rollback", "bell")
    event = heard(site)
    assert (event["outcome"], event["from"], event["release"]) == ("rolled back", second, first)
    assert event["who"] == "root"


def test_a_hook_that_fails_is_a_warning_without_its_address(
    site: Any, bell: dict[str, Any], hello_tree: Tree
) -> None:
    site.host.write("/run/hook.status", "503")
    broken = {**bell["notify"], "command": "echo the pager is off >&2; exit 1"}
    answer = site.apply({**bell, "notify": broken, "source": site.upload(hello_tree("three"))})
    site.host.write("/run/hook.status", "200")
    assert answer["warnings"] == [
        "notify.command: the pager is off (exit status 1)",
        "notify.webhook: it answered 503 Service Unavailable",
    ]
    assert site.get(PORT).startswith("three")


def test_a_hook_that_does_not_answer_costs_ten_seconds(
    site: Any, bell: dict[str, Any], hello_tree: Tree
) -> None:
    site.host.shell("systemctl kill -s STOP hook")
    bell["source"] = site.upload(hello_tree("four"))
    answer = site.apply(bell)
    site.host.shell("systemctl kill -s CONT hook")
    assert answer["warnings"] == ["notify.webhook: no answer in 10 s"]
    assert site.get(PORT).startswith("four")


def test_a_changed_address_alone_is_kept_and_shown_nowhere(site: Any, bell: dict[str, Any]) -> None:
    pid = site.host.shell("systemctl show -P MainPID bell@blue bell@green")
    moved = {**bell, "notify": {**bell["notify"], "webhook": f"{bell['notify']['webhook']}/other"}}
    preview = site.apply(moved, "--check", "--diff")
    assert preview["changed"]
    assert json.loads(site.host.read("/etc/farrier/bell/app.json"))["notify"] == bell["notify"]
    answer = site.apply(moved, "--diff")
    assert [(step["name"], step["detail"]) for step in answer["steps"]] == [("spec", "notify")]
    assert not site.apply(moved)["changed"]
    assert json.loads(site.host.read("/etc/farrier/bell/app.json"))["notify"] == moved["notify"]
    assert site.host.shell("systemctl show -P MainPID bell@blue bell@green") == pid
    last = site.farrier("list", "bell")["history"][-1]
    assert (last["action"], last["outcome"], last["message"]) == ("settings", "good", "notify")
    told = json.dumps([preview, answer, site.farrier("show", "bell"), site.farrier("list", "bell")])
    files = site.host.shell(
        "cat /srv/bell/state.json /srv/bell/events.jsonl /srv/bell/releases/*/release.json"
    )
    assert SECRET not in told + files + site.host.shell("journalctl -q --no-pager -u 'bell@*' -u '*-bell'")
    assert site.host.shell("stat -c %a /etc/farrier/bell/app.json").strip() == "600"
