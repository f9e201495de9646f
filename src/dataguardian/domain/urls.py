"""Addresses of sources and storages as the command line takes them.

`scheme://[user[:password]@][host[:port]]/path[?key=value…]`, percent-encoded as in RFC 3986; a list of hosts with their
ports (`a:1,b:2`, as replica sets are addressed) is one `host`. Bytes that are not
UTF-8 survive as surrogate escapes, so that every file name of the machine can be written down.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from urllib.parse import quote, unquote

from pydantic import SecretStr

from dataguardian.domain.errors import UsageError

_ADDRESS = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?]*)(?P<path>/[^?]*)?(?:\?(?P<query>.*))?", re.IGNORECASE
)
_AUTHORITY = re.compile(
    r"(?:(?P<username>[^:]*)(?::(?P<password>.*))?@)?"
    r"(?P<host>(?=[^@]*:[0-9]+,)(?:[^:@\[\],]+(?::[0-9]{1,5})?,)+[^:@\[\],]+(?::[0-9]{1,5})?"
    r"|\[[0-9a-f:.]+(?:%[^\]\[@/]+)?\]|[^:@\[\]]*)(?::(?P<port>[0-9]{0,5}))?",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_ADDRESS_WITHIN = re.compile(r"(?<=[?&])ssh_tunnel=ssh://[^&]*", re.IGNORECASE)
"""The one parameter that is an address itself, and so may hold an '@'."""
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udc7f\udd00-\udfff]|%00")
"""Also surrogates that stand for no byte, and the zero byte, which no name on this machine can hold."""
_SECRET_KEY = re.compile(r"pass|secret|token", re.IGNORECASE)
_MAX_PORT = 65535


@dataclass(frozen=True)
class Url:
    """A parsed address. `path` is decoded and keeps its leading slash; a missing one is ''."""

    scheme: str
    username: str | None = None
    password: SecretStr | None = None
    host: str | None = None
    port: int | None = None
    path: str = ""
    query: dict[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        """Returns the address without its password: this is what may be printed, logged and stored.

        It is plain ASCII, and `parse_url` reads it back. Query values under keys such as `password` are left out too.
        """
        user = f"{_encode(self.username)}@" if self.username is not None else ""
        port = f":{self.port}" if self.port is not None else ""
        shown = {key: value for key, value in self.query.items() if not _SECRET_KEY.search(key)}
        query = "&".join(f"{_encode(key)}={_encode(value, safe='/')}" for key, value in shown.items())
        path = _encode(self.path, safe="/~")
        return f"{self.scheme}://{user}{_encode_host(self.host)}{port}{path}" + (f"?{query}" if query else "")

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
        raise UsageError(
            "an address must not hold control characters", hint="percent-encode them, such as %0A; there is no %00"
        )
    # '#' is common in passwords and file names and has no meaning for us: it stays part of the address.
    address = _ADDRESS.fullmatch(text)
    authority = _AUTHORITY.fullmatch(address["authority"]) if address else None
    if address is None or authority is None or _is_malformed(address, authority):
        raise UsageError(
            "that address cannot be read: its host or port is malformed",
            hint="in a user name or password write / as %2F and ? as %3F; in a path after a port write @ as %40",
        )
    return Url(
        scheme=address["scheme"].lower(),
        username=None if authority["username"] is None else _decode(authority["username"]),
        password=None if authority["password"] is None else SecretStr(_decode(authority["password"])),
        host=_decode_host(authority["host"]),
        port=int(authority["port"]) if authority["port"] else None,
        path=_decode(address["path"] or ""),
        query=_decode_query(address["query"] or ""),
    )


def absolute_path(url: Url) -> str:
    """Returns the local path that an address such as files:///dir names; refuses hosts and relative paths."""
    if url.host not in (None, "localhost") or (url.username, url.password, url.port) != (None, None, None):
        raise UsageError(
            f"{url} names a host or a user where a local path is expected", hint=f"write {url.scheme}:///absolute/path"
        )
    if not url.path.startswith("/"):
        raise UsageError(f"{url} has no path", hint=f"write {url.scheme}:///absolute/path")
    if "\x00" in url.path:
        raise UsageError("a path must not hold a zero byte")
    return url.path


def _is_malformed(address: re.Match[str], authority: re.Match[str]) -> bool:
    """Tells whether host or port are none, or a password was cut short by a '/' or '?' that it holds.

    The rest of such a password would pass for a path, and be printed.
    """
    rest = _ADDRESS_WITHIN.sub("", address.string[address.end("authority") :])
    host = authority["host"]
    has_port = authority["port"] is not None or ("," in host and ":" in host)
    is_cut = "@" in rest and (authority["password"] is not None or has_port)
    is_bad_host = host.startswith("[") and not _is_ipv6(_decode(host[1:-1]))
    return is_cut or is_bad_host or int(authority["port"] or 0) > _MAX_PORT


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def _decode(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def _encode(text: str, *, safe: str = "") -> str:
    return quote(text, safe=safe, errors="surrogateescape")


def _decode_host(text: str) -> str | None:
    """Returns the host in lower case, but for a socket's folder (`%2Frun%2FPG`) and an IPv6 zone (`[fe80::1%25E0]`)."""
    host = _decode(text.removeprefix("[").removesuffix("]"))
    address, percent, zone = host.partition("%")
    return host if host.startswith(("/", "@")) else f"{address.lower()}{percent}{zone}" or None


def _encode_host(host: str | None) -> str:
    if host is not None and "," in host and ":" in host:
        return _encode(host, safe=",:")
    if host is None or not _is_ipv6(host):
        return _encode(host or "")
    address, percent, zone = host.partition("%")
    return f"[{address}%25{_encode(zone)}]" if percent else f"[{address}]"


def _decode_query(text: str) -> dict[str, str]:
    """'+' is a plus sign here, as in RFC 3986: only HTML forms take it for a space."""
    pairs = [piece.partition("=") for piece in text.split("&") if piece]
    query = {_decode(key): _decode(value) for key, _, value in pairs}
    if len(query) != len(pairs):
        raise UsageError("that address gives an option twice")
    return query
