"""A folder on an SSH server, by SFTP: `sftp://user@host:port/absolute/folder`, or `/~/folder` below the user's home.

An object is a file below the root. A put writes a temporary file in the root itself, syncs it, moves it to its name in
one step and syncs the folders (where the server has fsync@openssh.com, as OpenSSH does), so that an object is absent or
whole whatever is killed when. A server that cannot replace a file in one step (posix-rename@openssh.com) is refused. A
killed put leaves its temporary file; no method shows it, and a later put removes it once it is a day old.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PlainValidator, SecretStr, ValidationError

from dataguardian.domain.errors import UsageError
from dataguardian.domain.urls import Url
from dataguardian.ssh import DEFAULT_PORT, HostKey, SshTarget
from dataguardian.storage.base import RemoteConfig, Storage, StorageAdapter
from dataguardian.storage.byhand import ByHand

_HOME = "/~"
_OPTIONS = ("private_key_file", "host_key", "timeout_seconds", "bandwidth_limit_mbps")
_EXAMPLE = "sftp://user@backup.example.org/srv/backups"


def _folder(value: object) -> str:
    """Accepts any path, also one with surrogate escapes, which pydantic's own `str` refuses."""
    if not isinstance(value, str) or not value or "\x00" in value:
        raise ValueError("must be a folder on the server")
    if any(part == ".." for part in value.split("/")):
        raise ValueError("must not climb")
    return value.rstrip("/") or "/"


class SshConfig(RemoteConfig):
    """A folder on a server. `private_key` is a key's text or the path of its file, `private_key_file` a path.

    Without password and key, the user's agent and standard key files are tried. Without `host_key`, the key that the
    server shows first is pinned. A `remote_path` that is not absolute, or begins with `~/`, is below the user's home.
    """

    type: Literal["ssh"] = "ssh"
    host: Annotated[str, AfterValidator(lambda host: SshTarget(host=host).host)]
    port: Annotated[int, Field(ge=1, le=65535)] = DEFAULT_PORT
    username: str | None = None
    password: SecretStr | None = None
    private_key: SecretStr | None = None
    private_key_file: str | None = None
    passphrase: SecretStr | None = None
    host_key: HostKey | None = None
    remote_path: Annotated[str, PlainValidator(_folder)]

    @classmethod
    def from_url(cls, url: Url) -> Self:
        query = dict(url.query)
        if "private_key" in query:  # in an address it can only be a path
            query["private_key_file"] = query.pop("private_key")
        if unknown := sorted(query.keys() - {*_OPTIONS, "passphrase"}):
            known = ", ".join([*_OPTIONS, "passphrase"])
            raise UsageError(f"an sftp:// storage has no option {unknown[0]!r}", hint=f"known: {known}")
        if not url.host or not url.path:
            raise UsageError(f"{url} needs a host and a folder", hint=f"write {_EXAMPLE}, or /~/folder below the home")
        given = {"host": url.host, "port": url.port, "username": url.username or None, "password": url.password}
        try:
            return cls.model_validate(
                {key: value for key, value in given.items() if value is not None}
                | query
                | {"remote_path": url.path.removeprefix("/") if url.path.split("/")[1] == "~" else url.path}
            )
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise UsageError(f"{url} is not the address of an sftp:// storage: {wrong}", hint=_EXAMPLE) from None

    def describe(self) -> str:
        kept = {"private_key_file": self.private_key_file, "host_key": self.host_key}
        path = self.remote_path if self.remote_path.startswith("/") else f"{_HOME}/{self.folder}"
        return str(
            Url(
                "sftp",
                username=self.username,
                host=self.host,
                port=None if self.port == DEFAULT_PORT else self.port,
                path=path.removesuffix("/."),
                query={key: value for key, value in kept.items() if value},
            )
        )

    def by_hand(self, known_hosts: str = "") -> ByHand:
        from dataguardian.storage.ssh.byhand import commands  # noqa: PLC0415 -- only the recovery kit asks

        return commands(self, known_hosts)

    @property
    def folder(self) -> str:
        """The folder as the server takes it: relative ones are below the user's home."""
        return self.remote_path.removeprefix("~").removeprefix("/") or "." if self._is_in_home else self.remote_path

    @property
    def _is_in_home(self) -> bool:
        return not self.remote_path.startswith("/")

    @property
    def target(self) -> SshTarget:
        names = SshTarget.model_fields
        return SshTarget.model_validate({name: getattr(self, name) for name in names})


def _build(config: Any) -> Storage:  # noqa: ANN401 -- the registry gives what `config` below names
    from dataguardian.storage.ssh.storage import SshStorage  # noqa: PLC0415 -- brings the SSH library

    return SshStorage(config)


ADAPTER = StorageAdapter(
    type="ssh",
    schemes=("sftp",),
    example=_EXAMPLE,
    config=SshConfig,
    build=_build,
    package="asyncssh",
)
