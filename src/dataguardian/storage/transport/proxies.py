"""Which proxy the environment names for a server: HTTPS_PROXY, HTTP_PROXY and NO_PROXY, in capitals or not."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from dataguardian.domain.errors import (
    DataGuardianError,
    StorageConnectionError,
    StorageDeniedError,
    StorageUnreachableError,
)

_DEFAULT_PORT = 80
_NO_CREDENTIALS = 407
_SERVER_ERRORS = 500


@dataclass(frozen=True)
class Proxy:
    """`headers` may hold a password: they go to the proxy and nowhere else."""

    host: str
    port: int
    headers: dict[str, str] = field(repr=False)

    @property
    def address(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def refusal(self, status: int, reason: str, address: str) -> DataGuardianError:
        """Returns what it means that the proxy did not connect us to `address`."""
        what = f"the proxy {self.address} does not connect to {address}: {status} {reason}".rstrip()
        if status == _NO_CREDENTIALS:
            return StorageDeniedError(
                what, hint="give user and password in the variable: http://user:password@host:port"
            )
        if status >= _SERVER_ERRORS:
            return StorageConnectionError(what, hint="check that the proxy reaches it, or name the host in NO_PROXY")
        return StorageUnreachableError(what, hint="let the proxy allow that host, or name the host in NO_PROXY")


def proxy_for(scheme: str, host: str, port: int) -> Proxy | None:
    """Returns None for no proxy; raises StorageUnreachableError for one of a kind that is not spoken here."""
    proxies = getproxies_environment()
    text = proxies.get(scheme) or proxies.get("all")
    if not text or proxy_bypass(f"{host}:{port}"):
        return None
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        if parts.scheme == "http" and parts.hostname:
            return Proxy(parts.hostname, parts.port or _DEFAULT_PORT, _headers(parts.username, parts.password))
    except ValueError:  # the port
        pass
    raise StorageUnreachableError(
        f"the proxy that {scheme.upper()}_PROXY or ALL_PROXY names is not understood",
        hint="write http://host:port, or http://user:password@host:port",
    )


def _headers(user: str | None, password: str | None) -> dict[str, str]:
    if user is None:
        return {}
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair).decode()}
