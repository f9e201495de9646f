"""Our age files against the two other implementations, in both directions, and against whoever changes a bit."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from pathlib import Path

import pyrage
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dataguardian.streams.age import bech32
from dataguardian.streams.age.files import NotForThisKeyError, decrypt, encrypt
from dataguardian.streams.age.header import MAX_STANZAS, Stanza, decode_header, encode_header
from dataguardian.streams.age.keys import (
    MAX_RECIPIENTS,
    Identity,
    Recipient,
    parse_identities,
    parse_recipient,
    parse_recipients,
    recipients_of,
)
from dataguardian.streams.age.passphrase import MAX_LOG_N, PassphraseIdentity, PassphraseRecipient
from dataguardian.streams.age.payload import CHUNK_BYTES
from dataguardian.streams.age.wire import NotAgeError, encode
from dataguardian.streams.age.x25519 import X25519Identity
from tests.conftest import require_tool

SEALED_CHUNK = CHUNK_BYTES + 16
BORDERS = sorted({max(0, count * CHUNK_BYTES + more) for count in range(4) for more in (-17, -16, -1, 0, 1, 16, 17)})
SIZES = st.one_of(st.sampled_from(BORDERS), st.integers(0, 3 * CHUNK_BYTES))
KINDS = ["x25519", "ssh-ed25519", "ssh-rsa"]
AGAIN = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def content(size_bytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


class Pair:
    """A key pair of one kind, as files for the stock programs and as objects of ours and of pyrage."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.file = folder / kind
        if kind == "x25519":
            made = X25519Identity.generate()
            self.public = made.recipient().text
            self.file.write_text(f"# a comment\n\n{made.secret_text()}\n")
            self.others_public = pyrage.x25519.Recipient.from_str(self.public)
            self.others_secret = pyrage.x25519.Identity.from_str(made.secret_text())
        else:
            bits = ["-b", "2048"] if kind == "ssh-rsa" else []
            argv = [
                "ssh-keygen",
                "-q",
                "-t",
                kind.removeprefix("ssh-"),
                *bits,
                "-N",
                "",
                "-C",
                "me@here",
                "-f",
                self.file,
            ]
            subprocess.run(argv, check=True)
            self.public = Path(f"{self.file}.pub").read_text().strip()
            self.others_public = pyrage.ssh.Recipient.from_str(self.public)
            self.others_secret = pyrage.ssh.Identity.from_buffer(self.file.read_bytes())

    @property
    def recipient(self) -> Recipient:
        return parse_recipient(self.public)

    @property
    def identities(self) -> list[Identity]:
        return parse_identities(self.file.read_text())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    require_tool("age")
    require_tool("ssh-keygen")
    folder = tmp_path_factory.mktemp("keys")
    return {kind: Pair(folder, kind) for kind in KINDS}


def age(*arguments: str | Path, given: bytes = b"") -> bytes:
    return subprocess.run(["age", *arguments], input=given, stdout=subprocess.PIPE, check=True).stdout


@pytest.mark.parametrize("kind", KINDS)
@AGAIN
@given(size_bytes=SIZES)
def test_every_size_comes_back(pairs: dict[str, Pair], kind: str, size_bytes: int) -> None:
    """Whatever the size, around every border of STREAM's chunks: the same bytes, and as few more as there must be."""
    pair, data = pairs[kind], content(size_bytes)
    sealed = encrypt(data, [pair.recipient])
    assert decrypt(sealed, pair.identities) == data
    chunks = max(1, -(-size_bytes // CHUNK_BYTES))
    assert len(sealed) == decode_header(sealed).size_bytes + 16 + size_bytes + 16 * chunks


@pytest.mark.parametrize("kind", KINDS)
@AGAIN
@given(size_bytes=SIZES)
def test_pyrage_and_we_read_each_other(pairs: dict[str, Pair], kind: str, size_bytes: int) -> None:
    """What one seals the other opens."""
    pair, data = pairs[kind], content(size_bytes)
    assert pyrage.decrypt(bytes(encrypt(data, [pair.recipient])), [pair.others_secret]) == data
    assert decrypt(pyrage.encrypt(data, [pair.others_public]), pair.identities) == data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size_bytes", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_the_stock_program_and_we_read_each_other(pairs: dict[str, Pair], kind: str, size_bytes: int) -> None:
    """`age -d -i` opens ours, and we open what `age -r` sealed, for several recipients at once."""
    pair, data = pairs[kind], content(size_bytes)
    everybody = [other.recipient for other in pairs.values()]
    assert age("-d", "-i", pair.file, given=bytes(encrypt(data, everybody))) == data
    theirs = age(*(word for other in pairs.values() for word in ("-r", other.public)), given=data)
    assert decrypt(theirs, pair.identities) == data


def test_a_passphrase(pairs: dict[str, Pair]) -> None:
    """pyrage opens what a passphrase sealed, and the other way round; another passphrase opens nothing."""
    words = "héllo wörld, it's me"
    sealed = bytes(encrypt(b"key", [PassphraseRecipient(words)]))
    assert pyrage.passphrase.decrypt(sealed, words) == b"key"
    assert decrypt(sealed, [PassphraseIdentity(words)]) == b"key"
    with pytest.raises(NotForThisKeyError):
        decrypt(sealed, [PassphraseIdentity(words + " ")])
    with pytest.raises(NotForThisKeyError):
        decrypt(sealed, pairs["x25519"].identities)


def _forged(stanzas: list[Stanza]) -> bytes:
    return encode_header(stanzas, bytes(16)) + bytes(32)


@pytest.mark.parametrize("log_n", ["0", "01", str(MAX_LOG_N + 1), "99", "-1", "1e9", "999999"])
def test_a_passphrase_that_costs_too_much_is_not_tried(log_n: str) -> None:
    """Whoever writes into the storage chooses scrypt's cost: beyond a quarter of a gigabyte it is refused at once."""
    stanza = Stanza(("scrypt", encode(bytes(16)), log_n), bytes(32))
    with pytest.raises(NotAgeError):
        decrypt(_forged([stanza]), [PassphraseIdentity("x")])


def test_a_passphrase_stands_alone(pairs: dict[str, Pair]) -> None:
    """As the format says: a passphrase beside other recipients is refused, as it would be a back door."""
    stanza = Stanza(("scrypt", encode(bytes(16)), "1"), bytes(32))
    mixed = _forged([stanza, pairs["x25519"].recipient.wrap(bytes(16))])
    with pytest.raises(NotAgeError):
        decrypt(mixed, [*pairs["x25519"].identities, PassphraseIdentity("x")])


def test_only_who_was_meant_can_open(pairs: dict[str, Pair]) -> None:
    """Of several keys the right one is found; without it there is a word for that, which is not 'damaged'."""
    stranger = X25519Identity.generate()
    sealed = encrypt(b"secret", [pairs["ssh-rsa"].recipient, pairs["x25519"].recipient])
    assert decrypt(sealed, [stranger, *pairs["ssh-ed25519"].identities, *pairs["x25519"].identities]) == b"secret"
    with pytest.raises(NotForThisKeyError):
        decrypt(sealed, [stranger, *pairs["ssh-ed25519"].identities])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), size_bytes=st.sampled_from(BORDERS))
def test_a_flipped_bit_is_refused(pairs: dict[str, Pair], kind: str, place: float, bit: int, size_bytes: int) -> None:
    """Anywhere: in the header's words, its base64, its MAC, the nonce, a chunk, a tag."""
    sealed = encrypt(content(size_bytes), [pairs[kind].recipient])
    header = decode_header(sealed).size_bytes
    # Half of all flips in the header, which is small beside the payload.
    at = int(place * 2 * header) if place < 0.5 else int(place * len(sealed))
    sealed[at] ^= 1 << bit
    with pytest.raises(NotAgeError):
        decrypt(sealed, pairs[kind].identities)


def test_every_bit_of_a_header_is_covered(pairs: dict[str, Pair]) -> None:
    """All of them, one after the other."""
    sealed = bytes(encrypt(b"", [pairs["x25519"].recipient, pairs["ssh-ed25519"].recipient]))
    for at in range(len(sealed)):
        for bit in range(8):
            flipped = bytearray(sealed)
            flipped[at] ^= 1 << bit
            with pytest.raises(NotAgeError):
                decrypt(flipped, pairs["x25519"].identities)


@AGAIN
@given(size_bytes=st.sampled_from(BORDERS), kept=st.floats(0, 1, exclude_max=True))
@example(size_bytes=2 * CHUNK_BYTES, kept=0.5)
def test_what_is_cut_is_refused(pairs: dict[str, Pair], size_bytes: int, kept: float) -> None:
    """Wherever: also at the very border of a chunk."""
    sealed = encrypt(content(size_bytes), [pairs["x25519"].recipient])
    with pytest.raises(NotAgeError):
        decrypt(sealed[: int(kept * len(sealed))], pairs["x25519"].identities)


@pytest.mark.parametrize(
    "order",
    [(1, 0, 2), (0, 2, 1), (0, 1), (0, 2), (1, 2), (0,), (2,), (), (0, 0, 1, 2), (0, 1, 1, 2), (0, 1, 2, 2), (2, 1, 0)],
    ids=str,
)
@pytest.mark.parametrize("last_bytes", [1, CHUNK_BYTES])
def test_chunks_in_another_order_are_refused(pairs: dict[str, Pair], order: tuple[int, ...], last_bytes: int) -> None:
    """Swapped, repeated or left out: their numbers are in the nonces, and so is which one is the last."""
    sealed = bytes(encrypt(content(2 * CHUNK_BYTES + last_bytes), [pairs["x25519"].recipient]))
    begin = decode_header(sealed).size_bytes + 16
    chunks = [sealed[at : at + SEALED_CHUNK] for at in range(begin, len(sealed), SEALED_CHUNK)]
    with pytest.raises(NotAgeError):
        decrypt(sealed[:begin] + b"".join(chunks[number] for number in order), pairs["x25519"].identities)


@pytest.mark.parametrize("more", [b"\0", b"x" * 15, b"x" * 16, b"x" * 17, b"x" * SEALED_CHUNK], ids=len)
@pytest.mark.parametrize("size_bytes", [0, 5, CHUNK_BYTES])
def test_what_has_grown_is_refused(pairs: dict[str, Pair], size_bytes: int, more: bytes) -> None:
    """Nothing may follow the last chunk, not even an empty one."""
    with pytest.raises(NotAgeError):
        decrypt(encrypt(content(size_bytes), [pairs["x25519"].recipient]) + more, pairs["x25519"].identities)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=400))
def test_junk_is_no_age_file(pairs: dict[str, Pair], junk: bytes) -> None:
    """Whatever follows the first line, the answer is the one error, and nothing else."""
    for start in (b"", b"age-encryption.org/v1\n", b"age-encryption.org/v1\n-> X25519 "):
        with pytest.raises(NotAgeError):
            decrypt(start + junk, [*pairs["x25519"].identities, *pairs["ssh-ed25519"].identities])


def test_a_header_of_too_many_recipients_is_refused(pairs: dict[str, Pair]) -> None:
    """The work that a hostile header makes is bounded."""
    stanza = Stanza(("X25519", encode(bytes(32))), bytes(32))
    with pytest.raises(NotAgeError, match="more recipients"):
        decrypt(_forged([stanza] * (MAX_STANZAS + 1)), pairs["x25519"].identities)
    with pytest.raises(NotAgeError, match="too long"):
        decrypt(b"age-encryption.org/v1\n-> " + b"a" * 10_000_000, pairs["x25519"].identities)


def test_a_share_of_low_order_is_refused(pairs: dict[str, Pair]) -> None:
    """A shared secret that anybody knows would open for everybody."""
    for point in (bytes(32), b"\1" + bytes(31)):
        with pytest.raises(NotAgeError):
            decrypt(_forged([Stanza(("X25519", encode(point)), bytes(32))]), pairs["x25519"].identities)
    with pytest.raises(ValueError, match="not a recipient"):
        parse_recipient(bech32.encode("age", bytes(32)))


WRONG_RECIPIENTS = {
    "empty": "",
    "word": "me",
    "mistyped": "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq",
    "upper case": X25519Identity.generate().recipient().text.upper(),
    "secret": X25519Identity.generate().secret_text(),
    "plugin": "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t",
    "option": "--output=/tmp/x",
    "ssh without key": "ssh-ed25519 ",
    "ssh junk": "ssh-ed25519 AAAA me@here",
    "other ssh": "ecdsa-sha2-nistp256 AAAA",
    "line break": X25519Identity.generate().recipient().text + "\nage1",
    "too long": "ssh-rsa " + "A" * 100_000,
}


@pytest.mark.parametrize("text", WRONG_RECIPIENTS.values(), ids=WRONG_RECIPIENTS)
def test_what_is_no_recipient_is_refused(text: str) -> None:
    """In words; a private key that was given by mistake is not repeated in them."""
    with pytest.raises(ValueError, match=r"recipient|private key|SSH") as caught:
        parse_recipient(text)
    assert "SECRET" not in str(caught.value)


def test_recipients_are_each_taken_once(pairs: dict[str, Pair]) -> None:
    """And an SSH key's comment, which may name a person, is dropped."""
    texts = [pairs["x25519"].public, pairs["ssh-ed25519"].public, f" {pairs['x25519'].public} "]
    found = [recipient.text for recipient in parse_recipients(texts)]
    assert found == [pairs["x25519"].public, pairs["ssh-ed25519"].public.removesuffix(" me@here")]
    assert recipients_of(f"# people\n\n{found[0]}\n  # more\n {found[1]}\n") == found
    many = [X25519Identity.generate().recipient().text for _ in range(MAX_RECIPIENTS + 1)]
    for wrong in ([], many):
        with pytest.raises(ValueError, match="recipients are needed"):
            parse_recipients(wrong)


def test_a_small_rsa_key_is_refused(tmp_path: Path) -> None:
    """`age` would not take it either."""
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", tmp_path / "key"], check=True)
    for parse, name in ((parse_recipient, "key.pub"), (parse_identities, "key")):
        with pytest.raises(ValueError, match="1024 bits"):
            parse((tmp_path / name).read_text())


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_a_key_that_is_locked_or_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    """An SSH key with a passphrase, or of a curve that age does not use: clear words, and no guess."""
    words = "" if kind == "ecdsa" else "a passphrase"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", words, "-f", tmp_path / "key"], check=True)
    with pytest.raises(ValueError, match="another kind" if kind == "ecdsa" else "protected by a passphrase"):
        parse_identities((tmp_path / "key").read_text())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no key"),
        ("# only a comment\n", "holds no key"),
        ("hello", "no key"),
        ("AGE-SECRET-KEY-1QQQQ", "mistyped"),
        ("AGE-PLUGIN-YUBIKEY-1QQQ", "plugin"),
        ("age-encryption.org/v1\n-> scrypt", "itself encrypted"),
        ("-----BEGIN AGE ENCRYPTED FILE-----", "itself encrypted"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----", "not an SSH private key"),
    ],
)
def test_what_is_no_identity_file_is_refused(text: str, words: str) -> None:
    """Each in its own words."""
    with pytest.raises(ValueError, match=words) as caught:
        parse_identities(text)
    assert "QQQQ" not in str(caught.value)


@given(data=st.binary(max_size=64), prefix=st.sampled_from(["age", "age-secret-key-", "x1y"]))
def test_bech32_there_and_back(data: bytes, prefix: str) -> None:
    """Any bytes come back; one changed character never does."""
    text = bech32.encode(prefix, data)
    assert bech32.decode(text) == (prefix, data)
    assert bech32.decode(text.upper()) == (prefix, data)
    at = len(prefix) + 1 + hashlib.sha256(data).digest()[0] % (len(text) - len(prefix) - 1)
    other = "q" if text[at] != "q" else "p"
    with pytest.raises(ValueError, match="checksum"):
        bech32.decode(text[:at] + other + text[at + 1 :])


def test_a_generated_key_is_one_that_the_stock_program_makes_the_same_of(tmp_path: Path) -> None:
    """`age-keygen -y` derives the recipient that we derive."""
    require_tool("age-keygen")
    made = X25519Identity.generate()
    file = tmp_path / "key"
    file.write_text(made.secret_text())
    told = subprocess.run(["age-keygen", "-y", file], stdout=subprocess.PIPE, check=True, env=os.environ).stdout
    assert told.decode().strip() == made.recipient().text
