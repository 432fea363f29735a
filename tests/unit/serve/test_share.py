"""Whose the next connection is, by what the board says."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from farrier.serve.board import NOT_TAKING, Board, Slot
from farrier.serve.workers import share as shares
from farrier.serve.workers.share import AGAIN, PATIENCE, SHUNNED, Share

THREADS = 4


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(shares, "time", made)
    return made


@pytest.fixture
def board() -> Board:
    return Board(8)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[list[socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield [made]


def worker(board: Board, connections: int = 0, in_hand: int = 0) -> Slot:
    """One that holds so many and listens where all do."""
    slot = board.take()
    share_of(slot)
    slot.connections, slot.in_hand = connections, in_hand
    return slot


def share_of(slot: Slot | None, sockets: list[socket.socket] | None = None, at_once: int = THREADS) -> Share:
    return Share(slot, sockets or [], at_once)


def test_it_leaves_them_to_whoever_holds_fewer_and_takes_an_eighth_more(board: Board) -> None:
    mine = share_of(worker(board))
    worker(board, 16)
    assert [mine.leaves(held) for held in (0, 16, 19, 20)] == [False, False, False, True]


def test_one_that_holds_nothing_yet_is_asked_at_the_second_newcomer(board: Board) -> None:
    mine = share_of(worker(board))
    worker(board)
    assert [mine.leaves(held) for held in (0, 1, 2)] == [False, False, True]


def test_all_that_hold_fewer_are_preferred(board: Board) -> None:
    mine = share_of(worker(board))
    worker(board, 7)
    fewest = worker(board, 3)
    assert mine.preferred(20) == {fewest.index: 3, fewest.index - 1: 7}


def test_who_takes_none_or_is_not_there_yet_or_is_gone_is_not_waited_for(board: Board) -> None:
    mine, full, gone = share_of(worker(board)), worker(board), worker(board)
    board.take()  # forked, and loads the app
    assert mine.leaves(50)
    share_of(full).tell(None)
    assert mine.leaves(50)
    board.give_back(gone)
    assert not mine.leaves(50)


def test_one_that_drains_is_not_waited_for_and_waits_for_nobody(board: Board) -> None:
    drains, slot = worker(board), worker(board)
    share_of(drains).end()
    mine = share_of(slot)
    assert not mine.leaves(50)
    drains.connections = 0
    assert mine.leaves(50)
    mine.end()
    assert not mine.leaves(50)
    mine.tell(3)
    assert slot.connections == NOT_TAKING


def test_without_a_board_or_with_a_queue_of_its_own_it_takes_whoever_comes(
    board: Board, elsewhere: list[socket.socket]
) -> None:
    slot = worker(board)
    worker(board)
    assert share_of(slot).leaves(50)
    assert not share_of(None).leaves(50)
    assert not share_of(slot, elsewhere).leaves(50)


def test_idle_connections_keep_nobody_from_a_worker_with_a_thread_free(board: Board) -> None:
    slot, busy = worker(board, in_hand=THREADS - 1), worker(board, in_hand=THREADS)
    mine = share_of(slot)
    assert not mine.leaves(50)
    busy.in_hand = THREADS - 1
    assert mine.leaves(50)
    busy.in_hand = slot.in_hand = THREADS
    assert mine.leaves(50)


def test_a_sibling_that_does_not_come_is_waited_for_once_in_a_while(board: Board, clock: Clock) -> None:
    mine = share_of(worker(board))
    still = worker(board)
    for _ in range(2):
        began = clock.now
        while mine.leaves(50):
            clock.now += AGAIN
        assert clock.now - began == pytest.approx(PATIENCE, abs=2 * AGAIN)
        assert not any(mine.leaves(50) for _ in range(1000))
        clock.now += SHUNNED
    assert mine.leaves(50)
    clock.now += PATIENCE + AGAIN
    assert not mine.leaves(50)
    still.connections = 1
    assert mine.leaves(50), "it is back"


def test_a_sibling_that_takes_them_is_left_them_for_ever(board: Board, clock: Clock) -> None:
    mine, other = share_of(worker(board)), worker(board)
    for number in range(100):
        other.connections = number % 2
        assert mine.leaves(50)
        clock.now += PATIENCE - AGAIN


def test_the_next_newcomer_is_waited_for_anew(board: Board, clock: Clock) -> None:
    mine = share_of(worker(board))
    worker(board)
    for _ in range(10):
        assert mine.leaves(50)
        clock.now += SHUNNED + 1  # it was taken, and is gone again


def test_an_end_tells_whether_somebody_may_wait(board: Board) -> None:
    worker(board)
    left, never = share_of(worker(board, 50)), share_of(worker(board, 50))
    assert left.leaves(50)
    assert [left.end(), never.end()] == [True, False]


def test_one_patience_for_all_that_do_not_come_however_seldom_it_looks(board: Board, clock: Clock) -> None:
    mine = share_of(worker(board))
    for number in range(5):
        worker(board, number)
    assert mine.leaves(50)
    clock.now += 0.4  # its own loop is slow
    assert not any(mine.leaves(50) for _ in range(100))


def test_one_that_is_far_busier_is_not_preferred_for_its_few_connections(board: Board) -> None:
    slot, busy = worker(board, in_hand=1), worker(board, in_hand=11)
    mine = share_of(slot, at_once=1000)
    assert not mine.leaves(200)
    busy.in_hand = 10
    assert mine.leaves(200)


def test_workers_see_those_that_were_forked_after_them(board: Board) -> None:
    mine = share_of(worker(board, 50))
    assert not mine.leaves(50)
    for _ in range(6):
        worker(board, 50)
    last = worker(board)
    assert mine.preferred(50) == {last.index: 0}
