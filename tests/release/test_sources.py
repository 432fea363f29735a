"""Where code comes from, and dependencies installed as they are locked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.systemd
Tree = Callable[[str], dict[str, str]]
PORT = 8301
BIND = f"127.0.0.1:{PORT}"
GIT = "git -c user.name=t -c user.email=t@example.org -c init.defaultBranch=main"


@pytest.fixture
def gone(site: Any) -> Iterator[str]:
    """The name of an app that is taken away after the test."""
    yield "books"
    site.remove("books")


def test_git_by_ssh_with_a_deploy_key(site: Any, gone: str, hello_tree: Tree) -> None:
    """A branch that moves is a new release; the wrong key, or none, is one line."""
    host = site.host
    host.write("/srv/git/tree/main.py", hello_tree("git one")["main.py"])
    host.shell(
        "cd /srv/git/tree && rm -rf .git ../books.git && "
        f"{GIT} init -q . && {GIT} add . && {GIT} commit -qm one && git clone -q --bare . ../books.git; "
        "id gitter >/dev/null 2>&1 || useradd -m -s /bin/bash gitter; chown -R gitter /srv/git/books.git; "
        "mkdir -p ~gitter/.ssh /tmp/keys; rm -f /tmp/keys/*; "
        "ssh-keygen -qt ed25519 -N '' -f /tmp/keys/right; ssh-keygen -qt ed25519 -N '' -f /tmp/keys/wrong; "
        "cp /tmp/keys/right.pub ~gitter/.ssh/authorized_keys; chown -R gitter: ~gitter/.ssh"
    )
    try:
        source = {"type": "git", "repo": "gitter@127.0.0.1:/srv/git/books.git", "ref": "main"}
        spec = site.spec(gone, bind=BIND)
        line = site.refused({**spec, "source": source})
        assert line == f"source.repo: {source['repo']}: permission denied without a deploy key"
        wrong = {**source, "deploy_key": host.read("/tmp/keys/wrong")}
        assert "permission denied with this deploy key" in site.refused({**spec, "source": wrong})
        right = {**source, "deploy_key": host.read("/tmp/keys/right")}
        spec["source"] = right
        site.apply(spec)
        assert site.get(PORT).startswith("git one")
        assert not site.apply(spec)["changed"]
        # The key is not left where an app, or a backup of its folder, could read it.
        found = host.run(["grep", "-rl", "OPENSSH PRIVATE KEY", f"/srv/{gone}", "/run"], check=False).stdout
        assert found.strip() == ""
        host.write("/srv/git/tree/main.py", hello_tree("git two")["main.py"])
        host.shell(
            f"cd /srv/git/tree && {GIT} commit -qam two && chown -R root /srv/git/books.git && "
            "git push -q ../books.git HEAD:main && chown -R gitter /srv/git/books.git"
        )
        assert site.apply(spec)["changed"]
        assert site.get(PORT).startswith("git two")
        missing = {**spec, "source": {**right, "ref": "nosuch"}}
        assert "source.ref: given nosuch, which" in site.refused(missing)
    finally:
        host.shell("userdel -rf gitter >/dev/null 2>&1; rm -rf /srv/git /tmp/keys")


def test_a_published_package_by_requirement_alone(site: Any, gone: str) -> None:
    """httpbin: a Flask app from the package index that nobody here wrote."""
    site.apply(
        site.spec(
            gone,
            bind=BIND,
            app="httpbin:app",
            source={"type": "requirement", "requirement": "httpbin==0.10.2"},
        )
    )
    assert json.loads(site.get(PORT, "/get?a=b"))["args"] == {"a": "b"}


PROJECT = """\
[project]
name = "books"
version = "1.0"
requires-python = ">=3.10"
dependencies = ["itsdangerous>=2"]
[build-system]
requires = ["setuptools>=70"]
build-backend = "setuptools.build_meta"
"""
SRC_APP = """\
import itsdangerous

def app(environ, start_response):
    body = f"{itsdangerous.__version__} {__file__}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def test_a_src_layout_with_uv_lock_is_installed_as_locked(site: Any, gone: str, tmp_path: Path) -> None:
    """The lock's version, although the project would allow a newer one; the package itself from src/."""
    project = PROJECT.replace("itsdangerous>=2", "itsdangerous==2.1.2")
    tree = {"pyproject.toml": project, "src/books/__init__.py": SRC_APP}
    for name, text in tree.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    uv = str(Path(sys.executable).parent / "uv")
    subprocess.run([uv, "lock", "-q", "--project", str(tmp_path)], check=True, capture_output=True)
    lock = (tmp_path / "uv.lock").read_text()
    # What the lock says holds, not what pyproject.toml would allow now.
    relaxed = lock.replace('specifier = "==2.1.2"', 'specifier = ">=2"')
    tree = {**tree, "pyproject.toml": PROJECT, "uv.lock": relaxed}
    site.apply(site.spec(gone, tree, bind=BIND, app="books:app"))
    assert site.get(PORT).startswith("2.1.2 ")
    assert "/src/src/books/__init__.py" in site.get(PORT)


def test_hashes_are_honoured_by_pip(site: Any, gone: str) -> None:
    """A wrong hash is refused; a bare ``farrier`` is the one that deploys."""
    wrong = "0" * 64
    tree = {"main.py": SRC_APP, "requirements.txt": f"itsdangerous==2.2.0 --hash=sha256:{wrong}\n"}
    spec = site.spec(gone, tree, bind=BIND, installer="pip")
    line = site.refused(spec)
    assert "HASH" in line.upper()
    plain = {"main.py": SRC_APP, "requirements.txt": "itsdangerous==2.2.0\nfarrier\n"}
    site.apply({**spec, "source": site.upload(plain)})
    assert site.get(PORT).startswith("2.2.0 ")
    ask = "import importlib.metadata as m; print(m.version('farrier'))"
    version = site.host.run([f"/srv/{gone}/current/venv/bin/python", "-c", ask]).stdout
    assert version.strip() in site.wheel


def test_an_old_gunicorn_can_be_installed_over(site: Any, gone: str) -> None:
    tree = {"main.py": SRC_APP, "requirements.txt": "itsdangerous==2.2.0\ngunicorn==23.0.0\n"}
    spec = site.spec(gone, tree, bind=BIND)
    assert "pins gunicorn 23.0.0" in site.refused(spec)
    site.apply({**spec, "override_gunicorn": True})
    assert site.get(PORT).startswith("2.2.0 ")
    assert site.farrier("list", gone)["releases"][-1]["gunicorn"].startswith("27.")


def test_an_asgi_app_gets_an_asgi_worker_and_shared_folders_stay(site: Any, gone: str) -> None:
    app = """\
import os
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    with open("media/count", "a") as f:
        f.write("x")
    body = str(os.path.getsize("media/count")).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
    tree = {"main.py": app, "media/seed.txt": "from the source"}
    spec = site.spec(gone, tree, bind=BIND, shared=["media"])
    answer = site.apply(spec)
    assert answer["plan"]["worker_class"] == "asgi"
    assert site.get(PORT) == "1"
    site.apply({**spec, "source": site.upload({**tree, "VERSION": "2"})})
    assert site.get(PORT) == "2"
    assert site.host.read(f"/srv/{gone}/shared/media/seed.txt") == "from the source"
    line = site.refused({**spec, "settings": {"worker_class": "sync"}})
    assert "settings.worker_class: given sync, but main:app is ASGI; allowed: asgi, uvicorn" in line


def test_a_class_brings_the_package_that_it_needs(site: Any, gone: str, hello_tree: Tree) -> None:
    """The app asks for nothing but the class: gevent comes with the runtime, and nothing is preloaded."""
    spec = site.spec(gone, hello_tree("green"), bind=BIND, settings={"worker_class": "gevent"})
    site.apply(spec)
    assert site.get(PORT).startswith("green")
    site.host.shell(f"/srv/{gone}/current/venv/bin/python -c 'import gevent'")
    plan = json.loads(site.host.read(f"/srv/{gone}/current/plan.json"))
    assert (plan["worker_class"], plan["threads"], plan["preload_app"]) == ("gevent", 1, False)
    assert not site.apply(spec)["changed"]
    line = site.refused({**spec, "settings": {"worker_class": "gevent", "preload_app": True}})
    assert "preload_app true does not go with worker_class gevent" in line
