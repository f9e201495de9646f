"""Sealing: what opens, what does not, and where the keys come from."""

from __future__ import annotations

import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st
from pydantic import BaseModel, SecretBytes, SecretStr

from dataguardian.domain.errors import NotAllowedError, SecretUnreadableError, UsageError
from dataguardian.domain.secretfields import UNKNOWN, check_names, leaves, secret_paths
from dataguardian.service.keyring import KEY_FILE, create_key_file, load_ring, read_keys
from dataguardian.service.safekeeping import Unreadable, opened_where_possible, seal_clear, shown, unreadable_in, whole
from dataguardian.service.secrets import MASK
from dataguardian.service.vault import Key, Vault
from dataguardian.settings import Settings

KEY = Key(bytes(range(32)))
VAULT = Vault([KEY])


@given(st.text(), st.text())
@settings_of(deadline=None)
def test_what_is_sealed_opens_for_its_purpose_and_for_no_other(text: str, purpose: str) -> None:
    """Any text at all, twice differently; copied to another place it does not open."""
    sealed = VAULT.seal(text, purpose=purpose)
    assert VAULT.open(sealed, purpose=purpose) == text
    assert VAULT.is_sealed(sealed)
    assert sealed != VAULT.seal(text, purpose=purpose)
    with pytest.raises(SecretUnreadableError, match="does not belong"):
        VAULT.open(sealed, purpose=purpose + "x")


def test_the_form_is_the_documented_one() -> None:
    """dgs1, 16 digits of the key's hash, base64url of nonce, text and tag; nothing of it is the text."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 -- as somebody else would open it

    word, key_id, data = VAULT.seal("hello", purpose="users/1").split(":")
    assert (word, key_id) == ("dgs1", KEY.id)
    raw = base64.urlsafe_b64decode(data + "=" * (-len(data) % 4))
    assert len(raw) == 12 + 5 + 16
    assert AESGCM(KEY.data).decrypt(raw[:12], raw[12:], b"users/1") == b"hello"


@pytest.mark.parametrize("place", range(0, 60, 7))
def test_a_flipped_character_is_noticed(place: int) -> None:
    """Wherever it is: no other text comes out."""
    sealed = VAULT.seal("a secret of some length", purpose="p")
    place = min(place, len(sealed) - 2)
    other = "A" if sealed[place] != "A" else "B"
    with pytest.raises(SecretUnreadableError):
        VAULT.open(sealed[:place] + other + sealed[place + 1 :], purpose="p")


def test_other_keys_may_be_known_for_reading() -> None:
    """The first key seals, every known one opens, and what none opens says which key is needed."""
    old, new = KEY, Key.generate()
    sealed = Vault([old]).seal("x", purpose="p")
    assert Vault([new, old]).open(sealed, purpose="p") == "x"
    assert Vault([new, old]).seal("x", purpose="p").startswith(f"dgs1:{new.id}:")
    with pytest.raises(SecretUnreadableError, match=old.id):
        Vault([new]).open(sealed, purpose="p")


def test_a_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    """Many processes at once end up with one key; the file is 0600 and nothing lies beside it."""
    settings = Settings(staging_dir=tmp_path, home=tmp_path / "home")
    with ThreadPoolExecutor(8) as threads:
        rings = list(threads.map(lambda _: load_ring(settings), range(32)))
    assert len({ring.keys[0].id for ring in rings}) == 1
    assert [path.name for path in settings.home.iterdir()] == [KEY_FILE]
    assert stat.S_IMODE((settings.home / KEY_FILE).stat().st_mode) == 0o600
    before = (settings.home / KEY_FILE).read_bytes()
    create_key_file(settings.home / KEY_FILE, Key.generate())
    assert (settings.home / KEY_FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "no secret key"), ("not base64!", "not base64"), ("aGVsbG8=", "5 bytes"), ("# only words", "no secret key")],
)
def test_a_key_that_is_none_is_said_to_be_none(tmp_path: Path, text: str, problem: str) -> None:
    """With the file's name and what a key looks like, and without what stands there."""
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(UsageError, match=problem) as caught:
        read_keys(path)
    assert "32 bytes" in caught.value.hint
    if text:
        settings = Settings(staging_dir=tmp_path, home=tmp_path, secret_key=text if "#" not in text else "x")
        with pytest.raises(UsageError) as caught:
            load_ring(settings)
        assert text not in caught.value.message


def test_a_key_that_cannot_be_read_or_kept_is_an_error_of_ours(tmp_path: Path) -> None:
    """A file that is not there; a home whose place is taken by a file."""
    missing = Settings(staging_dir=tmp_path, home=tmp_path, secret_key_file=tmp_path / "nothing")
    with pytest.raises(NotAllowedError, match="nothing"):
        load_ring(missing)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotAllowedError):
        load_ring(Settings(staging_dir=tmp_path, home=tmp_path / "file" / "home"))
    both = Settings(staging_dir=tmp_path, home=tmp_path, secret_key=KEY.text, secret_key_file=tmp_path / "k")
    with pytest.raises(UsageError, match="both"):
        load_ring(both)


class Inner(BaseModel):
    type: Literal["inner"] = "inner"
    word: SecretStr | None = None
    name: str = ""


class Other(BaseModel):
    type: Literal["other"] = "other"
    word: str = ""


class Outer(BaseModel):
    plain: str = ""
    raw: SecretBytes | None = None
    many: list[SecretStr] = []
    pair: tuple[str, SecretStr] | None = None
    by_name: dict[str, SecretStr | int] = {}
    nested: dict[str, list[Inner | Other]] = {}
    proxy: str | None = None


DOCUMENT = {
    "plain": "plain",
    "raw": "secret1",
    "many": ["secret2", "secret3"],
    "pair": ["name", "secret4"],
    "by_name": {"a/b": "secret5", "a~b": "secret6", "n": 7},
    "nested": {"x": [{"type": "inner", "word": "secret7", "name": "n"}, {"type": "other", "word": "w"}]},
    "proxy": "http://user:secret8@proxy:3128",
}


def test_secrets_are_found_wherever_the_type_puts_them() -> None:
    """In models, lists, tuples, objects, unions; and addresses with a password, whatever their type says."""
    sealed = seal_clear(Outer, DOCUMENT, VAULT, "t/1")
    assert [f"secret{number}" for number in range(1, 9) if f"secret{number}" in str(sealed)] == []
    assert sealed["plain"] == "plain"
    assert sealed["pair"][0] == "name"
    assert sealed["nested"]["x"][1] == {"type": "other", "word": "w"}
    assert whole(opened_where_possible(sealed, VAULT, "t/1")) == DOCUMENT
    assert seal_clear(Outer, sealed, VAULT, "t/1") == sealed, "once is enough"
    masked = shown(sealed, Outer)
    assert masked == shown(DOCUMENT, Outer)
    assert masked["many"] == [MASK, MASK]
    assert masked["proxy"] == MASK


def test_every_text_of_a_type_that_is_not_known_is_sealed() -> None:
    """Of an adapter that is not installed any more nobody knows what is secret."""
    paths = set(secret_paths(UNKNOWN, DOCUMENT))
    assert ("plain",) in paths
    sealed = seal_clear(UNKNOWN, DOCUMENT, VAULT, "t/1")
    assert opened_where_possible(sealed, VAULT, "t/1") == DOCUMENT


def test_what_cannot_be_opened_is_named_and_the_rest_is_there() -> None:
    """Of another row, or sealed with a lost key."""
    sealed = seal_clear(Outer, DOCUMENT, VAULT, "t/1") | {"many": ["clear", VAULT.seal("x", purpose="t/2/many/1")]}
    found = opened_where_possible(sealed, VAULT, "t/1")
    assert found["pair"] == ["name", "secret4"]
    assert isinstance(found["many"][1], Unreadable)
    with pytest.raises(SecretUnreadableError, match=r"many\.1"):
        whole(found)
    lost = unreadable_in(seal_clear(Outer, DOCUMENT, VAULT, "t/1"), Vault([Key.generate()]), "t/1")
    assert set(lost.values()) == {KEY.id}
    assert len(lost) == 8


class Careless(BaseModel):
    host: str
    api_token: str


class Hidden(BaseModel):
    inner: dict[str, frozenset[Inner]] = {}
    fine_key_file: str = ""


def test_a_field_that_is_called_like_a_secret_must_be_one() -> None:
    """The error names it; paths of files, ids and durations may be called so."""
    with pytest.raises(UsageError, match="api_token of Careless"):
        check_names(Careless)
    check_names(Hidden)
    assert ("inner", "*", "*", "word") in {leaf.path for leaf in leaves(Hidden) if leaf.secret}
