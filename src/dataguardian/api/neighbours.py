"""Whom we answer, and under which names: hosts, proxies in front of us, pages of other sites.

A page of the web can rebind its own name to our address; then its name is what the browser sends as Host. So we answer
under loopback names, names that DATAGUARDIAN_ALLOWED_HOSTS holds, and the bare address that the connection came to.
What a proxy says of its client counts only when the proxy's address is in DATAGUARDIAN_TRUSTED_PROXIES. Pages of other
sites get answers only when DATAGUARDIAN_CORS_ORIGINS names them, and never with the user's session.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from dataguardian.api.errors import error_answer
from dataguardian.settings import Network, Settings

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
ANYBODY = "*"
_SITE_HINT = (
    "call DataGuardian directly, or name that site in DATAGUARDIAN_CORS_ORIGINS; behind a proxy with TLS, name it "
    "in DATAGUARDIAN_TRUSTED_PROXIES"
)
_OWN_SITE = frozenset({"same-origin", "none"})
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, X-Request-ID",
    "Access-Control-Max-Age": "600",
}
_READABLE = {"Access-Control-Expose-Headers": "X-Request-ID, Retry-After"}

Address = IPv4Address | IPv6Address


class Neighbours:
    def __init__(self, settings: Settings) -> None:
        own = () if is_unspecified(settings.host) else (settings.host.lower(),)
        self._hosts = LOOPBACK_NAMES | settings.allowed_hosts | frozenset(own)
        self._proxies = settings.trusted_proxies
        self._origins = settings.cors_origins

    def placed(self, scope: Scope) -> Scope:
        """Returns the request as the client made it: its address and scheme, where a trusted proxy tells of them."""
        peer = address_in(scope["client"][0]) if scope.get("client") else None
        if peer is None or not within(peer, self._proxies):
            return scope
        headers = Headers(scope=scope)
        client = self._client(_listed(headers, "x-forwarded-for")) or peer
        protocols = _listed(headers, "x-forwarded-proto")
        scheme = protocols[-1].lower() if protocols and protocols[-1].lower() in {"http", "https"} else scope["scheme"]
        return {**scope, "client": (str(client), 0), "scheme": scheme}

    def refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Returns why a request is not looked at: its Host is not one of ours, or a page of another site sent it."""
        if any(len(headers.getlist(name)) > 1 for name in ("host", "origin")) or not self._knows_host(scope, headers):
            return error_answer(
                403,
                "foreign_host",
                "DataGuardian does not answer under this name",
                {"hint": "use the address that it listens on, or put the name into DATAGUARDIAN_ALLOWED_HOSTS"},
            )
        if not self._is_foreign(scope, headers):
            return None
        return error_answer(
            403,
            "foreign_site",
            "this request comes from a page of another site",
            {"hint": _SITE_HINT},
        )

    def preflight(self, scope: Scope, headers: Headers) -> Response | None:
        """Returns the answer to a browser that asks, for a page of another site, whether it may call us."""
        asks = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        if not asks or not self.shared_with(headers):
            return None
        return Response(status_code=204, headers=_PREFLIGHT)

    def shared_with(self, headers: Headers) -> Mapping[str, str]:
        """Returns the headers that let a page of a named site read the answer; none for others."""
        origin = headers.get("origin")
        if origin is None or not self._welcomes(origin):
            return {}
        shared = ANYBODY if ANYBODY in self._origins else origin
        return {"Access-Control-Allow-Origin": shared, "Vary": "Origin", **_READABLE}

    def _is_foreign(self, scope: Scope, headers: Headers) -> bool:
        """Tells whether a page of another site, which nobody has named, makes a browser send this."""
        origin = headers.get("origin")
        if origin is not None and self._welcomes(origin):
            return False
        changes = scope["method"] not in SAFE_METHODS
        led_here = changes and headers.get("sec-fetch-site", "none") not in _OWN_SITE
        return led_here or (origin is not None and origin.lower() != own_origin(scope))

    def _welcomes(self, origin: str) -> bool:
        return ANYBODY in self._origins or origin.lower() in self._origins

    def _knows_host(self, scope: Scope, headers: Headers) -> bool:
        name = hostname(headers.get("host", ""))
        if name is None:
            return False
        here = address_in(scope["server"][0]) if scope.get("server") else None
        return name in self._hosts or (here is not None and address_in(name) == here)

    def _client(self, hops: list[str]) -> Address | None:
        """Returns the last hop that is no proxy of ours: what stands left of it, anybody may have written."""
        client = None
        for hop in reversed(hops):
            address = address_in(hop)
            if address is None:
                return client
            client = address
            if not within(address, self._proxies):
                return client
        return client


def own_origin(scope: Scope) -> str:
    """Returns the origin of our own pages, as browsers write it."""
    return f"{scope['scheme']}://{Headers(scope=scope).get('host', '')}".lower()


def hostname(host: str) -> str | None:
    """Returns the name in a Host header, without the port; None for what is no such header."""
    try:
        parsed = urlsplit(f"//{host}")
        whole = parsed.netloc == host and parsed.username is None and parsed.port != 0
    except ValueError:
        return None
    return parsed.hostname if whole else None


def address_in(text: str) -> Address | None:
    """Returns the IP address in a text such as `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def within(address: Address | None, networks: Iterable[Network]) -> bool:
    return address is not None and any(address in network for network in networks)


def is_unspecified(host: str) -> bool:
    """Tells whether a host means every address of this machine."""
    address = address_in(host)
    return host == "" or (address is not None and address.is_unspecified)


def _listed(headers: Headers, name: str) -> list[str]:
    return [part.strip() for value in headers.getlist(name) for part in value.split(",") if part.strip()]
