"""Which token the command line shows to a service, and where it comes from.

In this order: `--token-file`, the variable DATAGUARDIAN_TOKEN, and, when the service answers on this machine, the token
that its process keeps in its home directory for commands of the same user. A token is never an argument, and no error
repeats one.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from dataguardian.cli import output
from dataguardian.domain.errors import UsageError

if TYPE_CHECKING:
    from pydantic import SecretStr

TOKEN_VARIABLE = "DATAGUARDIAN_TOKEN"  # noqa: S105 -- a variable's name
LOCAL_TOKEN = "local-token"  # noqa: S105 -- a file's name
TOKEN_PREFIX = "dgt_"  # noqa: S105 -- how tokens begin
STDIN = "-"
MAX_BYTES = 4096

TokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help=f"A file whose first line is the token to sign in with: ${TOKEN_VARIABLE}, or this machine's own.",
    ),
]

_LISTEN = "0A"
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


@dataclass
class Credentials:
    """`source` names where `token` is from, for error texts. `path` is read again when the token is refused."""

    source: str
    token: SecretStr | None
    path: Path | None = None
    hint: str = ""
    """What to do when there is no token, or when it is not taken."""

    def header(self) -> dict[str, str]:
        return {} if self.token is None else {"Authorization": f"Bearer {self.token.get_secret_value()}"}

    def told(self, message: str) -> str:
        """Returns what a service that does not take the token said about it, with where the token is from."""
        return f"{message} ({self.source})" if self.token is not None else "the service asks for a token"

    def renew(self) -> bool:
        """Reads the file again; tells whether another token was in it. A service has a new one since it started."""
        if self.path is None:
            return False
        before = self.token
        try:
            self.token = _first_line(self.path)
        except OSError:
            return False
        return self.token is not None and self.token != before


def credentials(url: str, token_file: Path | None) -> Credentials:
    """Returns what to sign in with at `url`; raises UsageError for a file or a variable that holds no token."""
    if token_file is not None:
        return _from_file(token_file)
    text = os.environ.get(TOKEN_VARIABLE, "").strip()
    if text:
        return Credentials(TOKEN_VARIABLE, _needed(_token(text), TOKEN_VARIABLE), hint=_make_one())
    if not is_loopback(urlsplit(url).hostname or ""):
        return Credentials("", None, hint=_make_one())
    return _from_home(url)


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _make_one() -> str:
    return (
        "`dataguardian token create` on the service's machine prints one; "
        f"give it with --token-file or {TOKEN_VARIABLE}"
    )


def _from_file(path: Path) -> Credentials:
    if str(path) == STDIN:
        return Credentials("standard input", _of_stdin(), hint=_make_one())
    if path.name.startswith(TOKEN_PREFIX):
        raise UsageError("--token-file takes a file, not a token", hint="arguments can be read by others: revoke it")
    try:
        token = _first_line(path)
        is_open = bool(path.stat().st_mode & 0o077)
    except OSError as error:
        raise UsageError(f"the token file {path} cannot be read: {error.strerror}", hint=_make_one()) from error
    if is_open:
        output.warn(f"other users may read {path}; `chmod 600` it")
    return Credentials(f"the file {path}", _needed(token, f"the token file {path}"), path, _make_one())


@cache
def _of_stdin() -> SecretStr:
    """A verb may connect more than once, and standard input is read once."""
    return _needed(_token(sys.stdin.readline(MAX_BYTES)), "standard input")


def _from_home(url: str) -> Credentials:
    """The token of the service whose home this user's commands use, unless somebody else listens at that port."""
    from dataguardian.settings import Settings

    path = Settings.from_environment().home / LOCAL_TOKEN
    try:
        token, owner = _first_line(path), path.stat().st_uid
    except PermissionError:
        hint = f"{path} is another user's: run this as that user, or give a token. {_make_one()}"
        return Credentials("", None, hint=hint)
    except OSError:
        hint = f"there is no {path}: set DATAGUARDIAN_HOME to the service's home, or give a token. {_make_one()}"
        return Credentials("", None, path, hint)
    if _others_listen(urlsplit(url).port or _default_port(url), owner):
        hint = f"another user's process listens there, and is not shown this machine's own token. {_make_one()}"
        return Credentials("", None, hint=hint)
    hint = f"the service at this address has another home than {path.parent}. {_make_one()}"
    return Credentials(f"the file {path}", token, path, hint)


def _default_port(url: str) -> int:
    return 443 if urlsplit(url).scheme == "https" else 80


def _first_line(path: Path) -> SecretStr | None:
    """Returns the token in a file's first line; None when that is none. Raises OSError."""
    with path.open("rb") as file:
        return _token(file.readline(MAX_BYTES).decode("ascii", "replace"))


def _token(text: str) -> SecretStr | None:
    """Returns a line as a token; None for what could not stand in a request's head."""
    from pydantic import SecretStr

    line = text.strip()
    fits = line.isascii() and line.isprintable() and " " not in line
    return SecretStr(line) if line and fits else None


def _needed(token: SecretStr | None, source: str) -> SecretStr:
    if token is None:
        raise UsageError(f"{source} holds no token", hint="a token is one line that begins with dgt_")
    return token


def _others_listen(port: int, owner: int) -> bool:
    """Tells whether a process that is neither root's, nor ours, nor the home's owner's listens on this port.

    On a machine with several users anybody may listen on a port while the service is down, and would be shown a token
    that opens everything.
    """
    trusted = {0, os.geteuid(), owner}
    return any(uid not in trusted for uid in _listeners(port))


def _listeners(port: int) -> set[int]:
    """Returns the users whose processes listen on a port; empty where the system does not tell."""
    found = set()
    for table in _TABLES:
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, _, _, _, uid, *_ = line.split()
            if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                found.add(int(uid))
    return found
