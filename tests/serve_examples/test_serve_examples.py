"""The examples under a real ``farrier serve``: each worker class they are meant for, and in little memory."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
BOOT_SECONDS = 60.0


@dataclass(frozen=True)
class Example:
    folder: str
    app: str
    worker_class: str
    ready: str
    migrate: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.folder}-{self.worker_class}"

    @property
    def path(self) -> Path:
        return ROOT / "examples" / self.folder


MIGRATE = ("manage.py", "migrate", "--verbosity", "0")
EXAMPLES = (
    Example("flask_app", "guestbook:app", "gthread", "guestbook:ready"),
    Example("flask_app", "guestbook:app", "sync", "guestbook:ready"),
    Example("fastapi_app", "app.main:create_app()", "uvicorn", "app.ready:database"),
    Example("fastapi_app", "app.main:create_app()", "asgi", "app.ready:database"),
    Example("django_app", "config.wsgi:application", "gthread", "tasks.ready:database", MIGRATE),
    Example("django_app", "config.asgi:application", "uvicorn", "tasks.ready:database", MIGRATE),
)


def clean_environ(data: Path, example: Example) -> dict[str, str]:
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return keep | {"DATA_DIR": str(data), "FARRIER_READY": example.ready, "PYTHONPATH": str(ROOT)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    """The socket answers as soon as a worker serves; until then the connection is refused or waits."""
    end = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            if client.get("/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"not ready; it said:\n{log.read_text()[-3000:]}")


@contextmanager
def served(
    example: Example, folder: Path, *more: str
) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    port, log, env = free_port(), folder / "log", clean_environ(folder / "data", example)
    if example.migrate:
        subprocess.run([sys.executable, *example.migrate], cwd=example.path, env=env, check=True)
    command = [sys.executable, "-m", "farrier", "serve", "--bind", f"127.0.0.1:{port}"]
    command += ["--worker-class", example.worker_class, *more, example.app]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=example.path, env=env, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            wait_until_ready(client, process, log)
            yield client, process
    finally:
        process.kill()
        process.wait()


def write_something(client: httpx.Client, example: Example) -> list[object]:
    """One write as a visitor would make it; what the app then lists."""
    if example.folder == "fastapi_app":
        answer = client.post("/links", json={"slug": "horse", "url": "https://example.com/"})
        assert answer.status_code == 201
        return list(client.get("/links").json())
    if example.folder == "flask_app":
        assert client.post("/sign", data={"name": "Ada", "message": "hello"}).status_code == 303
        return list(client.get("/entries").json())
    client.get("/")
    form = {"title": "shoe the horse", "csrfmiddlewaretoken": client.cookies["csrftoken"]}
    assert client.post("/add", data=form).status_code == 302
    return list(client.get("/tasks.json").json()["tasks"])


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_serves_reads_writes_and_ends_in_order(example: Example, tmp_path: Path) -> None:
    with served(example, tmp_path, "--workers", "2") as (client, process):
        page = client.get("/").text
        worker = int(re.search(r"Worker (\d+) answered", page).group(1))  # type: ignore[union-attr]
        assert worker != process.pid
        assert len(write_something(client, example)) == 1
        checks = client.get("/health/ready").json()["checks"]
        assert [check["ok"] for check in checks if example.ready.endswith(check["name"])] == [True]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=40) == 0


@pytest.mark.parametrize("example", [EXAMPLES[0], EXAMPLES[2], EXAMPLES[4]], ids=str)
def test_an_unreadable_database_makes_it_unready_but_not_dead(example: Example, tmp_path: Path) -> None:
    with served(example, tmp_path, "--workers", "1") as (client, _):
        for file in (tmp_path / "data").glob("*.db*"):
            file.write_bytes(b"not a database" * 400)
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health").status_code == 200


def test_django_gets_its_connections_from_the_plan_in_force(tmp_path: Path) -> None:
    example = EXAMPLES[4]
    with served(example, tmp_path, "--workers", "1") as (client, _):
        assert client.get("/whoami").json()["database"]["conn_health_checks"] is True


# The examples in the memory that their pages promise, with the plan's own numbers.
SMALL = ((EXAMPLES[0], "256m"), (EXAMPLES[2], "512m"), (EXAMPLES[4], "512m"))


@contextmanager
def boxed(example: Example, memory: str, image: str) -> Iterator[str]:
    """The example in a container of this memory and one CPU, on this Python's packages; yields its name."""
    name = f"farrier-example-{os.getpid()}-{example.folder}"
    packages = sysconfig.get_path("purelib")
    migrate = f"python3 {' '.join(example.migrate)} && " if example.migrate else ""
    command = ["docker", "run", "--detach", "--name", name, "--memory", memory, "--memory-swap", memory]
    command += ["--cpus", "1", "--network", "none", "--volume", f"{ROOT}:/opt/farrier:ro"]
    command += ["--volume", f"{packages}:/opt/packages:ro", "--env", "PYTHONPATH=/opt/farrier:/opt/packages"]
    command += ["--env", "DATA_DIR=/tmp/data", "--env", f"FARRIER_READY={example.ready}"]
    command += ["--workdir", f"/opt/farrier/examples/{example.folder}", image, "sh", "-c"]
    serve = f"exec python3 -m farrier serve -b 127.0.0.1:8000 -k {example.worker_class} '{example.app}'"
    subprocess.run([*command, migrate + serve], check=True, capture_output=True)
    try:
        yield name
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=False, capture_output=True)


# Runs inside the container: waits until it is ready, then twenty visitors at once; prints what they got.
VISITORS = """
import collections, concurrent.futures, json, time, urllib.request
def get(path):
    with urllib.request.urlopen("http://127.0.0.1:8000" + path, timeout=30) as answer:
        return answer.status
for attempt in range(300):
    try:
        get("/health/ready")
        break
    except OSError:
        time.sleep(0.2)
paths = ["/", "/wait?ms=20", "/spin?ms=2"] * 100
with concurrent.futures.ThreadPoolExecutor(20) as pool:
    print(json.dumps(collections.Counter(pool.map(get, paths))))
"""


@pytest.mark.docker
@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="the image's Python 3.11 loads this Python's packages"
)
@pytest.mark.parametrize(("example", "memory"), SMALL, ids=lambda value: str(value))
def test_an_example_serves_twenty_visitors_in_the_memory_it_promises(
    example: Example, memory: str, base_image: str
) -> None:
    with boxed(example, memory, base_image) as name:
        visit = ["docker", "exec", name, "python3", "-c", VISITORS]
        done = subprocess.run(visit, capture_output=True, text=True, timeout=180, check=False)
        logs = subprocess.run(["docker", "logs", name], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == '{"200": 300}', done.stderr[-500:] + logs.stderr[-2000:]
        state = ["docker", "inspect", "--format", "{{.State.Running}} {{.State.OOMKilled}}", name]
        after = subprocess.run(state, capture_output=True, text=True, check=True).stdout.split()
        assert after == ["true", "false"]
