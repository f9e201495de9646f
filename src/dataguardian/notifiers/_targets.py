"""Where notifications may not go: this machine's link, the services that hand out a cloud machine's credentials, and,
when the setting says so, this machine itself.

What counts is the address that a connection is opened to, after every name was looked up: neither a name that leads
there, nor another way to write a number, nor a redirect, nor a name server that changes its mind gets around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from dataguardian.domain.errors import NotifierRejectedError
from dataguardian.settings import Network, notifier_networks

SETTING = "DATAGUARDIAN_NOTIFIER_NETWORKS"

_FORBIDDEN = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # Linux connects to itself
        "127.0.0.0/8",
        "169.254.0.0/16",  # the link, and with it the metadata service of most clouds
        "100.100.100.200/32",  # metadata of Alibaba Cloud
        "168.63.129.16/32",  # Azure's platform
        "192.0.0.192/32",  # metadata of Oracle Cloud
        "224.0.0.0/4",
        "255.255.255.255/32",
        "::/128",
        "::1/128",
        "fe80::/10",
        "fec0::/10",
        "fd00:ec2::/32",  # metadata of AWS
        "fd20:ce::/32",  # metadata of Google Cloud
        "ff00::/8",
    )
)
_NAT64 = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))
_COMPATIBLE = ip_network("::/96")


class ForbiddenTargetError(PermissionError):
    """An address that notifications may not go to."""


def refuse_forbidden(host: object, networks: Sequence[Network] | None = None) -> None:
    """Raises ForbiddenTargetError for a numeric address that is forbidden, and for whatever is none.

    `networks` are those that are allowed none the less; None reads them from the environment.
    """
    try:
        address = ip_address(str(host).partition("%")[0])
    except ValueError:
        raise ForbiddenTargetError("not a numeric address") from None
    allowed = notifier_networks() if networks is None else networks
    for meant in _meanings(address):
        if _within(meant, _FORBIDDEN) and not _within(meant, allowed):
            raise ForbiddenTargetError(f"{meant} is this machine, its link or a metadata service")


def forbidden(where: str) -> NotifierRejectedError:
    return NotifierRejectedError(
        f"{where} leads to this machine, its own link or a cloud's metadata service, where messages may not go",
        hint=f"where that is meant, the service's environment allows it: {SETTING}=127.0.0.0/8,::1,…",
    )


def _meanings(address: IPv4Address | IPv6Address) -> Iterator[IPv4Address | IPv6Address]:
    """Yields the address, and each IPv4 address that a router or the kernel may make of it.

    An IPv4-mapped address is that IPv4 address and nothing else, so that allowing the one allows the other.
    """
    if isinstance(address, IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
        return
    yield address
    last = IPv4Address(int(address) & 0xFFFFFFFF)
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if _within(address, _NAT64) or (_within(address, (_COMPATIBLE,)) and int(address) > 1):
        yield last


def _within(address: IPv4Address | IPv6Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
