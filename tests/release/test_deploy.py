"""What a deploy does on a real systemd host."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.systemd
Tree = Callable[[str], dict[str, str]]


@pytest.fixture(scope="module")
def bare(site: Any) -> str:
    """The host before anything was deployed; uploads of other tests' refused runs are none of its."""
    site.host.run(["rm", "-rf", "/var/lib/farrier"])
    return str(site.snapshot())


@pytest.fixture(scope="module")
def shop(site: Any, bare: str, hello_tree: Tree) -> Iterator[dict[str, Any]]:
    """An app that serves; the tests of this file change it and leave it serving."""
    spec = site.spec("shop", hello_tree("one"), bind="127.0.0.1:8101")
    preview = site.apply(spec, "--check", "--diff")
    site.host.run(["rm", "-rf", "/var/lib/farrier"])
    assert site.snapshot() == bare, "check mode touched the host"
    spec = site.spec("shop", hello_tree("one"), bind="127.0.0.1:8101")
    answer = site.apply(spec)
    spec["answer"], spec["preview"] = answer, preview
    yield spec
    site.remove("shop")


def plain(spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**{k: v for k, v in spec.items() if k not in ("answer", "preview")}, **more}


def test_a_bare_host_can_be_previewed(shop: dict[str, Any]) -> None:
    preview = shop["preview"]
    assert preview["changed"]
    names = [step["name"] for step in preview["steps"]]
    assert {"account", "source", "venv", "dependencies", "check", "start", "switch"} <= set(names)
    headers = " ".join(one["after_header"] for one in preview["diff"])
    assert all(part in headers for part in ("shop.socket", "shop@.service", "plan.json", "/env"))
    assert preview["plan"]["workers"] >= 1


def test_the_first_deploy_serves(site: Any, shop: dict[str, Any]) -> None:
    assert site.get(8101) == "one blue"
    assert shop["answer"]["changed"]
    assert shop["answer"]["url"] == "http://127.0.0.1:8101"
    assert site.host.shell("systemctl is-enabled shop.socket").strip() == "enabled"
    owners = site.host.shell("stat -c %U:%a /srv/shop /srv/shop/shared /etc/farrier/shop/blue/env")
    assert owners.split() == ["root:755", "shop:750", "root:600"]


def _seconds(text: str) -> float:
    """``0m0.412s`` as a number."""
    minutes, _, seconds = text.rstrip("s").partition("m")
    return 60 * float(minutes) + float(seconds)


def test_the_second_apply_changes_nothing_and_is_fast(site: Any, shop: dict[str, Any]) -> None:
    spec = plain(shop)
    site.host.write("/tmp/spec.json", json.dumps(spec))
    answer = site.farrier("apply", "/tmp/spec.json")
    assert not answer["changed"], answer
    assert answer["release"] == shop["answer"]["release"]
    # By the launcher, as a person types it; CPU seconds, for these cores are shared with other tests.
    times = site.host.shell("farrier release apply /tmp/spec.json; times").split()
    assert sum(_seconds(text) for text in times[-2:]) < 1.0, times
    assert not site.apply(spec, "--check", "--diff")["changed"]


def test_new_code_goes_to_the_other_colour_without_a_lost_request(
    site: Any, shop: dict[str, Any], hello_tree: Tree
) -> None:
    script = (
        "import http.client,sys,time\n"
        "bad=n=0\nend=time.time()+60\n"
        "import os\n"
        "while not os.path.exists('/tmp/enough') and time.time()<end:\n"
        "    try:\n"
        "        c=http.client.HTTPConnection('127.0.0.1',8101,timeout=30); c.request('GET','/')\n"
        "        r=c.getresponse(); ok=r.status==200 and len(r.read())>3; c.close()\n"
        "    except OSError: ok=False\n"
        "    n+=1; bad+=not ok; time.sleep(0.005)\n"
        "print(n,bad)\n"
    )
    site.host.run(["rm", "-f", "/tmp/enough"])
    command = [*site.host.docker.command, "exec", site.host.container, "python3", "-c", script]
    load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    spec = site.spec("shop", hello_tree("two"), bind="127.0.0.1:8101")
    answer = site.apply(spec)
    site.host.run(["touch", "/tmp/enough"])
    sent, bad = (load.communicate(timeout=60)[0] or "0 0").split()
    assert site.get(8101) == "two green"
    assert answer["plan"]["strategy"] in ("overlap", "rolling")
    assert int(sent) > 50
    assert int(bad) == 0
    shop.update(spec)


def test_settings_alone_are_a_reload(site: Any, shop: dict[str, Any]) -> None:
    before = site.host.shell("systemctl show -P MainPID shop@green")
    answer = site.apply(plain(shop, settings={"workers": 1, "threads": 2}))
    assert site.host.shell("systemctl show -P MainPID shop@green") == before
    steps = [step["name"] for step in answer["steps"] if step["changed"]]
    # A limit that gets lower comes after the workers that are too many have gone.
    assert steps in (["files", "reload"], ["files", "reload", "limits"])
    site.wait_for("one worker", "test $(pgrep -c -P $(systemctl show -P MainPID shop@green)) = 1")
    assert not site.apply(plain(shop, settings={"workers": 1, "threads": 2}))["changed"]
    # The new limits hold at once, without a restart.
    limit = int(site.host.shell("systemctl show -P MemoryMax shop@green"))
    assert limit == answer["plan"]["memory_max"]


VALUES = {
    "QUOTES": "a \"double\" and a 'single'",
    "DOLLAR": "$HOME ${PATH} %h %%",
    "BACK": "c:\\new\\ \\\\ \\n `x`",
    "LINES": "first\nsecond\n\ttabbed",
    "HASH": "#not a comment ; nor this",
    "UNICODE": "Grüße, 世界 🐎",
    "SPACES": "  kept  ",
    "EMPTY": "",
}
ECHO = """\
import json, os

def app(environ, start_response):
    body = json.dumps(dict(os.environ)).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def test_every_environment_value_arrives_as_given(site: Any, shop: dict[str, Any]) -> None:
    dotenv = "export FROM_FILE='as $it is'\nEMPTY=from the file\nBOTH=\"a\\nb\" # said twice\n"
    tree = {"main.py": ECHO, "conf/.env": dotenv}
    spec = site.spec("shop", tree, bind="127.0.0.1:8101", env=VALUES, env_files=["conf/.env"])
    site.apply(spec)
    seen = json.loads(site.get(8101))
    assert {name: seen[name] for name in VALUES} == VALUES
    assert seen["FROM_FILE"] == "as $it is"
    assert seen["BOTH"] == "a\nb"
    shop.update(spec)
    shop["env"], shop["env_files"] = VALUES, ["conf/.env"]


def test_a_changed_environment_restarts_and_masks_its_secrets(site: Any, shop: dict[str, Any]) -> None:
    before = site.state("shop")
    changed = plain(shop, env={**VALUES, "SECRET": "hunter2hunter2"})
    preview = site.apply(changed, "--check", "--diff")
    assert "hunter2" not in json.dumps(preview)
    assert any("SECRET=" in one["after"] for one in preview["diff"])
    site.apply(changed)
    after = site.state("shop")
    assert after["release"] == before["release"]
    assert after["active"] != before["active"]
    assert json.loads(site.get(8101))["SECRET"] == "hunter2hunter2"
    shop["env"] = changed["env"]


def test_rollback_serves_the_release_before(site: Any, shop: dict[str, Any]) -> None:
    before = site.state("shop")
    site.farrier("rollback", "shop")
    after = site.state("shop")
    assert after["release"] == before["previous"]
    assert site.get(8101).startswith("two ")
    listed = site.farrier("list", "shop")["releases"]
    assert [one["id"] for one in listed if one["active"]] == [after["release"]]
    refused = site.farrier("rollback", "shop", "--to", "nosuch", check=False)
    told = "shop: given release nosuch, which did not serve here or is not kept; allowed: 20"
    assert refused["msg"].startswith(told)


def test_the_units_are_valid_and_confined(site: Any, shop: dict[str, Any]) -> None:
    active = site.state("shop")["active"]
    said = site.host.run(["systemd-analyze", "verify", "shop.socket", f"shop@{active}.service"], check=False)
    complaints = [line for line in (said.stdout + said.stderr).splitlines() if "shop" in line]
    assert complaints == []
    score = site.host.shell(f"systemd-analyze security --no-pager shop@{active}.service | tail -1")
    exposure = float(score.split(":")[1].split()[0])
    assert exposure <= 2.5, score
    # The app's user may write its shared folder and nothing of its code.
    site.host.run(["test", "-w", "/srv/shop/shared"], user="shop")


def test_the_socket_comes_first_after_a_crash_of_everything(site: Any, shop: dict[str, Any]) -> None:
    active = site.state("shop")["active"]
    site.host.run(["systemctl", "kill", "-s", "KILL", f"shop@{active}"])
    assert site.get(8101)
    site.wait_for(f"{active}", f"systemctl is-active shop@{active}")


def test_a_new_address_moves_the_socket(site: Any, shop: dict[str, Any]) -> None:
    site.apply(plain(shop, bind="unix:/run/shop-test/app.sock"))
    script = (
        "import socket; s=socket.socket(socket.AF_UNIX); s.connect('/run/shop-test/app.sock');"
        "s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); print(s.recv(40).decode())"
    )
    assert "200 OK" in site.host.run(["python3", "-c", script]).stdout
    site.apply(plain(shop))
    assert site.get(8101)
    assert site.host.run(["test", "-e", "/run/shop-test/app.sock"], check=False).returncode
