"""Any remote that rclone knows: `rclone://remote/path`, through the `rclone` program.

One `rclone rcd` per configuration serves all calls of this process, on a socket that only this user can reach, and ends
when it has been idle or this process is gone. Where uploads are visible before they are complete (`PartialUploads`:
local folders, SFTP, FTP), a put goes to a temporary name and is then moved; elsewhere the remote itself makes a put
atomic. rclone compares what arrived by size, and by hash where the remote has one.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, SecretStr, ValidationError

from dataguardian.domain.errors import UsageError
from dataguardian.domain.urls import Url
from dataguardian.registry import ClientProgram
from dataguardian.storage.base import RemoteConfig, Storage, StorageAdapter
from dataguardian.storage.byhand import ByHand

_EXAMPLE = "rclone://remote/backups"
_OPTIONS = ("config_file", "timeout_seconds", "bandwidth_limit_mbps")
_REMOTE = re.compile(r"[\w.+@][\w.+@ -]*")


def _remote(name: str) -> str:
    if not _REMOTE.fullmatch(name) or name.endswith(" "):
        raise ValueError(
            "this is not the name of a remote, as `rclone listremotes` shows it without the colon; a connection string"
            " (`name,option=value` or `:type`) is none: `rclone config` makes a remote of it"
        )
    return name


def _folder(path: str) -> str:
    if "\x00" in path or "]" in path or any(part in (".", "..") for part in path.split("/")):
        raise ValueError("must be a plain folder of the remote, without ']'")
    return path.rstrip("/") if path.strip("/") else ""


class RcloneConfig(RemoteConfig):
    """A folder of a remote. A `path` that begins with a slash is absolute, for remotes that make a difference.

    `config_file` and `config_password` are what `RCLONE_CONFIG` and `RCLONE_CONFIG_PASS` are to rclone; without them
    the environment's count, and else rclone's own default. Variables such as `RCLONE_CONFIG_MYREMOTE_TYPE` work too.
    """

    type: Literal["rclone"] = "rclone"
    remote: Annotated[str, AfterValidator(_remote)]
    path: Annotated[str, AfterValidator(_folder)] = ""
    config_file: str | None = None
    config_password: SecretStr | None = None

    @classmethod
    def from_url(cls, url: Url) -> Self:
        if unknown := sorted(url.query.keys() - {*_OPTIONS, "config_password"}):
            known = ", ".join([*_OPTIONS, "config_password"])
            raise UsageError(f"an rclone:// storage has no option {unknown[0]!r}", hint=f"known: {known}")
        if not url.host or (url.username, url.password, url.port) != (None, None, None):
            raise UsageError(f"{url} names no remote, or more than that", hint=f"write {_EXAMPLE}")
        try:
            return cls.model_validate(dict(url.query) | {"remote": url.host, "path": url.path.removeprefix("/")})
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            # Without the address: what was meant as a connection string may hold a password.
            raise UsageError(f"that is not the address of an rclone:// storage: {wrong}", hint=_EXAMPLE) from None

    def describe(self) -> str:
        query = {"config_file": self.config_file} if self.config_file else {}
        return str(Url("rclone", host=self.remote, path=f"/{self.path}" if self.path else "", query=query))

    def by_hand(self, known_hosts: str = "") -> ByHand:  # noqa: ARG002 -- rclone has a file of its own
        from dataguardian.storage.rclone.byhand import commands  # noqa: PLC0415 -- only the recovery kit asks

        return commands(self)


def _build(config: Any) -> Storage:  # noqa: ANN401 -- the registry gives what `config` below names
    from dataguardian.storage.rclone.storage import RcloneStorage  # noqa: PLC0415 -- most runs never need it

    return RcloneStorage(config)


def _programs() -> list[ClientProgram]:
    from dataguardian.storage.rclone.daemon import INSTALL, look_for_program, version_of  # noqa: PLC0415 -- see above

    path = look_for_program()
    return [ClientProgram("rclone", path, version_of(path) if path else None, INSTALL)]


ADAPTER = StorageAdapter(
    type="rclone",
    schemes=("rclone",),
    example=_EXAMPLE,
    config=RcloneConfig,
    build=_build,
    programs=_programs,
)
