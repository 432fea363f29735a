"""Somebody who uses the app while it is deployed: on the host itself, until it is told to stop."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Two people: one opens a connection for each request, one keeps his. Neither tries anything twice.
SCRIPT = """\
import http.client, json, sys, threading, time
port, stop = int(sys.argv[1]), threading.Event()
told = {"sent": 0, "failed": [], "longest": 0.0, "said": []}

def use(keep):
    connection = None
    while not stop.is_set():
        began = time.time()
        try:
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/", headers={} if keep else {"Connection": "close"})
            answer = connection.getresponse()
            text = answer.read().decode()
            if answer.status >= 500:
                raise OSError(answer.status)
            if not keep or answer.will_close:
                connection.close()
                connection = None
            word = text.split()[0]
            if word not in told["said"]:
                told["said"].append(word)
        except (OSError, http.client.HTTPException) as error:
            told["failed"].append([round(began, 3), "kept" if keep else "new", repr(error)])
            connection = None
        told["sent"] += 1
        told["longest"] = max(told["longest"], time.time() - began)
        time.sleep(0.02)

people = [threading.Thread(target=use, args=[keep]) for keep in (True, False)]
for one in people:
    one.start()
print("begun", flush=True)
sys.stdin.readline()
stop.set()
for one in people:
    one.join()
print(json.dumps(told))
"""


@dataclass
class Told:
    """What the client saw, once it has ended."""

    sent: int = 0
    failed: tuple[Any, ...] = ()
    longest: float = 0.0
    said: tuple[str, ...] = ()
    """The first word of each kind of answer."""


@contextmanager
def using(site: Any, port: int) -> Iterator[Told]:
    """A client that runs inside the ``with``; what it saw is there after it."""
    told = Told()
    command = [
        *site.host.docker.command,
        "exec",
        "-i",
        site.host.container,
        "python3",
        "-c",
        SCRIPT,
        str(port),
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "begun\n"
        yield told
        out, _ = process.communicate("stop\n", timeout=60)
        seen = json.loads(out)
        told.sent, told.longest = seen["sent"], seen["longest"]
        told.failed, told.said = tuple(seen["failed"]), tuple(seen["said"])
    finally:
        # Its end of the pipe is what ends it on the host.
        process.kill()
        process.wait()
