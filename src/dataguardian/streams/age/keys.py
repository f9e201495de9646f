"""Keys as people write them: recipients in options and files, identities in files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from dataguardian.streams.age import sshkeys
from dataguardian.streams.age.header import INTRO, Stanza
from dataguardian.streams.age.x25519 import X25519Identity, X25519Recipient

MAX_RECIPIENTS = 50
MAX_TEXT_LENGTH = 16 * 1024
_SECRET = "AGE-SECRET-KEY-1"  # noqa: S105 -- how one begins
_KINDS = "an age1… key, or an ssh-ed25519 or ssh-rsa public key"


class Recipient(Protocol):
    """Whom a file is sealed for. `text` is public, and may be shown."""

    @property
    def text(self) -> str: ...

    def wrap(self, file_key: bytes) -> Stanza: ...


class Identity(Protocol):
    """What a file is opened with."""

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Returns the file key when this stanza was meant for it, else None; raises NotAgeError."""


def parse_recipient(text: str) -> Recipient:
    """Returns the recipient; raises ValueError with words that may be shown, and never quotes a private key."""
    text = text.strip()
    if len(text) > MAX_TEXT_LENGTH:
        raise ValueError("a recipient that is too long")
    if text.upper().startswith(_SECRET) or "PRIVATE KEY" in text:
        raise ValueError(f"that is a private key, and a backup is encrypted for a public one: {_KINDS}")
    if text.startswith("age1"):
        return _age(text)
    if text.startswith((f"{sshkeys.ED25519} ", f"{sshkeys.RSA} ")):
        return _ssh(text)
    raise ValueError(f"{text[:40]!r} is not a recipient: {_KINDS}")


def parse_recipients(texts: Iterable[str]) -> list[Recipient]:
    """Returns each once, in order; raises ValueError for none, for too many, and for what is not a recipient."""
    found = {recipient.text: recipient for recipient in map(parse_recipient, texts)}
    if not 1 <= len(found) <= MAX_RECIPIENTS:
        raise ValueError(f"1 to {MAX_RECIPIENTS} recipients are needed, and {len(found)} were given")
    return list(found.values())


def parse_identities(text: str) -> list[Identity]:
    """Returns what an identity file holds: lines of AGE-SECRET-KEY-1…, or one SSH private key.

    Raises ValueError with words that may be shown; they quote nothing.
    """
    if text.startswith(INTRO.decode()) or "BEGIN AGE ENCRYPTED FILE" in text:
        raise ValueError("it is itself encrypted: give what `age -d` makes of it")
    if "PRIVATE KEY-----" in text:
        return [_ssh_identity(text)]
    lines = [line.strip() for line in text.splitlines()]
    found: list[Identity] = [_age_identity(line) for line in lines if line and not line.startswith("#")]
    if not found:
        raise ValueError("it holds no key")
    return found


def recipients_of(text: str) -> list[str]:
    """Returns the lines of a recipients file that are not empty or comments."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _age(text: str) -> Recipient:
    try:
        return X25519Recipient.parse(text)
    except ValueError as error:
        kind = "of a kind that this release does not know" if text.count("1") > 1 or "pq" in text[:8] else "mistyped"
        raise ValueError(f"{text[:70]!r} is not a recipient: it is {kind}; {_KINDS} is needed") from error


def _ssh(text: str) -> Recipient:
    try:
        key = serialization.load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{text[:40]!r}… is not an SSH public key, or it is mistyped") from error
    if isinstance(key, ed25519.Ed25519PublicKey):
        return sshkeys.Ed25519Recipient(key)
    if isinstance(key, rsa.RSAPublicKey):
        sshkeys.check_rsa_size(key.key_size)
        return sshkeys.RsaRecipient(key)
    raise ValueError(f"{text[:20]!r}… is an SSH key of another kind: {_KINDS} is needed")


def _age_identity(line: str) -> Identity:
    if line.upper().startswith("AGE-PLUGIN-"):
        raise ValueError("it names a plugin of age, which this release does not run")
    if not line.startswith(_SECRET):
        raise ValueError("it holds a line that is no key: AGE-SECRET-KEY-1… or an SSH private key is needed")
    try:
        return X25519Identity.parse(line)
    except ValueError:
        raise ValueError("it holds a key that is mistyped") from None


def _ssh_identity(text: str) -> Identity:
    load = serialization.load_ssh_private_key if "OPENSSH PRIVATE" in text else serialization.load_pem_private_key
    try:
        key = load(text.encode(), None)
    except TypeError:
        raise ValueError(_PROTECTED) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        protected = "password" in str(error).lower() or "encrypted" in str(error).lower()
        raise ValueError(_PROTECTED if protected else "it is not an SSH private key, or it was damaged") from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return sshkeys.Ed25519Identity(key)
    if isinstance(key, rsa.RSAPrivateKey):
        sshkeys.check_rsa_size(key.key_size)
        return sshkeys.RsaIdentity(key)
    raise ValueError("it is an SSH key of another kind: ssh-ed25519 or ssh-rsa is needed")


_PROTECTED = "it is protected by a passphrase: give a copy without one (ssh-keygen -p -N '' -f COPY)"
