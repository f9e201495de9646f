"""What the environment may set. Everything has a default that works."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from dataguardian.domain.errors import UsageError

HOME = ".dataguardian"
DEFAULT_PORT = 8484
DEFAULT_LEASE_SECONDS = 60.0
MIN_LEASE_SECONDS = 2.0
MOST_SECONDS = 86_400.0
LAST_PORT = 65_535

SECRET_VARIABLES = ("DATAGUARDIAN_SECRET_KEY", "DATAGUARDIAN_TOKEN", "DATABASE_URL", "REDIS_URL")
"""Variables of ours that are secret or hold a password, and that no child process needs."""

Network = IPv4Network | IPv6Network

_HOST = re.compile(r"[a-z0-9_.-]{1,253}|[0-9a-f:.]{2,45}")
_ORIGIN = re.compile(r"https?://([a-z0-9_.-]{1,253}|\[[0-9a-f:.]{2,45}\])(:[0-9]{1,5})?")


@dataclass(frozen=True)
class Settings:
    """`staging_dir` is the only place, apart from a restore's target, where a backup ever lies on a local disk.

    `home` holds what the service keeps: catalogue, queue, its own backups. `database_url` and `redis_url` of None mean
    the embedded ones in `home`. `drain_seconds` is how long running work may go on after SIGTERM; `lease_seconds`,
    after how long without a sign of life another worker takes work over. `secret_key` is the text of the key that seals
    stored secrets, `secret_key_file` the file that holds it; None of both means one in `home`. `allowed_hosts` are
    names under which the API answers besides its address, `cors_origins` the sites whose pages may call it,
    `trusted_proxies` those who are believed about their clients, `metrics_networks` who reads the metrics without a
    token.
    """

    staging_dir: Path
    home: Path = field(default_factory=lambda: default_home())  # noqa: PLW0108 -- it stands below
    database_url: str | None = field(default=None, repr=False)
    redis_url: str | None = field(default=None, repr=False)
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    drain_seconds: float = 30.0
    lease_seconds: float = DEFAULT_LEASE_SECONDS
    timezone: str = "UTC"
    log_level: str = "info"
    log_format: str = "auto"
    secret_key: str | None = field(default=None, repr=False)
    secret_key_file: Path | None = None
    allowed_hosts: frozenset[str] = frozenset()
    cors_origins: frozenset[str] = frozenset()
    trusted_proxies: tuple[Network, ...] = ()
    metrics_networks: tuple[Network, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Reads DATABASE_URL, REDIS_URL and DATAGUARDIAN_*; raises UsageError that names the variable."""
        given = os.environ if environment is None else environment
        notifier_networks(given)  # what is wrong with it is said at once, not by the first message

        def text(name: str, default: str) -> str:
            return given.get(f"DATAGUARDIAN_{name}") or default

        return cls(
            staging_dir=Path(text("STAGING_DIR", tempfile.gettempdir())),
            home=Path(text("HOME", str(default_home()))).absolute(),
            database_url=given.get("DATABASE_URL") or None,
            redis_url=_redis_url(given.get("REDIS_URL") or None),
            host=text("HOST", "127.0.0.1"),
            port=_port("DATAGUARDIAN_PORT", text("PORT", str(DEFAULT_PORT))),
            drain_seconds=_seconds("DATAGUARDIAN_DRAIN_SECONDS", text("DRAIN_SECONDS", "30"), 0),
            lease_seconds=_seconds(
                "DATAGUARDIAN_LEASE_SECONDS", text("LEASE_SECONDS", str(DEFAULT_LEASE_SECONDS)), MIN_LEASE_SECONDS
            ),
            timezone=_zone("DATAGUARDIAN_TIMEZONE", text("TIMEZONE", "UTC")),
            log_level=text("LOG_LEVEL", "info").lower(),
            log_format=text("LOG_FORMAT", "auto").lower(),
            allowed_hosts=_hosts("DATAGUARDIAN_ALLOWED_HOSTS", text("ALLOWED_HOSTS", "")),
            cors_origins=_origins("DATAGUARDIAN_CORS_ORIGINS", text("CORS_ORIGINS", "")),
            trusted_proxies=_networks("DATAGUARDIAN_TRUSTED_PROXIES", text("TRUSTED_PROXIES", "")),
            metrics_networks=_networks("DATAGUARDIAN_METRICS_NETWORKS", text("METRICS_NETWORKS", "")),
            **_tls(text("TLS_CERT", ""), text("TLS_KEY", "")),
            secret_key=given.get("DATAGUARDIAN_SECRET_KEY") or None,
            secret_key_file=Path(path).absolute() if (path := given.get("DATAGUARDIAN_SECRET_KEY_FILE")) else None,
        )

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_seconds)

    @property
    def renew_seconds(self) -> float:
        """How often a lease is renewed: several tries before it runs out."""
        return self.lease_seconds / 6

    @property
    def catalogue_url(self) -> str:
        """The catalogue's address, with its password."""
        return self.database_url or f"sqlite:///{self.catalogue_path}"

    @property
    def catalogue_path(self) -> Path:
        """Where the embedded catalogue lies."""
        return self.home / "catalogue.db"


def default_home() -> Path:
    """Returns the home when nobody names one: `make up`'s, beside its virtual environment, where it has run; else the
    user's own. So the commands of a checkout find the service of that checkout.
    """
    beside = Path(sys.prefix).parent / HOME
    is_made = Path(sys.prefix).name == ".venv" and (beside / "lock").is_file()
    return beside if is_made else Path.home() / HOME


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment for a child process: without our own secrets."""
    return {name: value for name, value in environment.items() if name not in SECRET_VARIABLES}


NOTIFIER_NETWORKS = "127.0.0.0/8,::1"
"""A receiver on the same machine is usual."""


def notifier_networks(environment: Mapping[str, str] | None = None) -> tuple[Network, ...]:
    """Returns the networks of this machine and its link that messages may go to; raises UsageError when one is none."""
    given = os.environ if environment is None else environment
    name = "DATAGUARDIAN_NOTIFIER_NETWORKS"
    return _networks(name, given.get(name, NOTIFIER_NETWORKS))


def _networks(name: str, text: str) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(part) for part in _parts(text))
    except ValueError as error:
        raise UsageError(f"{name} holds what is no network: {error}", hint="such as 127.0.0.0/8,::1") from error


def _hosts(name: str, text: str) -> frozenset[str]:
    hosts = frozenset(part.lower().strip("[]") for part in _parts(text))
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise UsageError(
                f"{name} holds what is no host's name: {host!r}",
                hint="names without a port, such as backup.example.org",
            )
    return hosts


def _origins(name: str, text: str) -> frozenset[str]:
    origins = frozenset(part.lower() for part in _parts(text))
    for origin in origins - {"*"}:
        if not _ORIGIN.fullmatch(origin):
            raise UsageError(
                f"{name} holds what is no origin: {origin!r}", hint="such as https://status.example.org, or * for all"
            )
    return origins


def _tls(cert: str, key: str) -> dict[str, Path | None]:
    if bool(cert) != bool(key):
        raise UsageError(
            "DATAGUARDIAN_TLS_CERT and DATAGUARDIAN_TLS_KEY go together",
            hint="name the file of the certificate with its chain, and that of its key, both in PEM",
        )
    return {"tls_cert": Path(cert).absolute() if cert else None, "tls_key": Path(key).absolute() if key else None}


def _parts(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _port(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= LAST_PORT):
        raise UsageError(f"{name} is not the number of a port: {text!r}", hint=f"such as {DEFAULT_PORT}")
    return int(text)


def _seconds(name: str, text: str, least: float) -> float:
    try:
        seconds = float(text)
    except ValueError as error:
        raise UsageError(f"{name} is not a number: {text!r}") from error
    if not least <= seconds <= MOST_SECONDS:  # nor is NaN
        raise UsageError(f"{name} is out of bounds: {text}", hint=f"from {least:g} to {MOST_SECONDS:g} seconds")
    return seconds


def _redis_url(url: str | None) -> str | None:
    """Refuses, without repeating it, what would be a defect in the depths of the client library."""
    if url is not None:
        try:
            known = urlsplit(url).scheme in {"redis", "rediss", "unix"} and urlsplit(url).port != 0
        except ValueError:
            known = False
        if not known:
            raise UsageError(
                "REDIS_URL is not the address of a Redis server",
                hint="redis://host:6379/0, rediss://user:password@host:6379/0 or unix:///run/redis.sock",
            )
    return url


def _zone(name: str, text: str) -> str:
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError) as error:  # an unknown zone is a KeyError
        raise UsageError(f"{name} is not an IANA time zone: {text!r}", hint="such as Europe/Lisbon") from error
    return text
