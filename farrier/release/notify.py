"""Telling a chat or a pager how a run went: a JSON object to an address, and to a command.

Each has ten seconds, both at once; what goes wrong is one line of the run and never its end.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from typing import IO, Any

from ..errors import FarrierError
from . import account, command
from .events import Journal
from .spec import Spec

# Seconds for each of the two.
LIMIT = 10.0
# What of an app's installer_env (and of the unit's own environment) is about the way out of this host.
_OUTWARD = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE")


def event(name: str, run: Mapping[str, Any], url: str, serves: str | None) -> dict[str, Any] | None:
    """What is told of a run as the history has it; None for one that nobody has to hear of."""
    outcome, action = str(run.get("outcome", "")), run.get("action") or "deploy"
    if outcome == "good":
        if action not in ("deploy", "rollback"):
            return None
        outcome = "rolled back" if action == "rollback" else "deployed"
    told = {
        "app": name, "host": socket.gethostname(), "release": run.get("release"),
        "from": run.get("from") or None, "outcome": outcome, "action": action, "who": run.get("who") or None,
        "why": run.get("message") or None, "strategy": run.get("strategy") or None,
        "seconds": run.get("seconds"), "url": url, "serves": serves, "time": run.get("time"),
    }  # fmt: skip
    return {"text": _text(told, guard=run.get("outcome") == "rolled back"), **told}


def _text(told: Mapping[str, Any], guard: bool) -> str:
    """One line, as chats show it."""
    where = f"{told['app']} on {told['host']}"
    by = f" by {told['who']}" if told["who"] else ""
    why = f": {told['why']}" if told["why"] else ""
    took = f" in {told['seconds']} s" if told["seconds"] is not None else ""
    if guard:
        return f"{where}: release {told['release']}{by} was rolled back to {told['serves']}{why}"
    if told["outcome"] == "rolled back":
        return f"{where}: rolled back{by} from {told['from']} to {told['release']}{took}{why}"
    if told["outcome"] == "deployed":
        how = f" ({told['strategy']})" if told["strategy"] else ""
        return f"{where}: release {told['release']} deployed{by}{took}{how}{why}"
    serves = f"; {told['serves']} serves" if told["serves"] else ""
    return f"{where}: {told['action']}{by} failed{why}{serves}"


def send(spec: Spec, event: Mapping[str, Any], journal: Journal) -> list[str]:
    """Tells everybody whom the spec names, and answers what went wrong. Never raises, ends in time."""
    ways = {"webhook": _post, "command": _run}
    chosen = {name: way for name, way in ways.items() if getattr(spec.notify, name)}
    failed: dict[str, str] = {}
    threads = {
        name: threading.Thread(target=_try, args=(partial(way, spec, event), failed, name), daemon=True)
        for name, way in chosen.items()
    }
    for thread in threads.values():
        thread.start()
    for name, thread in threads.items():
        # A name server that does not answer is bounded by nothing else. A command is, so it may end first.
        thread.join(LIMIT + 1)
        if thread.is_alive():
            failed[name] = f"no end after {LIMIT:.0f} s"
    said = [journal.clean(f"notify.{name}: {why}") for name, why in sorted(failed.items())]
    for line in said:
        journal.say(line)
    return said


def _try(tell: partial[None], failed: dict[str, str], name: str) -> None:
    try:
        tell()
    except Exception as error:  # noqa: BLE001 - whatever it is, the deploy has ended by now
        failed[name] = _why(error)


def _why(error: Exception) -> str:
    """What went wrong, without the address, which is a secret."""
    if isinstance(error, urllib.error.HTTPError):
        return f"it answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        reason = error.reason
        return _why(reason) if isinstance(reason, Exception) else str(reason)
    if isinstance(error, TimeoutError):
        return f"no answer in {LIMIT:.0f} s"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, http.client.HTTPException):
        return f"no answer of HTTP ({type(error).__name__})"
    return str(error).removeprefix("it: ") or type(error).__name__


# -- an address ---------------------------------------------------------------------------------------------


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is told goes to the address that was given and to no other; a redirect is an error."""

    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


def _post(spec: Spec, event: Mapping[str, Any]) -> None:
    address = urllib.parse.urlsplit(spec.notify.webhook)
    headers = {"Content-Type": "application/json", "User-Agent": "farrier"}
    if address.username is not None:
        pair = f"{urllib.parse.unquote(address.username)}:{urllib.parse.unquote(address.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    bare = address._replace(netloc=address.netloc.rpartition("@")[2])
    env = {**os.environ, **spec.installer_env}
    handlers = [
        urllib.request.ProxyHandler(proxies(env, address.hostname or "")),
        urllib.request.HTTPSHandler(context=_trust(env)),
        _NoRedirect(),
    ]
    body = json.dumps(event).encode()
    # The spec allows http and https only.
    request = urllib.request.Request(bare.geturl(), body, headers, method="POST")  # noqa: S310
    with urllib.request.build_opener(*handlers).open(request, timeout=LIMIT) as answer:
        answer.read(1)


def proxies(env: Mapping[str, str], host: str) -> dict[str, str]:
    """The proxies for `host` by the usual variables, lower-case ones first; empty where it needs none."""
    known = {name: env.get(name) or env.get(name.upper()) or "" for name in _OUTWARD}
    if urllib.request.proxy_bypass_environment(host, {"no": known["no_proxy"]}):  # type: ignore[attr-defined]
        return {}
    found = {scheme: known[f"{scheme}_proxy"] or known["all_proxy"] for scheme in ("http", "https")}
    return {scheme: proxy for scheme, proxy in found.items() if proxy}


def _trust(env: Mapping[str, str]) -> ssl.SSLContext:
    """The host's certificates, or those that the environment names."""
    file = next((env[name] for name in _CERTIFICATES if env.get(name)), None)
    folder = env.get("SSL_CERT_DIR") or None
    if file is None and folder is None:
        return ssl.create_default_context()
    return ssl.create_default_context(cafile=file, capath=folder)


# -- a command ----------------------------------------------------------------------------------------------


def _run(spec: Spec, event: Mapping[str, Any]) -> None:
    found = account.find(spec)
    if found is None:
        raise FarrierError(f"there is no user {spec.user} to run it as")
    outward = {name: value for name, value in spec.installer_env.items() if name.lower() in _OUTWARD}
    env = {**outward, **spec.env, **{f"FARRIER_{key.upper()}": _flat(value) for key, value in event.items()}}
    with _as_file(json.dumps(event) + "\n") as stdin:
        command.run(
            ["/bin/sh", "-c", spec.notify.command], account=found, env=command.base_env(env), cwd=None,
            timeout=LIMIT, what="it", stdin=stdin, own_words=True,
        )  # fmt: skip


def _flat(value: object) -> str:
    return "" if value is None else str(value)


@contextlib.contextmanager
def _as_file(text: str) -> Iterator[int]:
    """A descriptor to read `text` from: unlike a pipe, nobody has to stand by while it is read."""
    descriptor = os.memfd_create("event")
    try:
        os.write(descriptor, text.encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
