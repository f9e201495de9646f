"""Signing in: with what, to whom, and what is said when it does not work."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from pydantic import ValidationError

from dataguardian.domain.errors import (
    AuthenticationError,
    DataGuardianError,
    NotAllowedError,
    UnreachableError,
    UsageError,
    is_transient,
)
from dataguardian.ssh import SshTarget
from dataguardian.ssh.client import ConnectionLostError, connect, run
from tests.servers import free_port
from tests.ssh.sshd import PASSPHRASE, SshServer


def sign_in(target: SshTarget, **options: Any) -> str:
    """Signs in and out again; returns the cipher."""

    async def work() -> str:
        connection = await connect(target, **options)
        cipher = str(connection.get_extra_info("send_cipher"))
        connection.abort()
        return cipher

    return run(work())


def test_a_key_opens_with_the_fast_cipher(sshd: SshServer) -> None:
    """aes128-gcm is asked for first: it is twice as fast as what asyncssh and sshd would agree on."""
    assert sign_in(sshd.target()) == "aes128-gcm@openssh.com"


@pytest.mark.parametrize(
    "form", ["file", "path in private_key", "text", "text with CRLF", "sealed file", "sealed text"]
)
def test_keys_come_as_text_or_as_a_path(sshd: SshServer, form: str) -> None:
    """What people paste into a form works as well as the name of a file, with a passphrase or without."""
    key = sshd.sealed_key if form.startswith("sealed") else sshd.key
    text = key.read_text(encoding="ascii")
    private_key = {"path": str(key), "CRLF": text.replace("\n", "\r\n")}.get(form.split(maxsplit=1)[0], text)
    given = {"private_key_file": str(key)} if form.endswith("file") else {"private_key": private_key}
    sign_in(sshd.target(**({"private_key_file": None} | given), passphrase=PASSPHRASE if "sealed" in form else None))


def test_a_refused_user_is_told_so(sshd: SshServer) -> None:
    """A wrong key, a wrong password and an unknown user are one answer, and no secret is in it."""
    for change in (
        {"private_key_file": str(sshd.wrong_key)},
        {"private_key_file": None, "password": "pä ss"},
        {"username": "dg-no-such-user"},
    ):
        with pytest.raises(AuthenticationError, match="refused the user") as caught:
            sign_in(sshd.target(**change))
        assert "pä ss" not in repr(caught.value.as_json())
        assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"private_key": "garbage"}, "cannot be read"),
        ({"private_key_file": "/no/such/key"}, "No such file"),
        ({"passphrase": "wrong"}, "does not open with this passphrase"),
        ({}, "has a passphrase"),
    ],
)
def test_a_key_that_cannot_be_used_is_wrong_usage(sshd: SshServer, change: dict[str, str], words: str) -> None:
    """Nobody is asked on a terminal, and nothing is sent to the server."""
    with pytest.raises(UsageError, match=words) as caught:
        sign_in(sshd.target(**({"private_key_file": str(sshd.sealed_key)} | change)))
    assert "garbage" not in str(caught.value)


def test_the_first_key_is_pinned_and_kept(own_sshd: SshServer, known_hosts: Path) -> None:
    """First use writes one line that ssh itself reads, for this user only; later uses change nothing."""
    sign_in(own_sshd.target())
    first = known_hosts.read_bytes()
    assert first.startswith(f"[127.0.0.1]:{own_sshd.port} ssh-ed25519 ".encode())
    assert stat.S_IMODE(known_hosts.stat().st_mode) == 0o600
    assert stat.S_IMODE(known_hosts.parent.stat().st_mode) == 0o700
    sign_in(own_sshd.target())
    assert known_hosts.read_bytes() == first
    found = subprocess.run(
        ["ssh-keygen", "-F", f"[127.0.0.1]:{own_sshd.port}", "-f", known_hosts], capture_output=True, check=False
    )
    assert found.returncode == 0


def test_a_changed_host_key_is_refused_for_good(own_sshd: SshServer, known_hosts: Path) -> None:
    """The error names both keys and the command that forgets the old one; that command then helps."""
    sign_in(own_sshd.target())
    old = own_sshd.fingerprint()
    own_sshd.stop()
    own_sshd.new_host_keys()
    own_sshd.start()
    with pytest.raises(AuthenticationError, match="host key") as caught:
        sign_in(own_sshd.target())
    assert not is_transient(caught.value)
    assert {old, own_sshd.fingerprint()} == {caught.value.details["expected"], caught.value.details["shown"]}
    command = f"ssh-keygen -R '[127.0.0.1]:{own_sshd.port}' -f '{known_hosts}'"
    assert command in caught.value.hint
    subprocess.run(command, shell=True, check=True, capture_output=True)
    sign_in(own_sshd.target())


def test_another_kind_of_key_does_not_pass_for_the_pinned_one(own_sshd: SshServer) -> None:
    """Who cannot show the pinned key does not get in with a key of a kind that was never seen."""
    sign_in(own_sshd.target())
    own_sshd.stop()
    own_sshd.start(only="ecdsa")
    with pytest.raises(AuthenticationError, match="host key"):
        sign_in(own_sshd.target())


def test_a_pinned_kind_is_asked_for(own_sshd: SshServer, known_hosts: Path) -> None:
    """A server that gets a key of a better kind beside its old one is still the known server."""
    own_sshd.stop()
    own_sshd.start(only="ecdsa")
    sign_in(own_sshd.target())
    own_sshd.stop()
    own_sshd.start()
    sign_in(own_sshd.target())
    assert known_hosts.read_text(encoding="ascii").count("\n") == 1


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_a_configured_host_key_counts_alone(sshd: SshServer, known_hosts: Path, kind: str) -> None:
    """A line of ssh-keyscan, a bare key and a fingerprint do, of any key that the server has; nothing is written."""
    line = sshd.host_key(kind)
    for host_key in (line, line.split(" ", 1)[1], sshd.fingerprint(kind)):
        sign_in(sshd.target(host_key=host_key))
    assert not known_hosts.exists()


def test_a_wrong_configured_host_key_is_refused(sshd: SshServer) -> None:
    """Before anything is sent that proves who we are."""
    stranger = sshd.wrong_key.with_suffix(".pub").read_text(encoding="ascii")
    for host_key in (stranger, "SHA256:" + "A" * 43):
        with pytest.raises(AuthenticationError, match="host key"):
            sign_in(sshd.target(host_key=host_key))
    with pytest.raises(UsageError, match="no host key"):
        sign_in(sshd.target(host_key="ssh-ed25519 AAAAnonsense"))
    with pytest.raises(ValueError, match="no host key"):
        sshd.target(host_key="nonsense")


def test_people_may_write_the_file_too(sshd: SshServer, known_hosts: Path) -> None:
    """Comments, hashed names and a missing last line end are OpenSSH's ways, and ours."""
    known_hosts.parent.mkdir()
    known_hosts.write_text(f"# ours\n{sshd.host_key()}", encoding="ascii")
    subprocess.run(["ssh-keygen", "-H", "-f", known_hosts], check=True, capture_output=True)
    known_hosts.write_text(known_hosts.read_text(encoding="ascii") + "# no line end", encoding="ascii")
    before = known_hosts.read_bytes()
    assert b"127.0.0.1" not in before
    sign_in(sshd.target())
    assert known_hosts.read_bytes() == before
    sign_in(sshd.target(host="localhost"))
    assert known_hosts.read_bytes().startswith(before + b"\n[localhost]")


def test_a_damaged_or_forbidden_file_stops_us(sshd: SshServer, known_hosts: Path) -> None:
    """A file that cannot be read must not be taken for one that knows nobody."""
    known_hosts.parent.mkdir()
    known_hosts.write_bytes(b"@nonsense\n")
    with pytest.raises(NotAllowedError, match="known host keys"):
        sign_in(sshd.target())
    known_hosts.unlink()
    known_hosts.parent.rmdir()
    known_hosts.parent.write_bytes(b"")
    with pytest.raises(NotAllowedError, match=r"known host keys|cannot be kept"):
        sign_in(sshd.target())


def test_many_first_uses_pin_one_key(sshd: SshServer, known_hosts: Path) -> None:
    """Threads that come at once write one line."""
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(sign_in, [sshd.target()] * 6))
    assert known_hosts.read_text(encoding="ascii").count("\n") == 1


def test_nothing_there_is_told_apart(sshd: SshServer) -> None:
    """A name that does not exist, a closed port and a silent machine are unreachable, and quickly so."""
    with pytest.raises(UnreachableError, match="cannot be resolved"):
        sign_in(sshd.target(host="no-such-host.invalid"))
    with pytest.raises(UnreachableError, match="cannot be reached"):
        sign_in(sshd.target(port=free_port()))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="did not answer"):
            sign_in(sshd.target(port=silent.getsockname()[1]), connect_seconds=0.5)
        assert time.monotonic() - began < 5


def hang_up(listener: socket.socket) -> None:
    client, _ = listener.accept()
    client.close()


def test_a_server_that_hangs_up_is_worth_another_try(sshd: SshServer) -> None:
    """sshd does so when too many knock at once (MaxStartups)."""
    with socket.create_server(("127.0.0.1", 0)) as rude:
        threading.Thread(target=hang_up, args=(rude,), daemon=True).start()
        with pytest.raises(ConnectionLostError) as caught:
            sign_in(sshd.target(port=rude.getsockname()[1]))
    assert is_transient(caught.value)


def test_a_password_opens(tmp_path: Path) -> None:
    """Also one with letters that no shell and no address likes (the server here is asyncssh's own)."""
    password = "pä ss'w\"or=d/@:#%&\\"

    class Server(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return True

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, given: str) -> bool:
            return (username, given) == ("us er", password)

    async def serve() -> asyncssh.SSHAcceptor:
        key = asyncssh.generate_private_key("ssh-ed25519")
        return await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=[key])

    server = run(serve())
    try:
        target = {"host": "127.0.0.1", "port": server.get_port(), "username": "us er"}
        sign_in(SshTarget(**target, password=password))
        with pytest.raises(AuthenticationError):
            sign_in(SshTarget(**target, password=password + "x"))
    finally:
        server.close()


def test_secrets_stay_out_of_sight() -> None:
    """Neither the address nor the representation of a target shows how one gets in."""
    target = SshTarget(host="h", username="u", password="geheim", private_key="geheim", passphrase="geheim")
    assert str(target) == "ssh://u@h"
    assert "geheim" not in repr(target) + target.model_dump_json()


@pytest.mark.parametrize("host", ["", "-oProxyCommand=x", "a b", "a/b", "u@h", "a\0b", "*", "a,b"])
def test_a_host_is_a_host(host: str) -> None:
    """What would mean something else in known_hosts is no host name."""
    with pytest.raises(ValidationError):
        SshTarget(host=host)


def test_the_library_is_loaded_when_it_is_needed() -> None:
    """Every start of the program imports this module; most never sign in anywhere."""
    code = "import sys, dataguardian.ssh, dataguardian.storage.ssh; sys.exit('asyncssh' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_errors_are_ours(sshd: SshServer) -> None:
    """Nothing of the library's own leaks, whatever is wrong."""
    for change in ({"private_key_file": str(sshd.wrong_key)}, {"port": free_port()}, {"host": "no-such-host.invalid"}):
        with pytest.raises(DataGuardianError) as caught:
            sign_in(sshd.target(**change))
        assert caught.value.__cause__ is not None
