"""Whose the next connection is, by what the board says."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from farrier.serve.board import DRAINING, READY, Board, Slot
from farrier.serve.workers import share as shares
from farrier.serve.workers.room import AT_ONCE
from farrier.serve.workers.share import AGAIN, PATIENCE, Share


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(shares, "time", made)
    return made


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def board() -> Board:
    return Board(8)


def worker(board: Board, connections: int = 0, stage: int = READY) -> Slot:
    slot = board.take()
    slot.stage = stage
    slot.connections = connections
    return slot


def share_of(slot: Slot | None, listener: socket.socket) -> Share:
    return Share(slot, 2, [listener])


def test_it_leaves_them_to_whoever_holds_fewer_and_takes_an_eighth_more(
    board: Board, listener: socket.socket
) -> None:
    mine = share_of(worker(board), listener)
    worker(board, 16)
    assert [mine.leaves(held) for held in (0, 16, 19, 20)] == [False, False, False, True]


def test_one_that_holds_nothing_yet_is_asked_at_the_second_newcomer(
    board: Board, listener: socket.socket
) -> None:
    mine = share_of(worker(board), listener)
    worker(board)
    assert [mine.leaves(held) for held in (0, 1, 2)] == [False, False, True]


@pytest.mark.parametrize("stage", [0, DRAINING, 2])
def test_only_a_sibling_that_is_ready_takes_them(board: Board, listener: socket.socket, stage: int) -> None:
    mine = share_of(worker(board), listener)
    worker(board, 0, stage)
    assert not mine.leaves(50)


def test_a_sibling_that_is_gone_is_not_waited_for(board: Board, listener: socket.socket) -> None:
    mine, gone = share_of(worker(board), listener), worker(board)
    assert mine.leaves(50)
    board.give_back(gone)
    assert not mine.leaves(50)


def test_one_that_ends_or_has_no_board_takes_whoever_comes(board: Board, listener: socket.socket) -> None:
    worker(board)
    assert not share_of(worker(board, 50, DRAINING), listener).leaves(50)
    assert not share_of(None, listener).leaves(50)


def test_what_nobody_takes_is_taken_after_a_moment_and_so_on(
    board: Board, listener: socket.socket, clock: Clock
) -> None:
    mine = share_of(worker(board), listener)
    worker(board)
    with socket.create_connection(listener.getsockname()):
        for _ in range(2):
            began = clock.now
            while mine.leaves(50):
                clock.now += AGAIN
                mine.look()
            assert clock.now - began == pytest.approx(PATIENCE, abs=2 * AGAIN)
            assert [mine.leaves(50) for _ in range(AT_ONCE)] == [False] * (AT_ONCE - 1) + [True]


def test_a_newcomer_that_a_sibling_took_does_not_shorten_the_next_ones_wait(
    board: Board, listener: socket.socket, clock: Clock
) -> None:
    mine = share_of(worker(board), listener)
    worker(board)
    for _ in range(100):
        assert mine.leaves(50)
        clock.now += AGAIN
        mine.look()  # nobody waits: it was taken


def test_what_may_be_taken_at_once_does_not_keep(board: Board, listener: socket.socket, clock: Clock) -> None:
    mine = share_of(worker(board), listener)
    worker(board)
    assert mine.leaves(50)
    clock.now += PATIENCE + AGAIN
    assert not mine.leaves(50)
    mine.look()  # nobody waits any more
    assert mine.leaves(50)
