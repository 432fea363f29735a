"""A release that is bad only once it serves: watched under a client, turned back, and remembered."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.systemd
PORT = 8821
SECONDS = 15
# What it does with a request for /bad is all that differs between releases.
APP = """\
import os, signal, time

VERSION = "{version}"
KEPT = []
DIES = time.time() + 4


def app(environ, start_response):
    status = "200 OK"
    if environ["PATH_INFO"] == "/bad":
        {harm}
    body = VERSION.encode()
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""
# Four lanes, half of them for /bad, each with a new connection per request, none of which is tried again.
CLIENT = """\
import http.client, json, pathlib, sys, threading, time

port, stop, out = int(sys.argv[1]), pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
seen = []


def lane(path):
    while not stop.exists():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            seen.append([path, answer.status, answer.read().decode()[:40]])
        except Exception as error:
            seen.append([path, 0, repr(error)])
        connection.close()
        time.sleep(0.02)


lanes = [threading.Thread(target=lane, args=(path,)) for path in ("/", "/bad") * 2]
for one in lanes:
    one.start()
for one in lanes:
    one.join()
out.write_text(json.dumps(seen))
"""


class Client:
    """Traffic on the host, from when it is made until :meth:`end`."""

    def __init__(self, site: Any, port: int) -> None:
        self.site = site
        site.host.write("/run/client.py", CLIENT)
        site.host.shell(
            "rm -f /run/client.stop /run/client.json; systemctl reset-failed client 2>/dev/null || true; "
            f"systemd-run --quiet --unit=client python3 /run/client.py {port} "
            "/run/client.stop /run/client.json"
        )

    def end(self) -> list[tuple[str, int, str]]:
        """Every request that was made: path, status (0: none came), body or error."""
        self.site.host.shell("touch /run/client.stop")
        self.site.wait_for("the client", "test -e /run/client.json", 60)
        found = [tuple(one) for one in json.loads(self.site.host.read("/run/client.json"))]
        self.site.host.shell("rm -f /run/client.*")
        return found


def tree(version: str, harm: str = 'status = os.environ.get("HARM", status)') -> dict[str, str]:
    return {"main.py": APP.format(version=version, harm=harm)}


@pytest.fixture(scope="module")
def watched(site: Any) -> Iterator[dict[str, Any]]:
    """An app whose release one is good and stays in force throughout this file."""
    settings = {
        "workers": 2,
        "worker_class": "sync",
        "memory_max": "160MiB",
        "graceful_timeout": 5,
        "strategy": "overlap",
    }
    spec = site.spec("watched", tree("one"), bind=f"127.0.0.1:{PORT}", settings=settings)
    site.apply(spec)
    spec["guard"] = {"seconds": SECONDS}
    site.apply(spec)
    yield spec
    site.remove("watched")


@pytest.fixture
def client(site: Any, watched: dict[str, Any]) -> Iterator[Client]:
    """A client that has been at release one for a while, so that there is something to compare with."""
    client = Client(site, PORT)
    time.sleep(2)
    yield client
    site.host.shell("touch /run/client.stop; systemctl stop client 2>/dev/null || true")


ERRORS = 'status = "500 Internal Server Error"'
ERRORS_TOLD = r"\d+(\.\d)? % of \d+ responses were errors \(before: 0 %\)"
HARM = {
    "errors": (ERRORS, ERRORS_TOLD),
    "slow": (
        "time.sleep(0.7)",
        r"95 % of \d+ responses took up to [\d.]+ m?s \(before: [\d.]+ ms; allowed: 3 times",
    ),
    "leak": (
        'KEPT.append(bytearray(b"x" * (8 << 20)))',
        r"the kernel killed \d+ process(es)? of it for memory",
    ),
    # Not at once: it would have answered nobody.
    "hang": (
        "KEPT.append(1) or len(KEPT) > 3 and time.sleep(3600)",
        r"nothing was answered for \d+ s, with 2 requests in hand \(before: \d+\.\d responses a second",
    ),
    "crash": ("os._exit(3)", r"workers ended badly: \d+ crashed \(before: none in \d+ s\)"),
    # Not at once: a candidate that dies before the switch never serves.
    "death": (
        "DIES < time.time() and os.kill(os.getppid(), signal.SIGKILL)",
        r"the service died and was started again once",
    ),
}


@pytest.mark.parametrize("kind", HARM)
def test_a_bad_release_is_turned_back_by_itself(
    site: Any, watched: dict[str, Any], client: Client, kind: str
) -> None:
    harm, told = HARM[kind]
    good = site.state("watched")["release"]
    bad_spec = {**watched, "source": site.upload(tree("two", harm)), "who": "kate@laptop"}
    answer = site.apply(bad_spec, check=False)
    seen = client.end()
    assert answer["failed"], answer
    assert re.search(told, answer["msg"]), answer["msg"]
    within = re.search(r", (\d+) s after the switch", answer["msg"])
    assert within is not None, answer["msg"]
    assert int(within[1]) <= SECONDS
    assert "\n" not in answer["msg"]
    # One serves again, and two is kept, marked and remembered.
    state = site.state("watched")
    assert (state["release"], state["run"]) == (good, {})
    assert site.get(PORT, "/bad") == "one"
    found = site.farrier("list", "watched")
    run = found["history"][-1]
    assert (run["outcome"], run["who"], run["from"]) == ("rolled back", "kate@laptop", good)
    assert re.search(told, run["message"])
    marked = {one["id"]: one["bad"] for one in found["releases"] if one["bad"]}
    assert marked[run["release"]]["who"] == "guard"
    assert re.search(told, marked[run["release"]]["why"])
    # It is refused from now on, before anything changes; what serves is as it is wanted.
    refused = site.refused(bad_spec)
    assert run["release"] in refused
    assert re.search(told, refused)
    assert "--retry-bad" in refused
    assert not site.apply(watched)["changed"]
    # What failed was what two did to /bad, and nothing else.
    lost = [one for one in seen if one[1] != 200]
    innocent = [one for one in lost if one[0] != "/bad"]
    if kind in ("leak", "death"):
        # A worker that is killed may have had another request in hand: one for each worker that ended.
        assert len(innocent) <= 4, innocent
    else:
        assert innocent == []
    if kind in ("errors", "slow"):
        assert [one for one in lost if one[1:] != (500, "two")] == []
    print(f"{kind}: {len(seen)} requests, {len(lost)} failed, {len(innocent)} not for /bad: {answer['msg']}")
    print(site.host.shell("farrier release list watched"))
    versions = [body for path, status, body in seen if status == 200]
    assert {"one", "two"} <= set(versions)
    assert versions[-1] == "one"


# As if what serves beside it had all the memory: it eats until the kernel ends it.
CRAMPED = """
import json

def beside():
    for colour in {"blue", "green"} - {os.environ.get("FARRIER_INSTANCE")}:
        try:
            os.kill(json.load(open(f"/run/farrier/cramped/{colour}.json"))["pid"], 0)
            return True
        except (OSError, ValueError):
            pass

while os.path.exists("/srv/cramped/shared/full") and beside():
    KEPT.append(bytearray(b"x") * (8 << 20))
"""


@pytest.mark.parametrize("who", ["the guard", "a person"])
def test_what_has_no_room_beside_a_bad_release_comes_back_in_its_place(site: Any, who: str) -> None:
    settings = {"workers": 2, "worker_class": "sync", "graceful_timeout": 5, "strategy": "overlap"}
    good_tree = {"main.py": tree("one")["main.py"] + CRAMPED}
    spec = site.spec("cramped", good_tree, bind=f"127.0.0.1:{PORT + 2}", settings=settings)
    try:
        good = site.apply(spec)["release"]
        site.host.shell("touch /srv/cramped/shared/full")
        client = Client(site, PORT + 2)
        time.sleep(2)
        seconds = SECONDS if who == "the guard" else 0
        bad = {**spec, "source": site.upload(tree("two", ERRORS)), "guard": {"seconds": seconds}}
        answer = site.apply(bad, check=False)
        if who == "the guard":
            assert re.search(HARM["errors"][1], answer["msg"]), answer["msg"]
        else:
            assert site.get(PORT + 2) == "two"
            answer = site.farrier("rollback", "cramped")
        seen = client.end()
        undone = [step["detail"] for step in answer["steps"] if step["name"] == "undo"]
        assert len(undone) == 1, answer["steps"]
        assert "in the place of what serves, because beside it: " in undone[0]
        assert "memory" in undone[0]
        assert (site.state("cramped")["release"], site.state("cramped")["run"]) == (good, {})
        assert site.get(PORT + 2, "/bad") == "one"
        assert [one for one in seen if one[0] != "/bad" and one[1] != 200] == []
        assert answer["warnings"] == []
    finally:
        site.host.shell("touch /run/client.stop; rm -f /srv/cramped/shared/full")
        site.remove("cramped")


NEEDS = """

def ready():
    if not os.path.exists("/srv/needs/shared/database"):
        raise RuntimeError("no database")
"""


# Once two serves.
OUTAGE = """\
import os, sys, time, urllib.request
while urllib.request.urlopen(sys.argv[1]).read() != b"two":
    time.sleep(0.1)
os.unlink("/srv/needs/shared/database")
"""


def test_what_cannot_come_back_takes_nothing_with_it(site: Any) -> None:
    """The database goes while the release is watched: neither is ready without it, and the new one serves."""
    settings = {"workers": 2, "worker_class": "sync", "graceful_timeout": 5, "strategy": "overlap"}
    gone = 'status = status if os.path.exists("/srv/needs/shared/database") else "500 No Database"'
    spec = site.spec("needs", {"main.py": tree("one")["main.py"] + NEEDS}, bind=f"127.0.0.1:{PORT + 3}")
    spec |= {"settings": settings, "start_timeout": 8}
    try:
        site.apply(spec)
        site.host.shell("touch /srv/needs/shared/database")
        spec["ready"] = "main:ready"
        site.apply(spec)
        client = Client(site, PORT + 3)
        time.sleep(2)
        two = {**spec, "source": site.upload({"main.py": tree("two", gone)["main.py"] + NEEDS})}
        site.host.write("/run/outage.py", OUTAGE)
        site.host.shell(
            "systemd-run --quiet --collect --unit=needs-outage "
            f"python3 /run/outage.py http://127.0.0.1:{PORT + 3}/"
        )
        answer = site.apply({**two, "guard": {"seconds": SECONDS}}, check=False)
        assert answer["failed"]
        assert re.search(HARM["errors"][1], answer["msg"]), answer["msg"]
        assert "no database" in answer["msg"]
        assert site.get(PORT + 3) == "two"
        seen = client.end()
        assert [one for one in seen if one[0] != "/bad" and one[1] != 200] == []
    finally:
        site.host.shell("touch /run/client.stop; systemctl stop needs-outage 2>/dev/null || true")
        site.remove("needs")


def test_without_traffic_nobody_knows(site: Any, watched: dict[str, Any]) -> None:
    good = site.state("watched")["release"]
    silent = {**watched, "guard": {"seconds": 3}, "source": site.upload(tree("mute", ERRORS))}
    began = time.monotonic()
    answer = site.apply(silent)
    assert time.monotonic() - began > 3
    step = next(one for one in answer["steps"] if one["name"] == "guard")
    assert step["seconds"] >= 3
    assert site.get(PORT) == "mute"
    site.farrier("rollback", "watched", "--to", good)


def test_a_changed_environment_is_taken_back(site: Any, watched: dict[str, Any], client: Client) -> None:
    """The release is not to blame: it serves again, with the environment that it had, and without a mark."""
    site.apply(watched)
    good = site.state("watched")["release"]
    harm = {**watched, "env": {"HARM": "500 Internal Server Error"}}
    answer = site.apply(harm, check=False)
    seen = client.end()
    assert re.search(HARM["errors"][1], answer["msg"]), answer["msg"]
    assert "what was changed was taken back" in answer["msg"]
    assert [one for one in seen if one[1] not in (200, 500)] == []
    state = site.state("watched")
    assert state["release"] == good
    assert "HARM" not in site.host.read(f"/etc/farrier/watched/{state['active']}/env")
    assert not [
        one for one in site.farrier("list", "watched")["releases"] if one["id"] == good and one["bad"]
    ]
    again = site.apply(watched, "--diff")
    assert not again["changed"], (again["steps"], again["diff"])


def test_the_release_before_was_no_better(site: Any, watched: dict[str, Any]) -> None:
    good = site.state("watched")["release"]
    silent = {**watched, "guard": {"seconds": 0}, "source": site.upload(tree("as-bad", ERRORS))}
    site.apply(silent)
    client = Client(site, PORT)
    time.sleep(2)
    answer = site.apply(
        {**watched, "guard": {"seconds": 6}, "source": site.upload(tree("no-better", ERRORS))}
    )
    client.end()
    assert not answer["failed"]
    assert site.get(PORT) == "no-better"
    site.farrier("rollback", "watched", "--to", good)


@pytest.mark.parametrize("how", ["systemctl stop", "systemctl kill -s KILL"])
def test_who_ends_the_watch_leaves_the_new_release(site: Any, watched: dict[str, Any], how: str) -> None:
    version = "stopped" if "stop" in how else "killed"
    spec = {**watched, "source": site.upload(tree(version)), "guard": {"seconds": 60}}
    site.host.write("/run/watched.json", json.dumps(spec))
    site.host.shell(": > /srv/watched/events.jsonl")
    site.host.shell(
        f"systemd-run --quiet --collect --unit=watched-apply -E PYTHONPATH={site.wheel} "
        "python3 -m farrier release apply /run/watched.json"
    )
    watching = 'grep -q \'"step": "guard"\' /srv/watched/events.jsonl'
    site.wait_for("the guard", watching, 120)
    site.host.shell(f"{how} farrier-deploy-watched")
    site.wait_for("its end", "! systemctl is-active farrier-deploy-watched", 30)
    assert site.get(PORT) == version
    # Nothing waits for the next run: whoever ends the watch, the spec in force is that of what serves.
    site.wait_for("rest", "grep -q '\"run\": {}' /srv/watched/state.json", 30)
    in_force = json.loads(site.host.read("/etc/farrier/watched/app.json"))
    assert (in_force["source"]["sha256"], in_force["guard"]["seconds"]) == (spec["source"]["sha256"], 60)
    answer = site.apply({**spec, "guard": {"seconds": 0}})
    assert not answer["failed"]
    assert site.get(PORT) == version
    assert site.state("watched")["run"] == {}
    runs = [run for run in site.farrier("list", "watched")["history"] if "ended at guard" in run["message"]]
    assert runs, site.farrier("list", "watched")["history"][-2:]
    assert runs[-1]["release"] == site.state("watched")["release"]
    colours = site.host.shell("systemctl list-units 'watched@*' --plain --no-legend | grep -c running")
    assert colours.strip() == "1"


def test_a_first_release_has_nothing_to_go_back_to(site: Any) -> None:
    spec = site.spec("fresh", tree("one", ERRORS), bind=f"127.0.0.1:{PORT + 1}")
    spec |= {"settings": {"workers": 1}, "guard": {"seconds": SECONDS}}
    client = Client(site, PORT + 1)
    try:
        answer = site.apply(spec)
        assert [line for line in answer["warnings"] if "responses were errors" in line], answer["warnings"]
        assert "there is no release to go back to" in answer["warnings"][0]
        assert site.get(PORT + 1) == "one"
    finally:
        client.end()
        site.remove("fresh")
