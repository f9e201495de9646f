"""What encrypts a backup and what opens it, as people give it. Light: the cryptography is core/encryption.py's."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator

MIN_PASSPHRASE_LENGTH = 10
MAX_PASSPHRASE_LENGTH = 1024
MAX_KEYS = 20
MAX_IDENTITY_LENGTH = 64 * 1024

Passphrase = Annotated[SecretStr, Field(min_length=MIN_PASSPHRASE_LENGTH, max_length=MAX_PASSPHRASE_LENGTH)]
GivenPassphrase = Annotated[SecretStr, Field(min_length=1, max_length=MAX_PASSPHRASE_LENGTH)]
IdentityText = Annotated[SecretStr, Field(min_length=1, max_length=MAX_IDENTITY_LENGTH)]


def _listed(value: object) -> object:
    """One text is a list of one: what somebody gives who has a single key file."""
    return (value,) if isinstance(value, str) else value


class EncryptionOptions(BaseModel):
    """Either `recipients` (age1…, ssh-ed25519, ssh-rsa), or a `passphrase` that guards a key made for each backup."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipients: tuple[str, ...] = ()
    passphrase: Passphrase | None = None

    @field_validator("recipients")
    @classmethod
    def _are_recipients(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        if not texts:
            return texts
        from dataguardian.streams.age.keys import parse_recipients  # noqa: PLC0415 -- 25 MB that most runs can do without

        return tuple(recipient.text for recipient in parse_recipients(texts))

    @field_validator("passphrase")
    @classmethod
    def _can_be_typed(cls, passphrase: SecretStr | None) -> SecretStr | None:
        if passphrase is not None and not passphrase.get_secret_value().isprintable():
            raise ValueError("a passphrase is one line of visible characters")
        return passphrase

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.recipients) == (self.passphrase is not None):
            raise ValueError("give recipients or a passphrase, and not both")
        return self

    def revealed(self) -> dict[str, Any]:
        """Returns plain JSON with the passphrase in clear: for the runner, which gets it through a pipe."""
        if self.passphrase is None:
            return {"recipients": list(self.recipients)}
        return {"passphrase": self.passphrase.get_secret_value()}


class BackupKeys(BaseModel):
    """What encrypted backups are opened with: contents of identity files, and passphrases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identities: Annotated[tuple[IdentityText, ...], BeforeValidator(_listed), Field(max_length=MAX_KEYS)] = ()
    passphrases: Annotated[tuple[GivenPassphrase, ...], BeforeValidator(_listed), Field(max_length=MAX_KEYS)] = ()

    @field_validator("identities")
    @classmethod
    def _are_identities(cls, texts: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if texts:
            from dataguardian.streams.age.keys import parse_identities  # noqa: PLC0415 -- as above

            for text in texts:
                parse_identities(text.get_secret_value())
        return texts

    def __bool__(self) -> bool:
        return bool(self.identities or self.passphrases)

    def revealed(self) -> dict[str, Any]:
        """Returns plain JSON with everything in clear: for the runner, which gets it through a pipe."""
        return {
            "identities": [text.get_secret_value() for text in self.identities],
            "passphrases": [text.get_secret_value() for text in self.passphrases],
        }


NO_KEYS = BackupKeys()
