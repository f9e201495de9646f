from __future__ import annotations

import email.policy
import smtplib
import socket
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from dataguardian.domain.errors import NotifierError, NotifierRejectedError, NotifierTransientError, UsageError
from dataguardian.domain.urls import parse_url
from dataguardian.notifiers.mail import MailConfig, MailNotifier, compose
from tests.notifiers import peers
from tests.notifiers.conftest import Told
from tests.notifiers.peers import ASCII_PASSWORD, PASSWORD, USERNAME, Certificate, Mailbox
from tests.notifiers.samples import notification

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")


def _config(port: int, /, **changes: Any) -> MailConfig:
    fields = {
        "host": "127.0.0.1",
        "port": port,
        "security": "none",
        "sender": "backup@example.com",
        "recipients": ["ops@example.com", "boss@example.org"],
        "timeout_seconds": 10,
    }
    return MailConfig.model_validate(fields | changes)


def _login(password: str) -> dict[str, str]:
    return {"username": USERNAME, "password": password}


def _received(mailbox: Mailbox) -> EmailMessage:
    (envelope,) = mailbox.envelopes
    assert isinstance(envelope.content, bytes)
    message = BytesParser(policy=email.policy.default).parsebytes(envelope.content)
    assert isinstance(message, EmailMessage)
    return message


def _body(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content())


def test_a_message_arrives_as_it_was_meant() -> None:
    """All recipients get one message with the headers of an automatic one, in plain text and in HTML."""
    with peers.smtp_server() as mailbox:
        MailNotifier(_config(mailbox.port)).send(notification(title="Sicherung für <shop> ✗"))
    message = _received(mailbox)
    assert mailbox.envelopes[0].rcpt_tos == ["ops@example.com", "boss@example.org"]
    assert mailbox.envelopes[0].mail_from == "backup@example.com"
    assert message["Subject"] == "[DataGuardian] Sicherung für <shop> ✗"
    assert message["Date"].datetime == notification().created_at
    assert message["Message-ID"] == f"<{notification().id}@example.com>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert "pg_dump ended with 1\nconnection lost" in _body(message, "plain").replace("\r\n", "\n")
    assert "Sicherung für &lt;shop&gt; ✗" in _body(message, "html")


def test_starttls_with_a_login(certificate: Certificate) -> None:
    """On the submission port the connection is secured first, checked against the named authority, then signed in."""
    with peers.smtp_server(starttls=certificate.context, login=ASCII_PASSWORD) as mailbox:
        config = _config(
            mailbox.port, security="starttls", host="localhost", ca_file=certificate.file, **_login(ASCII_PASSWORD)
        )
        MailNotifier(config).send(notification())
    assert mailbox.secured == [True]
    assert mailbox.logins


def test_tls_from_the_first_byte_with_a_login_beyond_ascii(certificate: Certificate) -> None:
    """SMTPS works, and so does a password with umlauts, which smtplib itself cannot send."""
    with peers.smtp_server(tls=certificate.context, login=PASSWORD) as mailbox:
        MailNotifier(_config(mailbox.port, security="tls", ca_file=certificate.file, **_login(PASSWORD))).send(
            notification()
        )
    assert mailbox.secured == [True]
    assert mailbox.logins == ["PLAIN"]


@pytest.mark.parametrize("password", ["wrong-password-1", "wröng-password-2"])
def test_a_refused_login_is_permanent(password: str, told: Told) -> None:
    """A wrong password is told as such, without the password, and not tried again."""
    with (
        peers.smtp_server(login=ASCII_PASSWORD) as mailbox,
        pytest.raises(NotifierRejectedError, match="login") as error,
    ):
        MailNotifier(_config(mailbox.port, **_login(password))).send(notification())
    assert mailbox.logins
    assert not mailbox.envelopes
    assert password not in told(error.value)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_that_nobody_vouches_for_is_refused(security: str, certificate: Certificate) -> None:
    """Without the authority's file the message is not sent, unless the check is switched off."""
    context: dict[str, Any] = {security: certificate.context}
    with peers.smtp_server(**context) as mailbox:
        with pytest.raises(NotifierRejectedError, match="not trusted"):
            MailNotifier(_config(mailbox.port, security=security)).send(notification())
        assert not mailbox.envelopes
        MailNotifier(_config(mailbox.port, security=security, verify_tls=False)).send(notification())
        assert mailbox.secured == [True]


def test_a_server_without_starttls_gets_nothing() -> None:
    """A server, or somebody in between, that does not offer STARTTLS does not see the message nor the password."""
    with peers.smtp_server(login=ASCII_PASSWORD) as mailbox, pytest.raises(NotifierRejectedError, match="STARTTLS"):
        MailNotifier(_config(mailbox.port, security="starttls", **_login(ASCII_PASSWORD))).send(notification())
    assert not mailbox.envelopes
    assert not mailbox.logins


def test_a_server_without_login_is_refused() -> None:
    """A password for a server that knows no logins is a wrong configuration."""
    with peers.smtp_server() as mailbox, pytest.raises(NotifierRejectedError, match="no login"):
        MailNotifier(_config(mailbox.port, **_login("x"))).send(notification())


def test_tls_on_a_plain_port_says_so() -> None:
    """SMTPS to a port that speaks clear text ends in words about TLS."""
    with peers.smtp_server() as mailbox, pytest.raises(NotifierTransientError, match="TLS"):
        MailNotifier(_config(mailbox.port, security="tls")).send(notification())


def test_an_authority_file_that_is_missing_is_named(tmp_path: Path, certificate: Certificate) -> None:
    """A wrong path of ca_file is told, not mistaken for a network error."""
    with peers.smtp_server(tls=certificate.context) as mailbox, pytest.raises(NotifierRejectedError, match="nowhere"):
        MailNotifier(_config(mailbox.port, security="tls", ca_file=str(tmp_path / "nowhere.pem"))).send(notification())


def test_a_refused_recipient_is_named_and_the_others_have_the_message() -> None:
    """One unknown address is a permanent error that names it; the other recipient got the message."""
    with peers.smtp_server() as mailbox:
        mailbox.answers["boss@example.org"] = "550 no such user"
        with pytest.raises(NotifierRejectedError, match=r"boss@example\.org: 550 no such user"):
            MailNotifier(_config(mailbox.port)).send(notification())
    assert mailbox.envelopes[0].rcpt_tos == ["ops@example.com"]


def test_a_recipient_to_try_later_is_worth_retrying() -> None:
    """A mailbox that is full for now makes the queue try again, even when another one is refused for good."""
    with peers.smtp_server() as mailbox:
        mailbox.answers |= {"boss@example.org": "452 full", "ops@example.com": "550 unknown"}
        with pytest.raises(NotifierTransientError, match="452 full"):
            MailNotifier(_config(mailbox.port)).send(notification())
    assert not mailbox.envelopes


def test_an_answer_that_repeats_the_password_is_not_repeated(told: Told) -> None:
    """A server that puts the password into its refusal does not get it into our error."""
    with peers.smtp_server(login=ASCII_PASSWORD) as mailbox:
        mailbox.answers["DATA"] = f"554 go away with your {ASCII_PASSWORD}"
        with pytest.raises(NotifierRejectedError, match="554") as error:
            MailNotifier(_config(mailbox.port, **_login(ASCII_PASSWORD))).send(notification())
    assert ASCII_PASSWORD not in told(error.value)


def test_a_silent_server_after_the_message_does_not_make_it_fail() -> None:
    """A server that took the message and then says nothing to QUIT has taken it: a retry would send it twice."""

    def script(connection: socket.socket, server: peers.Misbehaving) -> None:
        connection.sendall(b"220 hello\r\n")
        lines = connection.makefile("rb")
        for line in lines:
            if line.lower().startswith(b"quit"):
                server.over.wait()
            connection.sendall(b"354 go\r\n" if line.lower().startswith(b"data") else b"250 OK\r\n")
            if line.lower().startswith(b"data"):
                while lines.readline() != b".\r\n":
                    pass
                connection.sendall(b"250 taken\r\n")

    with peers.misbehaving_server(script) as server, peers.stopwatch() as elapsed:
        MailNotifier(_config(server.port, timeout_seconds=60)).send(notification())
        assert elapsed() < 30  # to wait for a word until its time is up would take twice as long
    assert server.fired


def test_a_handshake_that_never_ends_is_bounded() -> None:
    """A server that hangs in the middle of STARTTLS is left in time."""

    def script(connection: socket.socket, server: peers.Misbehaving) -> None:
        connection.sendall(b"220 hello\r\n")
        connection.recv(1000)
        connection.sendall(b"250-hello\r\n250 STARTTLS\r\n")
        connection.recv(1000)
        connection.sendall(b"220 go\r\n")
        server.over.wait()

    with peers.misbehaving_server(script) as server, peers.stopwatch() as elapsed:
        with pytest.raises(NotifierTransientError, match="in time"):
            MailNotifier(_config(server.port, security="starttls", timeout_seconds=1)).send(notification())
        assert elapsed() < 20  # the server would hang for ever
    assert server.fired


@pytest.mark.parametrize("answer", [b"334 x\r\n", b"334 \xff\xfe\r\n", b"hello\r\n", b"x" * 20000])
def test_nonsense_in_a_login_is_an_error_of_ours(answer: bytes, told: Told) -> None:
    """A challenge that cannot be decoded, or no answer in SMTP at all, does not end in an error of a library."""

    def script(connection: socket.socket, server: peers.Misbehaving) -> None:
        connection.sendall(b"220 hello\r\n")
        connection.recv(1000)
        connection.sendall(b"250-hello\r\n250 AUTH CRAM-MD5\r\n")
        connection.recv(1000)
        connection.sendall(answer)
        connection.recv(1000)

    with peers.misbehaving_server(script) as server, pytest.raises(NotifierError) as error:
        MailNotifier(_config(server.port, timeout_seconds=5, **_login(ASCII_PASSWORD))).send(notification())
    assert server.fired
    assert ASCII_PASSWORD not in told(error.value)


def test_what_comes_in_clear_before_tls_is_forgotten(certificate: Certificate) -> None:
    """Answers slipped in behind the 220 of STARTTLS, by somebody in between, are not taken for the server's."""

    def script(connection: socket.socket, server: peers.Misbehaving) -> None:
        connection.sendall(b"220 hello\r\n")
        connection.recv(1000)
        connection.sendall(b"250-hello\r\n250 STARTTLS\r\n")
        connection.recv(1000)
        connection.sendall(b"220 go\r\n250-injected\r\n250 AUTH PLAIN\r\n")
        with certificate.context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(1000)
            secured.sendall(b"250 plain\r\n")
            server.over.wait()

    config = {"security": "starttls", "ca_file": certificate.file, "timeout_seconds": 3, **_login("x")}
    with (
        peers.misbehaving_server(script) as server,
        pytest.raises((NotifierRejectedError, NotifierTransientError)) as e,
    ):
        MailNotifier(_config(server.port, **config)).send(notification())
    assert server.fired
    assert "250" not in str(e.value)


INJECTIONS = ["\r\nBcc: evil@example.com", "\nBcc: evil@example.com", "\rBcc: evil@example.com"]
INJECTIONS += [f"{char}Bcc: evil@example.com" for char in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\x00"]


@pytest.mark.parametrize("injection", INJECTIONS, ids=ascii)
def test_a_title_adds_no_header(injection: str) -> None:
    """Whatever ends a line for some program stays inside the subject."""
    message = compose(notification(title=f"Failed{injection}\r\n\r\nbody"), _config(25))
    parsed = BytesParser(policy=email.policy.default).parsebytes(message.as_bytes())
    assert parsed["Bcc"] is None
    assert "Bcc: evil@example.com" in parsed["Subject"]
    assert parsed["Subject"].startswith("[DataGuardian] Failed")


def test_a_body_adds_no_command() -> None:
    """A line of one full stop, which ends a message in SMTP, arrives as it is."""
    with peers.smtp_server() as mailbox:
        text = "before\n.\nMAIL FROM:<evil@example.com>\n..\nafter"
        MailNotifier(_config(mailbox.port)).send(notification(message=text))
    assert text in _body(_received(mailbox), "plain").replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("recipients", ["öps@example.com"], "ASCII"),
        ("recipients", ["ops@exämple.com"], "xn--"),
        ("recipients", ["ops@example.com\r\nBcc: evil@example.com"], "plain address"),
        ("recipients", ["Ops <ops@example.com>"], "plain address"),
        ("recipients", [".ops@example.com"], "recipients"),
        ("recipients", [], "at least 1"),
        ("sender", "nobody", "plain address"),
        ("host", "mail\r\nexample.com", "host name"),
        ("host", "", "host name"),
        ("username", "alone", "go together"),
        ("port", 0, "greater"),
        ("timeout_seconds", 0, "greater"),
    ],
)
def test_a_wrong_configuration_is_refused(field: str, value: object, words: str) -> None:
    """What cannot work, or could smuggle something in, is refused before anything is sent."""
    with pytest.raises(ValidationError, match=words):
        _config(25, **{field: value})


def test_a_wrong_configuration_does_not_show_the_password() -> None:
    """The error about one field does not print the others."""
    with pytest.raises(ValidationError) as error:
        _config(25, password=ASCII_PASSWORD)
    assert ASCII_PASSWORD not in str(error.value)


def test_an_address_makes_a_configuration() -> None:
    """smtp:// means STARTTLS, smtps:// TLS, each with its port; the rest are options."""
    url = parse_url(
        "smtp://me:p%40ss@mail.example.com?from=a%40example.com&to=b%40example.com,c%40example.com&verify_tls=no"
    )
    config = MailConfig.from_url(url)
    assert (config.security, config.effective_port, config.verify_tls) == ("starttls", 587, False)
    assert config.recipients == ("b@example.com", "c@example.com")
    assert config.password is not None
    assert config.password.get_secret_value() == "p@ss"
    secured = MailConfig.from_url(parse_url("smtps://mail.example.com?from=a@example.com&to=b@example.com"))
    assert (secured.security, secured.effective_port) == ("tls", 465)
    assert secured.describe() == "smtps://mail.example.com:465"


@pytest.mark.parametrize("rest", ["?to=b%40b.c", "?from=a%40b.c&to=b%40b.c&colour=red", "?from=a%40b.c"])
def test_a_wrong_address_is_a_wrong_usage(rest: str) -> None:
    """What is missing or unknown in an address is said without the password."""
    with pytest.raises(UsageError) as error:
        MailConfig.from_url(parse_url(f"smtp://me:{ASCII_PASSWORD}@mail.example.com{rest}"))
    assert ASCII_PASSWORD not in f"{error.value} {error.value.hint}"


def test_the_machine_names_itself_without_asking_a_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The greeting does not wait for reverse DNS, which smtplib's default would."""

    def refuse(*_: object) -> str:
        raise AssertionError("asked for the full name")

    with peers.smtp_server() as mailbox:
        monkeypatch.setattr(smtplib, "socket", SimpleNamespace(**vars(socket) | {"getfqdn": refuse}))
        MailNotifier(_config(mailbox.port)).send(notification())
    assert len(mailbox.envelopes) == 1
