"""What preflight sees on a host: its sockets, its packages, the room it has."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from ansible_collections.farrier.web.farrier.release import preflight as release_preflight
from ansible_collections.farrier.web.plugins.module_utils import host


def _listening(family: int, address: str) -> socket.socket:
    listener = socket.socket(family)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind((address, 0))
    listener.listen()
    return listener


def test_a_listener_is_found_by_its_port_and_told_by_its_process() -> None:
    with _listening(socket.AF_INET, "127.0.0.1") as listener:
        port = listener.getsockname()[1]
        inode = host.listening_inode("127.0.0.1", port)
        assert inode == str(os.fstat(listener.fileno()).st_ino)
        listen = {"kind": "tcp", "host": "", "port": port, "path": ""}
        with pytest.raises(host.Refused, match=rf"x_bind: port {port} is taken .*\(pid {os.getpid()}\)"):
            host.check_port("shop", listen, "x_")
    # Another process may have taken the port meanwhile.
    assert host.listening_inode("127.0.0.1", port) != inode


def test_a_listener_on_all_ipv6_addresses_stands_in_the_way_of_ipv4_too() -> None:
    with _listening(socket.AF_INET6, "::") as listener:
        assert host.listening_inode("127.0.0.1", listener.getsockname()[1]) is not None


def test_a_listener_on_another_address_does_not_stand_in_the_way() -> None:
    with _listening(socket.AF_INET, "127.0.0.2") as listener:
        assert host.listening_inode("127.0.0.1", listener.getsockname()[1]) is None


def test_a_unix_socket_that_somebody_answers_on_is_taken_and_a_dead_one_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listen = {"kind": "unix", "host": "", "port": 0, "path": path}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(host.Refused, match="is taken on this host"):
            host.check_port("shop", listen, "")
    host.check_port("shop", listen, "")


def test_a_root_that_holds_something_else_is_refused_and_an_empty_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    host.check_root("farrier-test-app", str(tmp_path), "")
    (tmp_path / "lost+found").rmdir()
    (tmp_path / "letters").write_text("")
    with pytest.raises(host.Refused, match=f"x_root: {tmp_path} holds something else"):
        host.check_root("farrier-test-app", str(tmp_path), "x_")


def test_a_root_with_the_data_that_an_app_left_is_taken_up_again(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    host.check_root("farrier-test-app", str(tmp_path), "")


def test_the_room_that_preflight_wants_is_the_room_that_a_release_wants() -> None:
    assert host.MIN_FREE_MIB * 2**20 == release_preflight.DISK_LEAST
    assert host.MIN_FREE_INODES == release_preflight.INODES_LEAST


def test_a_python_that_is_not_there_is_told_before_anything_is_built() -> None:
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    host.check_python(sys.version_info, own, [f"python{own}"], "")
    host.check_python(sys.version_info, "3.99", ["python3.99", "python3.99-venv"], "")
    with pytest.raises(host.Refused, match=r"x_python: 3\.99 is not on this host"):
        host.check_python(sys.version_info, "3.99", [], "x_")
    with pytest.raises(host.Refused, match=r"Python is 3\.9; farrier needs 3\.10"):
        host.check_python((3, 9, 2), "", [], "")


@pytest.mark.skipif(not Path("/usr/bin/dpkg-query").exists(), reason="no dpkg here")
def test_only_packages_that_are_not_installed_are_missing() -> None:
    assert host.missing_packages(["dpkg", "no-such-package-anywhere", "dpkg=0"]) == [
        "no-such-package-anywhere",
        "dpkg=0",
    ]


@pytest.mark.parametrize(
    ("repo", "packages"),
    [
        ("https://git.example.org/shop.git", ["git"]),
        ("git@git.example.org:team/shop.git", ["git", "openssh-client"]),
        ("ssh://git@git.example.org/shop.git", ["git", "openssh-client"]),
        ("", []),
    ],
)
def test_git_and_ssh_are_wanted_only_where_they_are_used(repo: str, packages: list[str]) -> None:
    wanted = host.needed_packages({"git_repo": repo, "system_packages": ["libpq5"]})
    assert wanted == ["python3-venv", "ca-certificates", *packages, "libpq5"]


@pytest.mark.parametrize(
    ("told", "refused"),
    [
        ('ID=debian\nVERSION_ID="11"\nPRETTY_NAME="Debian GNU/Linux 11 (bullseye)"', "Debian GNU/Linux 11"),
        ('ID=debian\nPRETTY_NAME="Debian GNU/Linux forky/sid"', "Debian GNU/Linux forky/sid"),
        ('ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04"', "Ubuntu 24.04"),
        ("ID=void", "void"),
        ("", "a system that does not say its name"),
    ],
)
def test_a_system_that_was_not_tried_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, refused: str
) -> None:
    (tmp_path / "os-release").write_text(told)
    monkeypatch.setattr(host, "OS_RELEASE", str(tmp_path / "os-release"))
    with pytest.raises(host.Refused, match=f"^this host runs {refused}.*; farrier.web takes Debian 12 or 13"):
        host.check_platform()


def test_a_user_who_may_become_root_is_told_from_one_who_may_not() -> None:
    assert host.power_of("root") == "is in the group root"
    assert host.power_of("nobody") == ""
    assert host.power_of("no-such-user") == ""
