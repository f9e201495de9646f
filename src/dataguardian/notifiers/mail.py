"""E-mail over SMTP: `smtp://` with STARTTLS (or without, when told so), `smtps://` with TLS from the first byte.

One message goes to all recipients. When the server takes it for some of them only, those have it, and the error names
the others: a retry for them reaches the first ones again, with the same Message-ID.
"""

from __future__ import annotations

import base64
import re
import smtplib
import socket
import ssl
import unicodedata
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from html import escape
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator

from dataguardian.domain.clock import to_iso
from dataguardian.domain.errors import NotifierError, NotifierRejectedError, NotifierTransientError, UsageError
from dataguardian.domain.notifications import Notification
from dataguardian.domain.states import Severity
from dataguardian.domain.urls import Url
from dataguardian.notifiers._network import network_error, tls_context
from dataguardian.notifiers._timelimit import TimeLimit, within
from dataguardian.notifiers.base import Notifier, NotifierAdapter, NotifierConfig

Security = Literal["starttls", "tls", "none"]

_PORTS: dict[Security, int] = {"starttls": 587, "tls": 465, "none": 25}
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_MAX_REPLY = 200
_AUTHENTICATED = 235
_PERMANENT = 500
_OPTIONS = ("from", "to", "security", "verify_tls", "ca_file", "timeout_seconds")


def _address(text: str) -> str:
    if not text.isascii():
        raise ValueError("must be ASCII: write an international domain in its xn-- form")
    if not _ADDRESS.fullmatch(text) or ".." in text:
        raise ValueError("must be a plain address such as ops@example.com, without a name or brackets")
    Address(addr_spec=text)
    return text


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError("must be a host name or an IP address; write an international name in its xn-- form")
    return text


def _one_line(value: SecretStr) -> SecretStr:
    if re.search(r"[\x00\r\n]", value.get_secret_value()):
        raise ValueError("must not hold line breaks or zero bytes")
    return value


MailAddress = Annotated[str, AfterValidator(_address)]


class MailConfig(NotifierConfig):
    """A mail server. `port` None means 587, 465 or 25, as `security` says; `ca_file` replaces the system's list."""

    type: Literal["email"] = "email"
    host: Annotated[str, AfterValidator(_host)]
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    security: Security = "starttls"
    username: Annotated[str, Field(pattern=r"^[^\x00\r\n]+$")] | None = None
    password: Annotated[SecretStr, AfterValidator(_one_line)] | None = None
    sender: MailAddress
    recipients: Annotated[tuple[MailAddress, ...], Field(min_length=1, max_length=100)]
    verify_tls: bool = True
    ca_file: str | None = None

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        return self

    @classmethod
    def from_url(cls, url: Url) -> Self:
        unknown = sorted(url.query.keys() - set(_OPTIONS))
        if unknown:
            raise UsageError(f"an {url.scheme}:// address has no option {unknown[0]!r}", hint=", ".join(_OPTIONS))
        fields: dict[str, object] = {"host": url.host or "", "port": url.port, **url.query}
        fields |= {"username": url.username, "password": url.password, "sender": fields.pop("from", "")}
        fields["recipients"] = [text.strip() for text in str(fields.pop("to", "")).split(",") if text.strip()]
        fields.setdefault("security", "tls" if url.scheme == "smtps" else "starttls")
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            raise UsageError(f"wrong mail address, {name}: {first['msg']}", hint=f"write it like {_EXAMPLE}") from error

    def describe(self) -> str:
        scheme = "smtps" if self.security == "tls" else "smtp"
        return str(Url(scheme=scheme, host=self.host, port=self.effective_port))

    @property
    def effective_port(self) -> int:
        return self.port or _PORTS[self.security]


class MailNotifier(Notifier):
    def __init__(self, config: MailConfig) -> None:
        self._config = config
        self._where = f"the mail server {config.describe()}"

    def send(self, notification: Notification) -> None:
        message = compose(notification, self._config)
        try:
            within(self._config.timeout_seconds, lambda limit: self._deliver(message, limit))
        except smtplib.SMTPException as error:
            # Not chained: a server's answer may repeat what it was sent, the login included.
            raise self._translated(error) from None
        except OSError as error:
            raise network_error(error, self._where) from error
        except ValueError as error:  # smtplib could not decode an answer
            raise self._translated(error) from None

    def _deliver(self, message: EmailMessage, limit: TimeLimit) -> None:
        client = _Client(self._config, limit)
        try:
            client.ehlo_or_helo_if_needed()
            if self._config.security == "starttls":
                self._start_tls(client)
            if self._config.username is not None and self._config.password is not None:
                self._login(client, self._config.username, self._config.password.get_secret_value())
            refused = client.send_message(message, self._config.sender, self._config.recipients)
            with suppress(OSError):
                client.putcmd("quit")  # its answer is not waited for: the message was taken
        finally:
            client.close()
        if refused:
            raise smtplib.SMTPRecipientsRefused(refused)

    def _start_tls(self, client: _Client) -> None:
        if not client.has_extn("starttls"):
            raise NotifierRejectedError(
                f"{self._where} does not offer STARTTLS, so nothing was sent",
                hint="use smtps:// (security: tls), or security: none in a network that you trust",
            )
        client.starttls(context=_context(self._config))
        client.ehlo_or_helo_if_needed()

    def _login(self, client: _Client, username: str, password: str) -> None:
        offered = client.esmtp_features.get("auth", "").upper().split()
        if not {"PLAIN", "LOGIN", "CRAM-MD5"}.intersection(offered):
            raise NotifierRejectedError(
                f"{self._where} offers no login that a password fits",
                hint="remove username and password, or use the port for submission with TLS (587 or 465)",
            )
        if (username + password).isascii():
            client.login(username, password)
            return
        code, reply = client.docmd("AUTH", f"PLAIN {_plain(username, password)}")
        if code != _AUTHENTICATED:
            raise smtplib.SMTPAuthenticationError(code, reply)

    def _translated(self, error: smtplib.SMTPException | ValueError) -> NotifierError:
        if isinstance(error, smtplib.SMTPRecipientsRefused):
            return self._recipients_refused(error.recipients)
        if isinstance(error, smtplib.SMTPAuthenticationError):
            return _by_code(error.smtp_code)(
                f"{self._where} refused the login ({error.smtp_code})", hint="check username and password"
            )
        if isinstance(error, smtplib.SMTPResponseException) and error.smtp_code > 0:
            return _by_code(error.smtp_code)(
                f"{self._where} refused the message: {self._said(error.smtp_code, error.smtp_error)}",
                hint="check that it accepts mail from this sender and this machine",
            )
        return NotifierTransientError(
            f"{self._where} closed the connection or does not speak SMTP",
            hint="check host, port and security; then look at the server's log",
        )

    def _recipients_refused(self, recipients: Mapping[str, tuple[int, bytes]]) -> NotifierError:
        kind = _by_code(min(code for code, _ in recipients.values()))
        refused = "; ".join(f"{name}: {self._said(code, reply)}" for name, (code, reply) in recipients.items())
        return kind(f"{self._where} refused {refused}", hint="check the addresses of the recipients")

    def _said(self, code: int, reply: bytes | str) -> str:
        """Returns the server's answer for people, without its text when that repeats the password."""
        text = reply.decode("utf-8", errors="replace") if isinstance(reply, bytes) else reply
        if self._config.password is not None:
            password = self._config.password.get_secret_value()
            forms = (password, _base64(password), _plain(self._config.username or "", password))
            text = "" if any(form in text for form in forms) else text
        return f"{code} {_single_line(text)[:_MAX_REPLY]}".strip()


class _Client(smtplib.SMTP):
    """Connects within a time limit, and names itself without asking a name server."""

    def __init__(self, config: MailConfig, limit: TimeLimit) -> None:
        self._config = config
        self._limit = limit
        name = socket.gethostname()
        super().__init__(
            config.host, config.effective_port, local_hostname=name if _HOST.fullmatch(name) else "localhost"
        )

    def _get_socket(self, host: str, port: int, _timeout: float) -> socket.socket:
        connection = self._limit.connect(host, port)
        if self._config.security != "tls":
            return connection
        with ExitStack() as undo:
            undo.callback(connection.close)
            secured = _context(self._config).wrap_socket(connection, server_hostname=host)
            undo.pop_all()
        return secured


def compose(notification: Notification, config: MailConfig) -> EmailMessage:
    """Returns the message: plain text with an HTML alternative. No text of the notification can add a header."""
    message = EmailMessage(policy=SMTP)
    message["From"] = Address("DataGuardian", addr_spec=config.sender)
    message["To"] = [Address(addr_spec=recipient) for recipient in config.recipients]
    message["Subject"] = f"[DataGuardian] {_single_line(notification.title)}"
    message["Date"] = format_datetime(notification.created_at)
    message["Message-ID"] = f"<{notification.id}@{config.sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    message["X-DataGuardian-Type"] = notification.type.value
    message["X-DataGuardian-Severity"] = notification.severity.value
    if notification.severity is Severity.CRITICAL:
        message["Importance"] = "high"
    message.set_content(_text(notification))
    message.add_alternative(_html(notification), subtype="html")
    return message


def _text(notification: Notification) -> str:
    facts = "\n".join(f"{name}: {value}" for name, value in _facts(notification))
    return f"{notification.title}\n\n{notification.message}\n\n-- \n{facts}\n"


def _html(notification: Notification) -> str:
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in _facts(notification))
    return (
        f"<!doctype html><html><body><h2>{escape(notification.title)}</h2>"
        f'<p style="white-space: pre-wrap">{escape(notification.message)}</p><table>{rows}</table></body></html>\n'
    )


def _facts(notification: Notification) -> list[tuple[str, str]]:
    about = notification.entity_type.value + (f" {notification.entity_id}" if notification.entity_id else "")
    facts = [
        ("Severity", notification.severity.value),
        ("Type", notification.type.value),
        ("About", about),
        ("Time", to_iso(notification.created_at)),
    ]
    return facts + [(name, str(value)) for name, value in notification.metadata.items()]


def _single_line(text: str) -> str:
    """Replaces whatever some program takes for the end of a line, and other control characters, by blanks."""
    return "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in text).strip()


def _context(config: MailConfig) -> ssl.SSLContext:
    return tls_context(verify=config.verify_tls, ca_file=config.ca_file)


def _by_code(code: int) -> type[NotifierTransientError | NotifierRejectedError]:
    return NotifierTransientError if code < _PERMANENT else NotifierRejectedError


def _plain(username: str, password: str) -> str:
    """Returns the initial response of SASL PLAIN (RFC 4616), which is UTF-8; smtplib knows ASCII only."""
    return _base64(f"\0{username}\0{password}")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


_EXAMPLE = "smtp://user:password@mail.example.com:587?from=backup%40example.com&to=ops%40example.com"

ADAPTER = NotifierAdapter(
    type="email", schemes=("smtp", "smtps"), example=_EXAMPLE, config=MailConfig, build=MailNotifier
)
