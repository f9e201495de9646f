"""Where the secret keys come from: the environment, a file that it names, or a file in the home directory.

A key file holds one key per line, in base64; lines that begin with `#` are comments. The first key seals, the others
only open: so a key that was lost and found again is put back by adding it as a line.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import structlog

from dataguardian.domain.errors import NotAllowedError, UsageError
from dataguardian.service.vault import KEY_HINT, Key
from dataguardian.settings import Settings

KEY_FILE = "secret.key"
NEXT_FILE = "secret.key.next"
"""A rotation's new key lies here until the rows that are sealed with it are committed."""
MOST_BYTES = 64 * 1024
_PARTIAL = re.compile(r"\.[0-9a-f]{32}\Z")

log = structlog.get_logger(__name__)


class Source(StrEnum):
    """Who says which key seals."""

    ENVIRONMENT = "DATAGUARDIAN_SECRET_KEY"
    FILE = "DATAGUARDIAN_SECRET_KEY_FILE"
    HOME = "the home directory"


@dataclass(frozen=True)
class KeyRing:
    """The keys that this process was given; the first one seals. `next` is that of a rotation that was cut short."""

    keys: Sequence[Key]
    source: Source
    next: Key | None = None

    @property
    def all(self) -> list[Key]:
        return [*self.keys, *([self.next] if self.next else [])]


def load_ring(settings: Settings) -> KeyRing:
    """Reads the keys, and makes one in the home where there is none at all.

    What the environment says comes first; the home's own keys are read besides. Raises UsageError for a key that is
    none, NotAllowedError for a file that cannot be read or written.
    """
    own = settings.home / KEY_FILE
    if settings.secret_key is not None and settings.secret_key_file is not None:
        raise UsageError(f"{Source.ENVIRONMENT} and {Source.FILE} are both set", hint="set one of them")
    if settings.secret_key is not None:
        texts = settings.secret_key.replace(",", " ").split()
        given = [Key.parse(text, where=Source.ENVIRONMENT) for text in texts]
        return KeyRing(_once([*given, *_own(own)]), Source.ENVIRONMENT)
    if settings.secret_key_file is not None:
        given = read_keys(settings.secret_key_file)
        return KeyRing(_once([*given, *_own(own)]), Source.FILE)
    if not own.exists():
        create_key_file(own, Key.generate())
    following = settings.home / NEXT_FILE
    return KeyRing(read_keys(own), Source.HOME, read_keys(following)[0] if following.exists() else None)


def read_keys(path: Path) -> list[Key]:
    """Returns a file's keys, at least one; warns when other users of the machine may read it."""
    try:
        with path.open("rb") as file:
            text, mode = file.read(MOST_BYTES).decode("ascii", "replace"), os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise NotAllowedError(
            f"the secret key's file {path} cannot be read: {error.strerror}", hint="docs/secrets.md tells where it is"
        ) from error
    lines = [line.strip() for line in text.splitlines()]
    keys = [Key.parse(line, where=str(path)) for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UsageError(f"{path} holds no secret key", hint=KEY_HINT)
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        log.warning("other users may read the secret key", path=str(path), hint=f"chmod 600 {path}")
    return _once(keys)


def create_key_file(path: Path, key: Key) -> None:
    """Writes a key file for its owner alone, whole and on the disk when this returns; never touches one that exists."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(f"# DataGuardian: opens the secrets that the catalogue holds\n{key.text}\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)
        except FileExistsError:
            return  # another process was faster, and its key counts
        finally:
            partial.unlink()
        sync_folder(path.parent)
    except OSError as error:
        raise NotAllowedError(f"the secret key cannot be kept in {path}: {error.strerror}") from error


def forget_partials(path: Path) -> None:
    """Removes what `create_key_file` left beside a file when it was killed: copies of keys that nobody knows of."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.*"):
        if _PARTIAL.search(left.name):
            left.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Makes names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _own(path: Path) -> list[Key]:
    return read_keys(path) if path.exists() else []


def _once(keys: Sequence[Key]) -> list[Key]:
    return list({key.id: key for key in keys}.values())
