"""What must not be read by other users of the host, nor told to anybody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.systemd
Tree = Callable[[str], dict[str, str]]
PORT = 8601
SECRET = "s3cret-of-the-app"
DEPLOYED_WITH = "tok3n-of-the-forge"


@pytest.fixture(scope="module")
def safe(site: Any, hello_tree: Tree) -> Iterator[dict[str, Any]]:
    tree = {**hello_tree("one"), ".env": f"API_KEY={SECRET}\n"}
    spec = site.spec("safe", tree, bind=f"127.0.0.1:{PORT}", env_files=[".env"], env={"TOKEN": SECRET + "2"})
    site.apply(spec)
    yield spec
    site.remove("safe")


def everything_told(site: Any) -> str:
    return str(
        site.host.shell(
            "cat /srv/safe/state.json /srv/safe/events.jsonl /srv/safe/releases/*/release.json; "
            "journalctl --no-pager -u farrier-deploy-safe"
        )
    )


def test_other_users_cannot_look_into_a_release(site: Any, safe: dict[str, Any]) -> None:
    as_other = ["runuser", "-u", "nobody", "--", "sh", "-c"]
    for path in (
        "/srv/safe/current/src/.env",
        "/srv/safe/current/release.json",
        "/srv/safe/state.json",
        "/srv/safe/events.jsonl",
        "/srv/safe/lock",
        "/srv/safe/shared/.",
    ):
        assert site.host.run([*as_other, f"test ! -r {path}"], check=False).returncode == 0, path
    modes = site.host.shell("stat -c '%a %U %G' /srv/safe/releases/*/ /srv/safe/state.json /srv/safe")
    assert modes.splitlines() == ["750 root safe", "640 root safe", "755 root root"]
    loose = "find /srv/safe /var/lib/farrier/cache/safe -perm -o+w ! -type l"
    assert site.host.shell(f"{loose} | grep -v '^/var/lib/farrier/cache/safe/' || true").strip() == ""
    assert site.host.shell("stat -c %a /var/lib/farrier/cache/safe").strip() == "700"


def test_a_failed_command_tells_its_last_words_but_no_secret(site: Any, safe: dict[str, Any]) -> None:
    script = (
        "import os, sys\n"
        "print('Error: a harmless one that was handled')\n"
        "print('connecting with', os.environ['TOKEN'])\n"
        "print('first', file=sys.stderr)\n"
        "print('psycopg says: no route to', os.environ['API_KEY'], file=sys.stderr)\n"
        "print('giving up', file=sys.stderr)\n"
        "os._exit(7)\n"
    )
    tree = {"main.py": "app = lambda e, s: []\n", "fail.py": script, ".env": f"API_KEY={SECRET}\n"}
    line = site.refused({**safe, "source": site.upload(tree), "commands": {"migrate": ["python fail.py"]}})
    told = "first | psycopg says: no route to *** | giving up (exit status 7)"
    assert line.endswith(f"commands.migrate: python fail.py: {told}")
    assert "connecting with ***" in site.host.read("/srv/safe/events.jsonl")
    assert SECRET not in everything_told(site)


def test_credentials_in_addresses_are_kept_to_git(site: Any, safe: dict[str, Any]) -> None:
    """A private repository by http: the server sees the password, nobody else does."""
    host = site.host
    host.shell(
        "rm -rf /srv/http && mkdir -p /srv/http/tree && cd /srv/http/tree && "
        "printf 'app = None\\n' > other.py && "
        "G='git -c user.name=t -c user.email=t@example.org -c init.defaultBranch=main'; "
        "$G init -q . && $G add . && $G commit -qm one && git clone -q --bare . ../books.git && "
        "cd ../books.git && git update-server-info"
    )
    host.write("/srv/http/serve.py", SERVER)
    try:
        host.shell("systemd-run --unit=forge python3 /srv/http/serve.py")
        site.wait_for("the forge", "ss -ltn | grep -q :8698")
        address = f"http://deployer:{DEPLOYED_WITH}@127.0.0.1:8698/books.git"
        host.shell(
            "cat > /usr/local/sbin/git <<'END'\n#!/bin/sh\necho \"$@\" >> /tmp/git.seen\nexec /usr/bin/git "
            '"$@"\nEND\nchmod 755 /usr/local/sbin/git; rm -f /tmp/git.seen'
        )
        line = site.refused({**safe, "source": {"type": "git", "repo": address, "ref": "main"}})
        # It got as far as the code.
        assert "env_files: given .env" in line or "main" in line
        assert "does not have" not in line
        wrong = address.replace(DEPLOYED_WITH, "wrong-password")
        line = site.refused({**safe, "source": {"type": "git", "repo": wrong, "ref": "main"}})
        assert line.startswith("source.repo: http://127.0.0.1:8698/books.git: ")
        assert "wrong-password" not in line
        seen = host.read("/tmp/git.seen")
        assert "ls-remote -- http://127.0.0.1:8698/books.git" in seen
        assert DEPLOYED_WITH not in seen + everything_told(site)
        assert host.run(["grep", "-rl", DEPLOYED_WITH, "/srv/safe", "/run"], check=False).stdout == ""
    finally:
        host.shell("systemctl stop forge; rm -rf /srv/http /usr/local/sbin/git /tmp/git.seen")


SERVER = f"""\
import base64, http.server, os

class Forge(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        want = "Basic " + base64.b64encode(b"deployer:{DEPLOYED_WITH}").decode()
        if self.headers.get("Authorization") != want:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="forge"')
            self.end_headers()
        else:
            super().do_GET()

os.chdir("/srv/http")
http.server.ThreadingHTTPServer(("127.0.0.1", 8698), Forge).serve_forever()
"""


def test_history_is_not_served(site: Any, safe: dict[str, Any], hello_tree: Tree) -> None:
    """Build commands may ask git; what serves has no .git."""
    site.host.write("/srv/repo/main.py", hello_tree("from git")["main.py"])
    site.host.write("/srv/repo/.env", f"API_KEY={SECRET}\n")
    site.host.shell(
        "cd /srv/repo && G='git -c user.name=t -c user.email=t@example.org -c init.defaultBranch=main'; "
        "$G init -q . && $G add -f . && $G commit -qm one"
    )
    try:
        source = {"type": "git", "repo": "file:///srv/repo", "ref": "main"}
        site.apply({**safe, "source": source, "commands": {"build": ["git rev-parse HEAD > COMMIT"]}})
        assert site.get(PORT).startswith("from git")
        src = "/srv/safe/current/src"
        assert len(site.host.read(f"{src}/COMMIT").strip()) == 40
        assert site.host.run(["test", "-e", f"{src}/.git"], check=False).returncode
    finally:
        site.host.run(["rm", "-rf", "/srv/repo"])
