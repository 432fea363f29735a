"""What a person may choose, from where, and what is said of a wrong choice."""

from __future__ import annotations

import json

import pytest

from farrier.sizing import Settings, SizingError

MIB = 2**20


def environ(**env: str) -> dict[str, object]:
    return {name: one.value for name, one in Settings.from_environ(env).items()}


def test_every_variable_of_the_contract() -> None:
    env = {
        "WORKERS": "3",
        "WORKER_CLASS": "uvicorn.workers.UvicornWorker",
        "THREADS": "4",
        "WORKER_TIMEOUT": "45",
        "GRACEFUL_TIMEOUT": "20",
        "KEEPALIVE": "75",
        "MAX_REQUESTS": "500",
        "MAX_REQUESTS_JITTER": "50",
        "PRELOAD_APP": "true",
        "BIND": "unix:/run/app.sock",
        "LOG_LEVEL": "DEBUG",
        "LOW_MEMORY_MODE": "0",
        "ENVIRONMENT": "development",
    }
    expected = {
        "workers": 3,
        "worker_class": "uvicorn",
        "threads": 4,
        "timeout": 45,
        "graceful_timeout": 20,
        "keepalive": 75,
        "max_requests": 500,
        "max_requests_jitter": 50,
        "preload_app": True,
        "bind": "unix:/run/app.sock",
        "loglevel": "debug",
        "low_memory_mode": False,
        "environment": "development",
    }
    assert environ(**env) == expected
    prefixed = {
        name if name in ("LOW_MEMORY_MODE", "ENVIRONMENT") else f"GUNICORN_{name}": value
        for name, value in env.items()
    }
    assert environ(**prefixed) == expected


def test_bare_names_win_over_prefixed_ones_and_those_over_web_concurrency() -> None:
    env = {"WORKERS": "3", "GUNICORN_WORKERS": "4", "WEB_CONCURRENCY": "5"}
    for name, count in (("WORKERS", 3), ("GUNICORN_WORKERS", 4), ("WEB_CONCURRENCY", 5)):
        setting = Settings.from_environ(env)["workers"]
        assert (setting.value, setting.source) == (count, name)
        del env[name]
    assert "workers" not in Settings.from_environ(env)


def test_port_binds_and_bind_wins() -> None:
    assert environ(PORT="8080") == {"bind": "0.0.0.0:8080"}
    assert environ(PORT="8080", BIND="127.0.0.1:9") == {"bind": "127.0.0.1:9"}
    with pytest.raises(SizingError, match=r"^PORT=http: a port must be a whole number from 1 to 65535$"):
        Settings.from_environ({"PORT": "http"})


def test_an_empty_variable_and_auto_are_not_set() -> None:
    assert environ(WORKERS="", THREADS="  ", LOW_MEMORY_MODE="auto") == {}


def test_cloud_run_and_kubernetes_say_so_themselves() -> None:
    assert environ(K_SERVICE="shop") == {"runtime": "cloudrun"}
    assert environ(KUBERNETES_SERVICE_HOST="10.0.0.1") == {"runtime": "kubernetes"}


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("WORKERS", "0", "WORKERS=0: workers must be a whole number of at least 1"),
        ("WORKERS", "-2", "WORKERS=-2: workers must be a whole number of at least 1"),
        ("WORKERS", "many", "WORKERS=many: workers must be a whole number of at least 1"),
        ("WORKERS", "2.5", "WORKERS=2.5: workers must be a whole number of at least 1"),
        ("GUNICORN_WORKERS", "0", "GUNICORN_WORKERS=0: workers must be a whole number of at least 1"),
        ("WEB_CONCURRENCY", "x", "WEB_CONCURRENCY=x: workers must be a whole number of at least 1"),
        ("THREADS", "0", "THREADS=0: threads must be a whole number of at least 1"),
        ("WORKER_TIMEOUT", "-1", "WORKER_TIMEOUT=-1: timeout must be a whole number of at least 0"),
        (
            "GRACEFUL_TIMEOUT",
            "0",
            "GRACEFUL_TIMEOUT=0: graceful_timeout must be a whole number of at least 1",
        ),
        (
            "PRELOAD_APP",
            "maybe",
            "PRELOAD_APP=maybe: preload_app must be true or false "
            "(allowed: 1, true, yes, on, 0, false, no, off)",
        ),
        (
            "LOG_LEVEL",
            "loud",
            "LOG_LEVEL=loud: loglevel must be one of debug, info, warning, error, critical",
        ),
        ("ENVIRONMENT", "test", "ENVIRONMENT=test: environment must be one of production, development"),
        (
            "WORKER_CLASS",
            "eventlet",
            "WORKER_CLASS=eventlet: worker_class 'eventlet' is refused: it left Gunicorn in version 26; "
            "allowed are sync, gthread, asgi, uvicorn, gevent",
        ),
        (
            "WORKER_CLASS",
            "gevent_pywsgi",
            "WORKER_CLASS=gevent_pywsgi: worker_class 'gevent_pywsgi' is refused: it brings a server of its "
            "own, which cannot drain; use gevent; allowed are sync, gthread, asgi, uvicorn, gevent",
        ),
        (
            "WORKER_CLASS",
            "fast",
            "WORKER_CLASS=fast: worker_class 'fast' is not known: "
            "allowed are sync, gthread, asgi, uvicorn, gevent",
        ),
    ],
)
def test_a_wrong_variable_is_named_with_what_is_allowed(variable: str, value: str, message: str) -> None:
    with pytest.raises(SizingError) as error:
        Settings.from_environ({variable: value})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("source", "given", "message"),
    [
        (
            "settings.json",
            {"workers": 0},
            "settings.json: workers=0: workers must be a whole number of at least 1",
        ),
        ("--workers", {"workers": "0"}, "--workers=0: workers must be a whole number of at least 1"),
        (
            "--keep-alive",
            {"keepalive": "x"},
            "--keep-alive=x: keepalive must be a whole number of at least 0",
        ),
        ("--set", {"workers": "0"}, "--set: workers=0: workers must be a whole number of at least 1"),
        (
            "GUNICORN_CMD_ARGS",
            {"threads": "0"},
            "GUNICORN_CMD_ARGS: threads=0: threads must be a whole number of at least 1",
        ),
        (
            "command line",
            {"workers": True},
            "command line: workers=True: workers must be a whole number of at least 1",
        ),
        (
            "s",
            {"reserve_memory": "lots"},
            "s: reserve_memory=lots: reserve_memory must be a size, such as 512MiB",
        ),
        ("s", {"cpu_limit": 0}, "s: cpu_limit=0: cpu_limit must be a number of CPUs above 0, such as 0.5"),
        (
            "s",
            {"strategy": "hope"},
            "s: strategy=hope: strategy must be one of overlap, rolling, queue, reload",
        ),
        (
            "s",
            {"recycling": "x"},
            "s: recycling is computed by the plan: set memory_limit or workers instead",
        ),
        (
            "s",
            {"gate_beside": 1},
            "s: gate_beside is computed by the plan: set memory_limit or workers instead",
        ),
        ("s", {"memory_peak": 1}, "s: memory_peak is computed by the plan: set memory_limit instead"),
    ],
)
def test_a_wrong_setting_names_its_source(source: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(SizingError) as error:
        Settings.from_mapping(given, source)
    assert str(error.value) == message


def test_an_unknown_name_is_refused_with_a_hint() -> None:
    with pytest.raises(
        SizingError, match=r"^s: 'worker' is not a setting: did you mean workers\? allowed are .*workers"
    ):
        Settings.from_mapping({"worker": 2}, "s")
    with pytest.raises(SizingError, match="did you mean graceful_timeout"):
        Settings.from_mapping({"graceful-timeout": 2}, "s")


def test_sizes_become_bytes_and_none_is_not_set() -> None:
    settings = Settings.from_mapping({"database_memory": "64MiB", "workers": None}, "s")
    assert settings.value("database_memory") == 64 * MIB
    assert "workers" not in settings
    assert settings.value("workers", 7) == 7


def test_higher_layers_win() -> None:
    high, low = (
        Settings.from_mapping({"workers": 2}, "high"),
        Settings.from_mapping({"workers": 9, "threads": 3}, "low"),
    )
    merged = Settings.merged(high, low)
    assert [(one.name, one.value, one.source) for one in merged.values()] == [
        ("workers", 2, "high"),
        ("threads", 3, "low"),
    ]


def test_json_round_trip() -> None:
    settings = Settings.from_environ({"WORKERS": "3", "PRELOAD_APP": "1", "PORT": "80"})
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    with pytest.raises(SizingError, match="not settings"):
        Settings.from_dict({"workers": 3})  # type: ignore[dict-item]
