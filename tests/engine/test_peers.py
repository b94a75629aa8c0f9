"""How the end of one process reaches the others, in threads instead of processes."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest
import torch

from resdet.engine import distributed, peers
from resdet.engine.distributed import Processes, in_step
from resdet.engine.peers import Meeting, PeerError, Peers, greet
from resdet.errors import Reported, UserError


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """The errors with which processes leave by themselves, after a short time."""
    errors: list[BaseException] = []
    monkeypatch.setattr(peers, "GRACE_S", 0.1)
    monkeypatch.setattr(peers, "NEWS_S", 5)
    monkeypatch.setattr(peers, "leave", errors.append)
    return errors


def connected(count: int) -> list[Peers]:
    pairs = {rank: socket.socketpair() for rank in range(1, count)}
    main = Peers(0, {rank: pair[0] for rank, pair in pairs.items()})
    return [main, *(Peers(rank, {0: pair[1]}) for rank, pair in pairs.items())]


def killed(process: Peers) -> None:
    """What the system does to the connections of a process that dies."""
    process._is_leaving = True
    for connection in process._connections.values():
        connection.shutdown(socket.SHUT_RDWR)


EXCHANGE = RuntimeError("Connection closed by peer")


@pytest.mark.usefixtures("ended")
def test_the_main_process_reports_an_error_of_another() -> None:
    main, one, two = connected(3)
    assert isinstance(one.end(UserError("a.png: broken; remove it")), Reported)
    error = main.end(EXCHANGE)
    assert isinstance(error, PeerError) and str(error) == "process 1: a.png: broken; remove it"
    assert isinstance(two.end(EXCHANGE), Reported)


@pytest.mark.usefixtures("ended")
def test_a_killed_process_is_reported_once() -> None:
    main, one, two = connected(3)
    killed(two)
    assert "process 2 ended without a message, most likely killed" in str(main.end(EXCHANGE))
    assert isinstance(one.end(EXCHANGE), Reported)


@pytest.mark.usefixtures("ended")
def test_process_1_reports_that_the_main_one_is_killed() -> None:
    main, one, two = connected(3)
    killed(main)
    assert "process 0 ended without a message" in str(one.end(EXCHANGE))
    assert isinstance(two.end(EXCHANGE), Reported)


@pytest.mark.usefixtures("ended")
def test_an_error_that_all_meet_is_the_main_ones() -> None:
    main, one = connected(2)
    error = UserError("train.batch_size 3 does not split")
    assert isinstance(one.end(UserError(*error.args)), Reported)
    assert main._news.wait(5)
    assert main.end(error) is error


@pytest.mark.usefixtures("ended")
def test_a_bug_keeps_its_traceback_where_it_is() -> None:
    main, one = connected(2)
    bug = KeyError("loss")
    one._news.set()  # no need to wait for news
    assert one.end(bug) is bug
    assert str(main.end(EXCHANGE)) == "process 1: KeyError: 'loss'"


def test_a_process_that_waits_for_a_lost_one_leaves(ended: list[BaseException]) -> None:
    """As one does whose GPU waits; its main thread never gets to see the error."""
    main, one, two = connected(3)
    killed(one)
    deadline = time.monotonic() + 10
    while len(ended) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(type(error).__name__ for error in ended) == ["PeerError", "Reported"]
    assert main.lost == (1, "") and two.lost == (0, "process 1 has ended")


def test_processes_that_end_together_report_nothing(ended: list[BaseException]) -> None:
    together = connected(3)
    for process in together:
        process.part()
    time.sleep(0.2)
    assert not ended and not any(process.lost for process in together)


def test_processes_meet_and_strangers_do_not_count() -> None:
    meeting = Meeting()
    found: dict[int, socket.socket] = {}
    waiting = threading.Thread(target=lambda: found.update(meeting.connections(2)))
    waiting.start()
    with socket.create_connection(("localhost", meeting.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n12345")
    own = [greet("localhost", meeting.port, meeting.secret, rank) for rank in (1, 2)]
    waiting.join(timeout=10)
    assert sorted(found) == [1, 2]
    with pytest.raises(UserError, match="process 3 cannot connect to the main one"):
        greet("localhost", meeting.port, meeting.secret, 3)
    for connection in (*own, *found.values()):
        connection.close()


def test_a_fault_of_one_process_stops_all_before_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads as two processes, whose exchanges meet at a barrier."""
    barrier, slots = threading.Barrier(2), [None, None]

    def gather(value: Any, processes: Processes) -> list[Any]:
        slots[processes.rank] = value
        barrier.wait(10)
        values = list(slots)
        barrier.wait(10)
        return values

    monkeypatch.setattr(distributed, "gather", gather)
    monkeypatch.setattr(distributed, "any_process", lambda flag, p: any(gather(flag, p)))

    def batches(rank: int) -> Any:
        yield from range(3)
        if rank == 1:
            raise UserError("worker 7 was ended by SIGKILL")
        yield from range(3, 9)

    ends: dict[int, tuple[list[int], str]] = {}

    def run(rank: int) -> None:
        seen: list[int] = []
        try:
            for batch in in_step(batches(rank), Processes(rank, 2, 2, torch.device("cpu"))):
                seen.append(batch)
        except UserError as error:
            ends[rank] = seen, str(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert ends == {
        0: ([0, 1, 2], "process 1: worker 7 was ended by SIGKILL"),
        1: ([0, 1, 2], "worker 7 was ended by SIGKILL"),
    }
