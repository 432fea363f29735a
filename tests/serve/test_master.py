"""What farrier adds to the master, against plain gunicorn of the same app and class."""

from __future__ import annotations

from pathlib import Path

import pytest

from farrier.health.memory import process_memory

from .conftest import Serve, Site, app_of

MIB = 1 << 20


def plain(serve: Serve, app: str, worker_class: str) -> Site:
    site = serve(
        app, "-k", worker_class, "-w", "1", "--log-level", "info", "--no-control-socket",
        wait=None, command=("-m", "gunicorn"),
    )  # fmt: skip
    site.line("Booting worker")
    return site


@pytest.mark.parametrize("worker_class", ["sync", "gthread", "asgi"])
def test_the_master_grows_by_less_than_five_mib(serve: Serve, worker_class: str) -> None:
    app = app_of(worker_class)
    bare = process_memory(plain(serve, app, worker_class).process.pid)
    ours = process_memory(serve(app, WORKERS="1", WORKER_CLASS=worker_class).process.pid)
    assert None not in (bare.rss, ours.rss, bare.uss, ours.uss)
    print(f"{worker_class}: rss {bare} -> {ours}")
    assert ours.rss - bare.rss < 5 * MIB  # type: ignore[operator]


def test_the_master_imports_nothing_that_it_does_not_use(serve: Serve, tmp_path: Path) -> None:
    listing = (
        "import sys\ndef when_ready(server):\n    open({!r}, 'w').write(' '.join(sorted(sys.modules)))\n"
    )
    (tmp_path / "bare.py").write_text(listing.format(str(tmp_path / "bare")))
    (tmp_path / "ours.py").write_text(listing.format(str(tmp_path / "ours")))
    serve("wsgi_app:app", "-c", "bare.py", wait=None, command=("-m", "gunicorn")).line("Booting worker")
    serve("wsgi_app:app", "-c", "ours.py", WORKERS="1", WORKER_CLASS="sync")
    bare = set((tmp_path / "bare").read_text().split())
    ours = set((tmp_path / "ours").read_text().split())
    extra = {name for name in ours - bare if not name.startswith(("farrier", "_"))}
    print(sorted(extra))
    heavy = {"asyncio", "http.client", "multiprocessing", "uvicorn", "unittest", "xml", "sqlite3", "ctypes",
             "concurrent.futures", "urllib.request", "email.message", "decimal", "wsgi_app"}  # fmt: skip
    assert not extra & heavy
    # Sizing, its dataclasses, the board, and a constant for the drain are all that comes on top.
    allowed = {"dataclasses", "gc", "mmap", "termios", "gunicorn.instrument", "gunicorn.instrument.statsd"}
    assert extra <= allowed
    assert not any(name.startswith(("farrier.release", "farrier.doctor")) for name in ours)


def test_plain_gunicorn_gets_settings_hooks_and_health_and_says_what_is_missing(
    serve: Serve, tmp_path: Path
) -> None:
    conf = tmp_path / "farrier.conf.py"
    conf.write_text("from farrier.serve import settings\n\nglobals().update(settings())\n")
    site = serve(
        "wsgi_app:app", "-c", str(conf), "--workers", "2", command=("-m", "gunicorn"), wait="worker_booted"
    )
    assert "farrier serve" in site.event("limited")["message"]
    assert site.event("starting")["workers"] == 2
    site.event("worker_booted", 2)
    assert site.json("/health/ready")[0] == 200
    (tmp_path / "settings.json").write_text("{")
    site.stop()
    assert site.event("stopped")


def test_plain_gunicorn_reads_the_settings_again_at_hup(serve: Serve, tmp_path: Path) -> None:
    import signal

    chosen = tmp_path / "settings.json"
    chosen.write_text('{"workers": 1}')
    conf = tmp_path / "farrier.conf.py"
    conf.write_text("from farrier.serve import settings\n\nglobals().update(settings())\n")
    site = serve(
        "wsgi_app:app", "-c", str(conf), command=("-m", "gunicorn"), wait="worker_booted",
        FARRIER_SETTINGS=str(chosen),
    )  # fmt: skip
    chosen.write_text('{"workers": 2}')
    site.signal(signal.SIGHUP)
    assert "workers 1 -> 2" in site.event("plan_changed")["message"]
    site.event("worker_booted", 3)
    chosen.write_text('{"workers": ')
    site.signal(signal.SIGHUP)
    assert "settings not changed" in site.event("plan_changed", 2)["message"]
    site.event("worker_booted", 5)
    assert site.get()[0] == 200


def test_a_mistake_under_plain_gunicorn_is_one_line(serve: Serve, tmp_path: Path) -> None:
    conf = tmp_path / "farrier.conf.py"
    conf.write_text("from farrier.serve import settings\n\nglobals().update(settings())\n")
    site = serve("wsgi_app:app", "-c", str(conf), command=("-m", "gunicorn"), wait=None, WORKERS="none")
    assert site.wait() == 2
    assert site.lines == [one for one in site.lines if one.startswith("farrier: WORKERS=none")]
