"""What the environment may set. Everything has a default that works."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from dataguardian.domain.errors import UsageError

DEFAULT_PORT = 8484
DEFAULT_LEASE_SECONDS = 60.0
MIN_LEASE_SECONDS = 2.0
MOST_SECONDS = 86_400.0
LAST_PORT = 65_535

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Settings:
    """`staging_dir` is the only place, apart from a restore's target, where a backup ever lies on a local disk.

    `home` holds what the service keeps: catalogue, queue, its own backups. `database_url` and `redis_url` of None mean
    the embedded ones in `home`. `drain_seconds` is how long running work may go on after SIGTERM; `lease_seconds`,
    after how long without a sign of life another worker takes work over. `secret_key` is the text of the key that seals
    stored secrets, `secret_key_file` the file that holds it; None of both means one in `home`.
    """

    staging_dir: Path
    home: Path = field(default_factory=lambda: Path.home() / ".dataguardian")
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

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Reads DATABASE_URL, REDIS_URL and DATAGUARDIAN_*; raises UsageError that names the variable."""
        given = os.environ if environment is None else environment
        notifier_networks(given)  # what is wrong with it is said at once, not by the first message

        def text(name: str, default: str) -> str:
            return given.get(f"DATAGUARDIAN_{name}") or default

        return cls(
            staging_dir=Path(text("STAGING_DIR", tempfile.gettempdir())),
            home=Path(text("HOME", str(Path.home() / ".dataguardian"))).absolute(),
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


NOTIFIER_NETWORKS = "127.0.0.0/8,::1"
"""A receiver on the same machine is usual, and this release's service is reached from there only."""


def notifier_networks(environment: Mapping[str, str] | None = None) -> tuple[Network, ...]:
    """Returns the networks of this machine and its link that messages may go to; raises UsageError when one is none."""
    given = os.environ if environment is None else environment
    texts = given.get("DATAGUARDIAN_NOTIFIER_NETWORKS", NOTIFIER_NETWORKS).replace(",", " ").split()
    try:
        return tuple(ip_network(text) for text in texts)
    except ValueError as error:
        raise UsageError(
            f"DATAGUARDIAN_NOTIFIER_NETWORKS holds what is no network: {error}", hint="such as 127.0.0.0/8,::1"
        ) from error


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
