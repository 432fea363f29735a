"""TLS without a proxy, by certfile and keyfile, for every class; the probe against it."""

from __future__ import annotations

import subprocess

import pytest

from farrier.errors import FarrierError
from farrier.probe import probe

from .conftest import CLASSES, Serve, app_of


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", str(key), "-out", str(cert),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(cert), str(key)


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
