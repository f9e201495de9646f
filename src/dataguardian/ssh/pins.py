"""Which host keys a server may have: the configured one, or the one that it showed first."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh

from dataguardian.domain.errors import AuthenticationError, DataGuardianError, NotAllowedError, UsageError
from dataguardian.ssh import DEFAULT_PORT, SshTarget

_FAMILIES = ("ssh-ed25519", "ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521", "rsa-sha2-512,rsa-sha2-256")


class HostKeys:
    """The keys that a server may have. `refusal` is why the last one that it showed was not accepted."""

    def __init__(self, target: SshTarget, file: Path) -> None:
        self._target = target
        self._file = file
        host = target.host.lower()
        self._name = host if target.port == DEFAULT_PORT else f"[{host}]:{target.port}"
        self._fingerprints, self.types = self._configured() if target.host_key else self._known()
        self.refusal: DataGuardianError | None = None

    @property
    def is_by_fingerprint(self) -> bool:
        return bool(self._fingerprints) and not self.types

    def may_have_another_key(self, error: Exception) -> bool:
        """A server has keys of several types, and a mere fingerprint does not tell which of them it is of."""
        return self.is_by_fingerprint and (self.refusal is not None or type(error).__name__ == "KeyExchangeFailed")

    def proposals(self) -> Iterator[str]:
        """Yields the kinds of host key to ask for: those that are pinned, or one after the other for a fingerprint."""
        if self.types:
            kinds = [_FAMILIES[2] if kind == "ssh-rsa" else kind for kind in self.types]
            yield ",".join(dict.fromkeys([*",".join(kinds).split(","), *",".join(_FAMILIES).split(",")]))
        elif self.is_by_fingerprint:
            yield from _FAMILIES
        else:
            yield ",".join(_FAMILIES)

    def accept(self, key: asyncssh.SSHKey) -> bool:
        """Runs in the middle of the handshake, before anything secret is sent. What it raises would be lost."""
        try:
            self.refusal = self._judge(key)
        except DataGuardianError as error:
            self.refusal = error
        return self.refusal is None

    def _judge(self, key: asyncssh.SSHKey) -> DataGuardianError | None:
        shown = key.get_fingerprint()
        if not self._fingerprints:
            self._pin(key)
        return None if shown in self._fingerprints else self._changed(shown)

    def _changed(self, shown: str) -> DataGuardianError:
        expected = ", ".join(sorted(self._fingerprints))
        if self._target.host_key:
            hint = f"if the server was given a new key, ask its administrator, then set host_key to {shown}"
        else:
            lines = (
                f"remove the lines of {self._name} from {self._file} (ssh-keygen -R '{self._name}' -f '{self._file}')"
            )
            hint = f"if the server was given a new key, ask its administrator whether it is {shown}, then {lines}"
        return AuthenticationError(
            f"the host key of {self._target} has changed: expected {expected}, but the server shows {shown}; "
            "either the server was set up anew, or somebody listens in between",
            hint=hint,
            expected=expected,
            shown=shown,
        )

    def _configured(self) -> tuple[set[str], tuple[str, ...]]:
        """Returns the fingerprints and the types, which a fingerprint alone does not tell, of `host_key`."""
        text = (self._target.host_key or "").strip()
        if text.startswith("SHA256:"):
            return {text.rstrip("=")}, ()
        words = text.split()
        start = next((place for place, word in enumerate(words) if word.startswith(("ssh-", "ecdsa-", "sk-"))), 0)
        try:
            key = asyncssh.import_public_key(" ".join(words[start : start + 2]))
        except asyncssh.KeyImportError as error:
            raise UsageError(
                f"the host_key for {self._target} is no host key",
                hint="give a line as `ssh-keyscan HOST` prints it, or a fingerprint SHA256:…",
            ) from error
        return {key.get_fingerprint()}, (key.get_algorithm(),)

    def _known(self) -> tuple[set[str], tuple[str, ...]]:
        try:
            text = self._file.read_text(encoding="utf-8")
            keys = asyncssh.import_known_hosts(text).match(self._name, "", None)[0]
        except FileNotFoundError:
            return set(), ()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise NotAllowedError(
                f"the file of known host keys {self._file} cannot be read: {reason}",
                hint="correct it, or give the server's key as host_key",
            ) from error
        return {key.get_fingerprint() for key in keys}, tuple(dict.fromkeys(key.get_algorithm() for key in keys))

    def _pin(self, key: asyncssh.SSHKey) -> None:
        """Writes the key down, unless another process was faster: then its key counts."""
        line = f"{self._name} {key.export_public_key().decode().strip()}\n"
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(self._file) as fd:
                self._fingerprints, self.types = self._known()
                if not self._fingerprints:
                    os.write(fd, _line_end(self._file) + line.encode())
                    os.fsync(fd)
                    self._fingerprints, self.types = {key.get_fingerprint()}, (key.get_algorithm(),)
        except OSError as error:
            raise NotAllowedError(
                f"the host key of {self._target} cannot be kept in {self._file}: {error.strerror}",
                hint=f"make {self._file.parent} writable, or give the key as host_key: {key.get_fingerprint()}",
            ) from error


@contextmanager
def _locked(file: Path) -> Iterator[int]:
    fd = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _line_end(file: Path) -> bytes:
    """Returns what must come first when an editor left the last line open."""
    content = file.read_bytes()
    return b"\n" if content and not content.endswith(b"\n") else b""
