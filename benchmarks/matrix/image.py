"""The image of the matrix's hosts: the lab's base, Debian's PostgreSQL (off), Gunicorn as people install it.

Made once, from the base image, so that no run waits for a download: `apt-get install postgresql`, and a venv
with Gunicorn, Flask and psycopg below /opt/today. What is in it is its tag.
"""

from __future__ import annotations

import hashlib
import subprocess
from importlib import metadata

from lab import checkout
from lab.engine import LABEL, Engine
from lab.image import BASE_LABEL, ensure_base
from lab.machine import Machine

TODAY = "/opt/today"
ROWS = 20_000
#: The driver that an app has in its requirements; the version that a run used is in its file.
DRIVER = "psycopg[binary]>=3.2,<4"


def packages() -> list[str]:
    """What both sides install, at the versions of this checkout's tools."""
    return [f"{name}=={metadata.version(name)}" for name in ("gunicorn", "flask")] + [DRIVER]


def script() -> str:
    """What turns a base into it."""
    wanted = " ".join(f"'{name}'" for name in packages())
    table = (
        "CREATE ROLE bench LOGIN PASSWORD 'bench'; CREATE DATABASE bench OWNER bench; "
        "\\connect bench\n"
        "CREATE TABLE article AS SELECT id, 'article ' || id AS name, id * 1.07 AS price "
        "FROM generate_series(1, :rows) AS id; ALTER TABLE article ADD PRIMARY KEY (id); "
        "GRANT SELECT ON article TO bench; ANALYZE article;"
    )
    return f"""set -e
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q -y install postgresql
systemctl disable postgresql
cluster=$(ls /etc/postgresql)
pg_ctlcluster $cluster main start
cat > /tmp/table.sql <<'SQL'
{table}
SQL
runuser -u postgres -- psql -v ON_ERROR_STOP=1 -v rows={ROWS} -q -f /tmp/table.sql
pg_ctlcluster $cluster main stop
python3 -m venv {TODAY}
{TODAY}/bin/pip install -q --no-cache-dir {wanted}
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /tmp/table.sql
"""


def ensure(docker: Engine) -> str:
    """The image's name; made in about a minute where there is none. SystemExit where it cannot be made."""
    base = ensure_base()
    text = script()
    name = f"farrier-lab:matrix-{hashlib.sha256((base + text).encode()).hexdigest()[:12]}"
    if docker.has_image(name):
        return name
    environment = [
        part for key, value in Machine.read().pip_environment().items() for part in ("-e", f"{key}={value}")
    ]
    container = docker.call(
        "create", "--label", f"{LABEL}={checkout.identity()}", *environment, base, "/bin/sh", "-c", text
    ).stdout.strip()
    try:
        done = subprocess.run(
            [*docker.command, "start", "-a", container], capture_output=True, text=True, timeout=600
        )
        if done.returncode:
            last = (done.stdout + done.stderr).splitlines()[-3:]
            raise SystemExit(f"the image of the matrix: {' | '.join(last)}")
        label = ["-c", f"LABEL {BASE_LABEL}=yes", "-c", 'CMD ["/bin/bash"]']
        docker.call("commit", *label, container, name, timeout=300)
    finally:
        docker.call("rm", "-f", "-v", container, check=False)
    return name
