from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from dataguardian.notifiers._timelimit import TimeLimit, within
from tests.notifiers import peers
from tests.servers import free_port


def test_a_result_and_an_error_pass_through() -> None:
    """Work that ends in time is as if it had been called directly."""
    assert within(5, lambda limit: limit.remaining > 4)
    with pytest.raises(KeyError):
        within(5, lambda limit: {"known": 1}["missing"])


def test_the_caller_goes_on_and_the_connection_ends() -> None:
    """When time is up, a thread that waits in a read is woken by the end of its connection, and no thread stays."""
    ended = threading.Event()

    def work(limit: TimeLimit) -> None:
        connection = limit.connect("127.0.0.1", server.port)
        connection.recv(1)
        ended.set()

    with peers.misbehaving_server(peers.hang) as server, peers.stopwatch() as elapsed:
        with pytest.raises(TimeoutError):
            within(0.5, work)
        assert elapsed() < 20  # the server would hang for ever
        assert ended.wait(20)
    assert server.fired == 1


def test_work_that_wakes_late_cannot_connect_any_more() -> None:
    """A name server that answers after the end does not lead to a message that nobody waits for."""
    go_on, over = threading.Event(), threading.Event()
    outcome: list[TimeoutError] = []

    def work(limit: TimeLimit) -> None:
        go_on.wait(60)
        try:
            limit.connect("127.0.0.1", server.port)
        except TimeoutError as error:
            outcome.append(error)
        over.set()

    with peers.misbehaving_server(peers.hang) as server:
        with pytest.raises(TimeoutError):
            within(0.2, work)
        go_on.set()
        assert over.wait(60)
    assert outcome


def test_the_next_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with an address of a kind that this machine lacks, a dead and a living one is reached."""
    with peers.misbehaving_server(peers.hang) as server:
        addresses: list[Any] = [
            (socket.AF_X25, socket.SOCK_STREAM, 6, "", ("nowhere", 1)),
            *((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in (free_port(), server.port)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        assert within(5, lambda limit: limit.connect("anywhere", 1).getpeername()[1]) == server.port
