"""SSH for everybody: how a server is addressed, and a way through it to another one.

A server's host key is pinned: by the configuration (`host_key`), or on first use into `known_hosts` in DataGuardian's
home (OpenSSH's format, 0600), and from then on a server with another key is refused. The user's own `~/.ssh/config` and
`~/.ssh/known_hosts` are not read: what a service does must not depend on whose account it runs in.

This module is light; `client`, `pins` and `forward` bring asyncssh.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from dataguardian.domain.errors import MissingToolError
from dataguardian.domain.urls import Url

if TYPE_CHECKING:
    from dataguardian.ssh.forward import LocalForward

DEFAULT_PORT = 22

_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}=?")
_KEY = re.compile(r"(.*\s)?(ssh|ecdsa|sk)-\S+\s+AAAA[A-Za-z0-9+/]+=*(\s.*)?", re.DOTALL)


def _host(text: str) -> str:
    if not text or text.startswith("-") or any(char.isspace() or char in "/@\0,*?!|" for char in text):
        raise ValueError("this is not a host name or an IP address")
    return text


def _host_key(text: str) -> str:
    if not _FINGERPRINT.fullmatch(text.strip()) and not _KEY.fullmatch(text.strip()):
        raise ValueError("this is no host key: give a line as `ssh-keyscan HOST` prints it, or a fingerprint SHA256:…")
    return text


HostKey = Annotated[str, AfterValidator(_host_key)]


class SshTarget(BaseModel):
    """How to sign in to a server. `private_key` is a key's text or the path of its file, `private_key_file` a path.

    Without password and key, the user's agent and standard key files are tried, as `ssh` does. `host_key` is a line as
    `ssh-keyscan` prints it (with or without the host), or a fingerprint as `ssh-keygen -l` does (SHA256:…).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: Annotated[str, AfterValidator(_host)]
    port: Annotated[int, Field(ge=1, le=65535)] = DEFAULT_PORT
    username: str | None = None
    password: SecretStr | None = None
    private_key: SecretStr | None = None
    private_key_file: str | None = None
    passphrase: SecretStr | None = None
    host_key: HostKey | None = None

    def __str__(self) -> str:
        """Returns the address without secrets."""
        port = None if self.port == DEFAULT_PORT else self.port
        return str(Url("ssh", username=self.username, host=self.host, port=port))


def local_forward(target: SshTarget, host: str, port: int) -> LocalForward:
    """Returns a `LocalForward`, not entered yet; raises MissingToolError."""
    if importlib.util.find_spec("asyncssh") is None:
        raise MissingToolError(
            f"{target} needs the Python package asyncssh, which is not installed",
            hint="pip install 'dataguardian[ssh]'",
            package="asyncssh",
        )
    from dataguardian.ssh.forward import LocalForward  # noqa: PLC0415 -- brings the SSH library

    return LocalForward(target, host, port)


@contextmanager
def forwarded(target: SshTarget, host: str, port: int) -> Iterator[int]:
    """Gives the local port, on 127.0.0.1, of a `LocalForward`; raises what that raises, or MissingToolError."""
    with local_forward(target, host, port) as (_, local_port):
        yield local_port
