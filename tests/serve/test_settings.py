"""Where a setting comes from, on the real command: --print-config and the person's own file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Serve


def printed(serve: Serve, *arguments: str, **environ: str) -> dict[str, str]:
    ended = subprocess.run(
        [sys.executable, "-m", "farrier", "serve", "--print-config", *arguments, "wsgi_app:app"],
        cwd=serve.folder, env=serve.environ(**environ), capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    lines = (line.split("=", 1) for line in ended.stdout.splitlines() if " = " in line)
    return {name.strip(): value.strip() for name, value in lines}


def test_each_source_wins_over_those_below_it(serve: Serve, tmp_path: Path) -> None:
    """Every level is added on top of all below it, and then holds."""
    own, chosen = tmp_path / "own.conf.py", tmp_path / "settings.json"
    own.write_text("workers = 2\n")
    chosen.write_text(json.dumps({"workers": 3}))
    environ: dict[str, str] = {}
    seen = []
    for name, value in (
        ("FARRIER_CONFIG", str(own)),
        ("FARRIER_SETTINGS", str(chosen)),
        ("WEB_CONCURRENCY", "4"),
        ("GUNICORN_WORKERS", "5"),
        ("WORKERS", "6"),
        ("GUNICORN_CMD_ARGS", "--workers 7"),
    ):
        environ[name] = value
        seen.append(printed(serve, **environ)["workers"])
    seen.append(printed(serve, "--workers", "8", **environ)["workers"])
    assert seen == ["2", "3", "4", "5", "6", "7", "8"]


def test_the_plan_is_told_what_the_command_line_chose(serve: Serve) -> None:
    """gthread with one worker gets its threads from the plan; sync by hand gets one thread."""
    assert printed(serve, "-k", "sync", "--workers", "1")["threads"] == "1"
    assert int(printed(serve, "-k", "gthread", "--workers", "1")["threads"]) > 1


def test_names_that_work(serve: Serve) -> None:
    found = printed(
        serve, WORKERS="2", WORKER_CLASS="gthread", THREADS="3", WORKER_TIMEOUT="44", GRACEFUL_TIMEOUT="5",
        KEEPALIVE="6", MAX_REQUESTS="7", MAX_REQUESTS_JITTER="8", PRELOAD_APP="true", PORT="8123",
        LOG_LEVEL="error",
    )  # fmt: skip
    names = ("workers", "worker_class", "threads", "timeout", "graceful_timeout", "keepalive", "max_requests")
    assert [found[name] for name in names] == ["2", "gthread", "3", "44", "5", "6", "7"]
    assert (found["max_requests_jitter"], found["preload_app"], found["loglevel"]) == ("8", "True", "error")
    assert found["bind"] == "['0.0.0.0:8123']"
    assert printed(serve, GUNICORN_TIMEOUT="1", GUNICORN_WORKER_TIMEOUT="45")["timeout"] == "45"


def test_what_is_off_unless_asked_for(serve: Serve) -> None:
    found = printed(serve)
    assert found["control_socket_disable"] == "True"
    assert found["control_socket"] == f"{serve.run}/app.ctl"
    assert found["control_socket_mode"] == str(0o600)
    assert printed(serve, FARRIER_APP="shop", FARRIER_INSTANCE="blue")["proc_name"] == "shop@blue"


@pytest.mark.parametrize("way", ["-c", "FARRIER_CONFIG", "default name"])
def test_ones_own_config_file_is_chained_not_lost(serve: Serve, tmp_path: Path, way: str) -> None:
    names = [
        "on_starting",
        "when_ready",
        "pre_fork",
        "post_fork",
        "post_worker_init",
        "worker_exit",
        "child_exit",
        "on_exit",
        "on_reload",
    ]
    text = "limit_request_line = 2000\ntimeout = 33\n"
    for name in names:
        parameters = (
            "one"
            if name in ("on_starting", "when_ready", "post_worker_init", "on_exit", "on_reload")
            else "a, b"
        )
        text += f"def {name}({parameters}):\n    open('hooks', 'a').write('{name}\\n')\n"
    path = tmp_path / ("gunicorn.conf.py" if way == "default name" else "own.conf.py")
    path.write_text(text)
    arguments = ("-c", str(path)) if way == "-c" else ()
    environ = {"FARRIER_CONFIG": str(path)} if way == "FARRIER_CONFIG" else {}
    site = serve("wsgi_app:app", *arguments, WORKERS="1", **environ)
    settings = serve.state()["settings"]
    assert (settings["limit_request_line"], settings["timeout"]) == (2000, 33)
    import signal

    site.signal(signal.SIGHUP)
    site.event("reloaded")
    site.stop()
    assert set((tmp_path / "hooks").read_text().split()) == set(names)
    # Farrier's own spoke as well.
    assert {"starting", "listening", "worker_booted", "worker_ended", "stopped"} <= {
        one["event"] for one in site.events
    }


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"WORKERS": "0"}, "WORKERS=0"),
        ({"WORKERS": "many"}, "WORKERS=many"),
        ({"WORKER_CLASS": "tornado"}, "sync, gthread, asgi, uvicorn, gevent"),
        ({"FARRIER_PLAN": "{"}, "FARRIER_PLAN is not JSON"),
        ({"FARRIER_PLAN": "{}"}, "FARRIER_PLAN is not a plan"),
        ({"FARRIER_PLAN": "/no/plan.json"}, "FARRIER_PLAN: /no/plan.json: No such file or directory"),
        ({"FARRIER_SETTINGS": "/no/settings.json"}, "FARRIER_SETTINGS: /no/settings.json"),
        ({"FARRIER_CONFIG": "/no/conf.py"}, "/no/conf.py: No such file"),
        ({"FARRIER_HEALTH_PATH": "health"}, "FARRIER_HEALTH_PATH"),
        ({"PORT": "99999"}, "PORT=99999"),
        ({"WEB_CONCURRENCY": "auto"}, "WEB_CONCURRENCY=auto"),
        ({"GUNICORN_CMD_ARGS": "-b :99999"}, "bind :99999: the port must be 0 to 65535"),
        ({"GUNICORN_CMD_ARGS": "--bogus"}, "--bogus"),
        ({"GUNICORN_CMD_ARGS": "-w abc"}, "invalid int value: 'abc'"),
        ({"FARRIER_LOG": "xml"}, "FARRIER_LOG=xml: must be json or text"),
    ],
)
def test_a_mistake_is_one_line(serve: Serve, environ: dict[str, str], says: str) -> None:
    site = serve(wait=None, bind="", **environ)
    assert site.wait() == 2
    assert says in site.lines[-1]
    assert len(site.lines) == 1


def test_an_empty_web_concurrency_counts_as_unset(serve: Serve) -> None:
    assert printed(serve, WEB_CONCURRENCY="")["workers"] == printed(serve)["workers"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("when_ready = 3", "when_ready must be a function of 1 argument (server)"),
        ("def pre_fork(server): pass", "pre_fork must be a function of 2 arguments (server, worker)"),
        ("def post_request(one): pass", "post_request"),
    ],
)
def test_a_hook_that_cannot_be_called_is_one_line(serve: Serve, tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(line + "\n")
    site = serve(wait=None, WORKERS="1")
    assert site.wait() in (1, 2)
    assert says in site.lines[-1]
    assert len(site.lines) == 1


def test_a_check_that_is_not_there_fails_the_check_of_the_config(serve: Serve) -> None:
    site = serve("wsgi_app:app", "--check-config", wait=None, FARRIER_READY="nomod:f")
    assert site.wait() == 3
    assert site.lines == ["farrier serve: FARRIER_READY: nomod:f: No module named 'nomod'"]


def test_a_plan_is_followed_and_made_again_on_another_machine(serve: Serve, tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "farrier", "plan", "--json", "--memory", "1GiB", "--cpus", "1",
         "--set", "workers=3"],
        cwd=tmp_path, env=serve.environ(), capture_output=True, text=True, timeout=30, check=True,
    ).stdout  # fmt: skip
    # A preview for elsewhere that fits: as it was made, the choice that went into it included.
    found = printed(serve, FARRIER_PLAN=made)
    plan = json.loads(made)
    assert found["workers"] == "3"
    assert found["threads"] == str(plan["threads"])
    # A plan of this very host, before it was resized.
    plan["inputs"]["budget"]["scope"] = "host"
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    site = serve(FARRIER_PLAN=str(tmp_path / "plan.json"))
    said = site.event("plan_changed")
    assert "planned again, the machine is another one (1 GiB and 1 CPU -> " in said["message"]
    assert serve.state()["workers_wanted"] == 3


def test_the_app_reads_the_plan_in_force(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "wsgi_app.py").write_text(
        "import json, os\n"
        "PLAN = json.loads(os.environ['FARRIER_PLAN'])\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n    return [str(PLAN['workers']).encode()]\n"
    )
    site = serve(WORKERS="2")
    assert site.get()[1] == b"2"
    site.stop()
    assert serve(WORKERS="1").get()[1] == b"1"
