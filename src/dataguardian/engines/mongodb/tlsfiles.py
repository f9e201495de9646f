"""TLS as MongoDB's clients want it told: options, and certificate and key in one file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataguardian.engines.mongodb.config import MongoConfig
from dataguardian.interruption import unbroken

_VERIFIES_NOTHING = ("prefer", "require")


@contextmanager
def key_file(config: MongoConfig) -> Iterator[str | None]:
    """Gives the path of a file with the client's certificate and key, made for the time of the block if need be."""
    if not config.ssl_cert or not config.ssl_key:
        yield config.ssl_cert
        return
    with private_file(
        "client.pem", Path(config.ssl_cert).read_bytes() + b"\n" + Path(config.ssl_key).read_bytes()
    ) as path:
        yield path


@contextmanager
def private_file(name: str, content: bytes) -> Iterator[str]:
    """Gives the path of a file that only this user can read, and that is gone after the block.

    It lies in memory where a child can read it there: a process that is killed leaves no secret on a disk.
    """
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create(name), "wb") as held:
            os.fchmod(held.fileno(), 0o600)
            held.write(content)
            held.flush()
            path = f"/proc/{os.getpid()}/fd/{held.fileno()}"
            if _is_seen_by_children(path, held.fileno()):
                yield path
                return
    with _file_on_disk(name, content) as path:
        yield path


def _is_seen_by_children(path: str, descriptor: int) -> bool:
    """Tells whether a path below /proc leads others to what this process has open: not without a /proc of our own, nor
    where the kernel guards a program that was given more rights than its user has.
    """
    try:
        is_ours = Path("/proc/self/fd").stat().st_uid == os.geteuid()
        return is_ours and os.path.samestat(Path(path).stat(), os.fstat(descriptor))
    except OSError:
        return False


@contextmanager
def _file_on_disk(name: str, content: bytes) -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="dataguardian-")  # 0700
    try:
        path = Path(folder) / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        yield str(path)
    finally:
        with unbroken:
            shutil.rmtree(folder, ignore_errors=True)


def driver_options(config: MongoConfig, key_path: str | None, *, has_tls: bool) -> dict[str, Any]:
    """Returns the options of a MongoClient."""
    if not has_tls:
        return {"tls": False}
    given = {
        "tlsCAFile": config.ssl_ca,
        "tlsCertificateKeyFile": key_path,
        "tlsAllowInvalidCertificates": config.ssl_mode in _VERIFIES_NOTHING or None,
        "tlsAllowInvalidHostnames": config.ssl_mode == "verify-ca" or None,
    }
    return {"tls": True} | {key: value for key, value in given.items() if value is not None}


def uri_options(config: MongoConfig, key_path: str | None, *, has_tls: bool) -> dict[str, str]:
    """Returns the same for the URI that mongodump gets; see `mongodump_can`."""
    if not has_tls:
        return {"tls": "false"}
    given = {
        "tlsCAFile": config.ssl_ca,
        "tlsCertificateKeyFile": key_path,
        "tlsInsecure": "true" if config.ssl_mode in _VERIFIES_NOTHING else None,
    }
    return {"tls": "true"} | {key: value for key, value in given.items() if value is not None}


def mongodump_can(config: MongoConfig) -> bool:
    """Tells whether mongodump verifies as much as the configuration asks: it knows all or nothing, and no other name
    than that of the address.
    """
    tunnelled = config.ssh_tunnel is not None and config.ssl_mode == "verify-full"
    return config.ssl_mode != "verify-ca" and not tunnelled
