"""Addresses of sources and storages as the command line takes them.

`scheme://[user[:password]@][host[:port]]/path[?key=value…]`, percent-encoded as in RFC 3986. Bytes that are not
UTF-8 survive as surrogate escapes, so that every file name of the machine can be written down.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pydantic import SecretStr

from dataguardian.domain.errors import UsageError

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Url:
    """A parsed address. `path` is decoded and keeps its leading slash; a missing one is ''."""

    scheme: str
    username: str | None = None
    password: SecretStr | None = None
    host: str | None = None
    port: int | None = None
    path: str = ""
    query: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Returns the address without its password: this is what may be printed, logged and stored."""
        user = f"{quote(self.username, safe='')}@" if self.username is not None else ""
        host = f"[{self.host}]" if self.host and ":" in self.host else quote(self.host or "", safe="")
        port = f":{self.port}" if self.port is not None else ""
        path = quote(self.path, safe="/~", errors="surrogateescape")
        query = "&".join(f"{quote(k, safe='')}={quote(v, safe='/')}" for k, v in self.query.items())
        return f"{self.scheme}://{user}{host}{port}{path}" + (f"?{query}" if query else "")

    def with_path(self, path: str) -> Url:
        return replace(self, path=path)


def parse_url(text: str) -> Url:
    """Parses an address; raises UsageError, which never repeats a password, when it is none."""
    if not _SCHEME.match(text):
        raise UsageError(
            "that is not an address: it does not begin with a scheme such as postgresql:// or file://",
            hint="write files:///absolute/folder, sqlite:///absolute/file.db, postgresql://user@host/db, file:///storage",
        )
    if _CONTROL.search(text):
        raise UsageError("an address must not hold control characters", hint="percent-encode them, such as %0A")
    try:
        # '#' is common in passwords and file names and has no meaning for us: it stays part of the address.
        parts = urlsplit(text.replace("#", "%23"))
        port = parts.port
    except ValueError as error:
        raise UsageError("that address cannot be read: its host or port is malformed") from error
    return Url(
        scheme=parts.scheme.lower(),
        username=_decode(parts.username),
        password=None if parts.password is None else SecretStr(unquote(parts.password)),
        host=_decode(parts.hostname) or None,
        port=port,
        path=unquote(parts.path, errors="surrogateescape"),
        query={key: value for key, value in parse_qsl(parts.query, keep_blank_values=True)},  # noqa: C416 -- typed dict
    )


def absolute_path(url: Url) -> str:
    """Returns the local path that an address such as files:///dir names; refuses hosts and relative paths."""
    if url.host not in (None, "localhost"):
        raise UsageError(
            f"{url} names a host where a local path is expected", hint=f"write {url.scheme}:///absolute/path"
        )
    if not url.path.startswith("/"):
        raise UsageError(f"{url} has no path", hint=f"write {url.scheme}:///absolute/path")
    if "\x00" in url.path:
        raise UsageError("a path must not hold a zero byte")
    return url.path


def _decode(text: str | None) -> str | None:
    return None if text is None else unquote(text)
