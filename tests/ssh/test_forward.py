"""Tunnels: bytes go through, and what stops them is said."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dataguardian.domain.errors import (
    AuthenticationError,
    DumpFailedError,
    MissingToolError,
    NotAllowedError,
    UnreachableError,
    UsageError,
)
from dataguardian.ssh import SshTarget, forwarded
from dataguardian.ssh.client import ConnectionLostError
from tests.servers import free_port
from tests.ssh.sshd import SshServer, ssh_server

MEGABYTE = 10**6


@contextmanager
def echo() -> Iterator[int]:
    """A server that sends everything back; yields its port."""

    def answer(client: socket.socket) -> None:
        with client:
            while data := client.recv(65536):
                client.sendall(data)

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def exchange(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as client:
        sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
        sender.start()
        answer = b"".join(iter(lambda: client.recv(65536), b""))
        sender.join()
    return answer


def test_bytes_come_through_both_ways(sshd: SshServer) -> None:
    """Several connections at once, a large one among them, and each ends when its sender has."""
    with echo() as port, forwarded(sshd.target(), "127.0.0.1", port) as local:
        large = bytes(range(256)) * (MEGABYTE // 64)
        assert exchange(local, large) == large
        here = ("127.0.0.1", local)
        with socket.create_connection(here) as one, socket.create_connection(here) as two:
            one.sendall(b"one")
            two.sendall(b"two")
            assert (one.recv(3), two.recv(3)) == (b"one", b"two")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(here)


def fail_behind(target: SshTarget, port: int, answer: bytes, error: Exception) -> None:
    """Sends a byte through a tunnel, expects the answer, and fails as a client program does then."""
    with forwarded(target, "127.0.0.1", port) as local:
        assert exchange(local, b"x") == answer
        raise error


def test_a_target_that_does_not_answer_explains_what_failed(sshd: SshServer) -> None:
    """The client program only sees its connection close; the error says which step of the way is broken."""
    with pytest.raises(UnreachableError, match=r"through the SSH tunnel.*refused"):
        fail_behind(sshd.target(), free_port(), b"", DumpFailedError("the server closed the connection"))


def test_a_server_that_forwards_nothing_says_so() -> None:
    """AllowTcpForwarding no is for the administrator to change, not to be tried again."""
    with ssh_server(settings="AllowTcpForwarding no") as server:
        with pytest.raises(NotAllowedError, match="does not let us through") as caught:
            fail_behind(server.target(), 1, b"", DumpFailedError("the server closed the connection"))
        assert "AllowTcpForwarding" in caught.value.hint


def break_in_the_middle(server: SshServer, port: int) -> None:
    with (
        forwarded(server.target(), "127.0.0.1", port) as local,
        socket.create_connection(("127.0.0.1", local)) as client,
    ):
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        server.stop()
        assert client.recv(1) == b""
        raise DumpFailedError("pg_dump lost the server")


def test_a_tunnel_that_breaks_is_named(own_sshd: SshServer) -> None:
    """A killed sshd is the reason, whatever the client program thinks."""
    with echo() as port, pytest.raises(ConnectionLostError, match=r"tunnel.*broke.*lost the server"):
        break_in_the_middle(own_sshd, port)


def test_other_errors_pass_as_they_are(sshd: SshServer) -> None:
    """Wrong usage stays wrong usage, and an error behind a good tunnel is the target's own."""
    for error in (UsageError("no"), DumpFailedError("no"), ValueError("no")):
        with echo() as port, pytest.raises(type(error)) as caught:
            fail_behind(sshd.target(), port, b"x", error)
        assert caught.value is error


def test_who_may_not_sign_in_gets_no_tunnel(sshd: SshServer) -> None:
    """The error is the one of signing in."""
    with (
        pytest.raises(AuthenticationError),
        forwarded(sshd.target(private_key_file=str(sshd.wrong_key)), "127.0.0.1", 1),
    ):
        pytest.fail("there is no tunnel")


def test_without_the_library_it_is_named(sshd: SshServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is called ssh, whichever engine wants the tunnel."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingToolError) as caught, forwarded(sshd.target(), "127.0.0.1", 1):
        pytest.fail("there is no library")
    assert "dataguardian[ssh]" in caught.value.hint
