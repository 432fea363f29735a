"""TLS without a proxy, by certfile and keyfile, for every class; the probe against it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from farrier.errors import FarrierError
from farrier.probe import probe

from .conftest import CLASSES, HUP, Serve, app_of


@pytest.mark.parametrize("worker_class", CLASSES)
def test_tls(serve: Serve, certificate: tuple[str, str], worker_class: str) -> None:
    cert, key = certificate
    site = serve(
        app_of(worker_class), "--certfile", cert, "--keyfile", key, WORKERS="1", WORKER_CLASS=worker_class
    )
    url = f"https://127.0.0.1:{site.address[1]}/health"
    assert probe(url, ca=cert)[0] == 0
    assert probe(url, insecure=True)[0] == 0
    status, line = probe(url)
    assert status == 1 and "CERTIFICATE_VERIFY_FAILED" in line
    with pytest.raises(FarrierError, match="--ca"):
        probe(url, ca="/no/such/file")
    # Somebody who does not speak TLS must not take the worker with him.
    assert probe(url.replace("https", "http"), timeout=3)[0] == 1
    assert probe(url, ca=cert)[0] == 0


def test_a_certificate_that_is_missing_is_one_line(serve: Serve) -> None:
    site = serve("wsgi_app:app", "--certfile", "/no/cert.pem", wait=None, WORKERS="1")
    assert site.wait() == 1
    assert "/no/cert.pem" in site.lines[-1]
    assert "Traceback" not in site.text


@pytest.mark.parametrize("worker_class", ["sync", "uvicorn"])
def test_a_certificate_that_is_none_is_refused_at_the_start_and_at_hup(
    serve: Serve, tmp_path: Path, certificate: tuple[str, str], worker_class: str
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    good = Path(certificate[0]).read_text(), Path(certificate[1]).read_text()
    arguments = ("--certfile", str(cert), "--keyfile", str(key))
    cert.write_text("junk")
    key.write_text(good[1])
    site = serve(app_of(worker_class), *arguments, wait=None, WORKERS="1", WORKER_CLASS=worker_class)
    assert site.wait() == 1
    assert site.lines[-1] == f"farrier serve: certfile {cert}: it holds no PEM block CERTIFICATE"
    cert.write_text(good[0])
    site = serve(app_of(worker_class), *arguments, WORKERS="1", WORKER_CLASS=worker_class)
    other = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for count, (path, text, says) in enumerate(
        [(key, other, f"keyfile {key} is not the key of certfile {cert}"), (cert, "junk", str(cert))], 1
    ):
        path.write_text(text)
        site.signal(HUP)
        assert says in site.event("reload_refused", count)["message"]
    assert "Traceback" not in site.text
    cert.write_text(good[0])
    key.write_text(good[1])
    site.signal(HUP)
    site.event("reloaded")
    assert probe(f"https://127.0.0.1:{site.address[1]}/health", insecure=True)[0] == 0
