"""Encrypted backups through the pipeline: what lies there, who can read it, and what is found when it was changed."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from dataguardian.core.backup import BackupResult, run_backup
from dataguardian.core.backupkeys import NO_KEYS, BackupKeys, EncryptionOptions
from dataguardian.core.catalog import list_backups, load_backup
from dataguardian.core.encryption import unlock
from dataguardian.core.repair import run_repair
from dataguardian.core.restore import run_restore
from dataguardian.core.verify import run_verify
from dataguardian.domain import artifact
from dataguardian.domain.errors import (
    DamagedPartError,
    DumpFailedError,
    IntegrityError,
    KeyNeededError,
    ManifestError,
    WrongKeyError,
)
from dataguardian.domain.sealed import SealedRecord, encode_sealed
from dataguardian.storage.local import LocalConfig, LocalStorage
from dataguardian.streams.age.files import decrypt, encrypt
from dataguardian.streams.age.passphrase import PassphraseRecipient
from dataguardian.streams.age.x25519 import X25519Identity
from dataguardian.streams.codecs import CODECS
from tests.core.bytes_engine import BytesEngine, BytesStream, plan, read_nothing, validate

PART = 64 * 1024
IDENTITY = X25519Identity.generate()
RECIPIENT = IDENTITY.recipient().text
TO_RECIPIENT = EncryptionOptions(recipients=(RECIPIENT,))
KEYS = BackupKeys(identities=(SecretStr(IDENTITY.secret_text()),))
WRONG = BackupKeys(identities=(SecretStr(X25519Identity.generate().secret_text()),))
PASSPHRASE = "correct horse battery staple"
SENTINEL = "table_of_secret_affairs"


def noise(size_bytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


def engine() -> BytesEngine:
    return BytesEngine(
        BytesStream("one", noise(3 * PART + 5), metadata={"size_bytes": 3 * PART + 5, "tables": [SENTINEL]}),
        BytesStream("two", b"words " * 20_000, warnings=[f"{SENTINEL} was locked"]),
    )


def encrypted(storage: LocalStorage, given_engine: BytesEngine | None = None, **more: str) -> BackupResult:
    return run_backup(plan(**more), given_engine or engine(), storage, encryption=TO_RECIPIENT)


@pytest.mark.parametrize("codec", sorted(CODECS))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.one_of(st.integers(0, 4 * PART), st.sampled_from([0, PART, 2 * PART])), min_size=1, max_size=3)
)
def test_there_and_back(tmp_path_factory: pytest.TempPathFactory, codec: str, sizes: list[int]) -> None:
    """Whatever the sizes and the compression: listed, verified at both levels, restored as it was."""
    storage = LocalStorage(LocalConfig(path=str(tmp_path_factory.mktemp("storage"))))
    source = BytesEngine(*(BytesStream(f"s{number}", noise(size)) for number, size in enumerate(sizes)))
    result = run_backup(plan(compression=codec), source, storage, encryption=TO_RECIPIENT)
    assert [directory for directory, _ in list_backups(storage).backups] == [result.directory]
    for check in (None, validate):
        outcome = run_verify(storage, result.directory, validate=check, keys=KEYS)
        assert (outcome.ok, outcome.errors, outcome.parts) == (True, [], len(result.parts))
    run_restore(storage, result.directory, source, "bytes", keys=KEYS)
    assert source.restored == [(stream.name, stream.data) for stream in source.streams]


def test_a_passphrase_guards_a_key_of_the_backup_s_own(storage: LocalStorage, root: Path) -> None:
    """The passphrase opens `key.age` and nothing else; two backups of one passphrase have different keys."""
    options = EncryptionOptions(passphrase=SecretStr(PASSPHRASE))
    results = [run_backup(plan(execution_id=f"{n}"), engine(), storage, encryption=options) for n in (1, 2)]
    source = engine()
    keys = BackupKeys(passphrases=(SecretStr("another one"), SecretStr(PASSPHRASE)))
    run_restore(storage, results[0].directory, source, "bytes", keys=keys)
    assert source.restored == [(stream.name, stream.data) for stream in source.streams]
    assert run_verify(storage, results[1].directory, validate=validate, keys=keys).ok is True
    encryptions = [result.manifest.encryption for result in results]
    assert encryptions[0] is not None
    assert encryptions[1] is not None
    assert encryptions[0].recipients != encryptions[1].recipients
    assert encryptions[0].key == "key.age"
    assert (root / results[0].directory / "key.age").read_bytes().count(b"-> scrypt ") == 1
    assert not any(b"scrypt" in path.read_bytes() for path in root.glob("*/*/*/*.age"))
    with pytest.raises(WrongKeyError, match="none of the keys"):
        run_restore(storage, results[0].directory, source, "bytes", keys=BackupKeys(passphrases=(SecretStr("wrong"),)))


def test_nothing_of_the_content_lies_in_clear(storage: LocalStorage, root: Path) -> None:
    """No hash of raw bytes, no metadata, warning or pattern: in no name and in no object; `sha256sum -c` is content."""
    source = engine()
    result = encrypted(storage, source, include=(SENTINEL,), name="job")
    telling = [SENTINEL.encode(), *(hashlib.sha256(stream.data).hexdigest().encode() for stream in source.streams)]
    telling += [str(part.running_sha256).encode() for part in result.parts] + [b"words words"]
    held = {path.relative_to(root / result.directory): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    for path, data in held.items():
        assert not any(secret in data for secret in telling), path
    sums = dict(reversed(line.split("  ")) for line in held[Path("SHA256SUMS")].decode().splitlines())
    assert sums == {
        str(path): hashlib.sha256(data).hexdigest()
        for path, data in held.items()
        if path.name not in ("SHA256SUMS", "manifest.json")
    }
    assert "sealed.json.age" in sums
    assert all(data.startswith(b"age-encryption.org/v1\n") for path, data in held.items() if path.suffix == ".age")
    document = json.loads(held[Path("manifest.json")])
    assert (document["format"], document["encryption"]["recipients"]) == (2, [RECIPIENT])
    assert document["warnings"] == ["1 warning is sealed: sealed.json.age has the words"]


def test_who_took_the_backup_knows_it_all(storage: LocalStorage) -> None:
    """The result has what was sealed, and so has whoever opens it."""
    result = encrypted(storage)
    assert result.manifest.warnings == [f"two: {SENTINEL} was locked"]
    opened = unlock([storage], load_backup(storage, result.directory), KEYS).backup
    assert (opened.manifest, opened.parts) == (result.manifest, result.parts)
    assert opened.manifest.streams[0].metadata["tables"] == [SENTINEL]


def test_a_backup_in_clear_is_what_it_was(storage: LocalStorage, root: Path) -> None:
    """Without encryption not a byte of the format is another one: no new member, no new object."""
    result = run_backup(plan(), engine(), storage)
    folder = root / result.directory
    assert sorted(path.name for path in folder.iterdir()) == [
        "01-one.raw", "02-two.raw", "SHA256SUMS", "manifest.json", "parts.jsonl",
    ]  # fmt: skip
    document = json.loads((folder / "manifest.json").read_bytes())
    assert document["format"] == 1
    assert "encryption" not in document
    line = json.loads((folder / "parts.jsonl").read_text().splitlines()[0])
    members = ["path", "stream", "offset", "size_bytes", "stored_size_bytes", "running_sha256", "stored_sha256"]
    assert list(line) == members


@pytest.mark.parametrize(("keys", "error"), [(NO_KEYS, KeyNeededError), (WRONG, WrongKeyError)], ids=["none", "wrong"])
def test_a_restore_without_the_key_touches_nothing(
    storage: LocalStorage, keys: BackupKeys, error: type[KeyNeededError]
) -> None:
    """It fails before the target is even looked at, and names whose key it takes."""
    result = encrypted(storage)

    class Untouchable(BytesEngine):
        def prepare_restore(self, streams: object, options: object) -> None:
            raise AssertionError("the target was looked at")

    with pytest.raises(error) as caught:
        run_restore(storage, result.directory, Untouchable(), "bytes", keys=keys)
    assert type(caught.value) is error
    assert caught.value.exit_code == 5
    assert RECIPIENT in caught.value.hint


@pytest.mark.parametrize("keys", [NO_KEYS, WRONG], ids=["none", "wrong"])
def test_deep_without_the_key_is_not_checked(storage: LocalStorage, root: Path, keys: BackupKeys) -> None:
    """Never ok: the stored bytes are, and that is said; damage among them is damage all the same."""
    result = encrypted(storage)
    assert run_verify(storage, result.directory).ok is True
    outcome = run_verify(storage, result.directory, validate=read_nothing, keys=keys)
    assert (outcome.ok, outcome.level, outcome.errors, outcome.parts) == (None, "stored", [], len(result.parts))
    assert outcome.not_checked is not None
    flip(root / result.directory / result.parts[1].path)
    outcome = run_verify(storage, result.directory, validate=read_nothing, keys=keys)
    assert outcome.ok is False
    assert len(outcome.errors) == 1


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["key.age", "sealed.json.age", "01-one.raw/000002.zst.age"])
@pytest.mark.parametrize("harm", [flip, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
@pytest.mark.parametrize("deep", [False, True])
def test_damage_is_found(
    storage: LocalStorage, root: Path, name: str, harm: Callable[[Path], None], deep: bool
) -> None:
    """Flipped, missing or cut: each object of an encrypted backup, at both levels, named."""
    options = EncryptionOptions(passphrase=SecretStr(PASSPHRASE))
    result = run_backup(plan(), engine(), storage, encryption=options)
    harm(root / result.directory / name)
    keys = BackupKeys(passphrases=(SecretStr(PASSPHRASE),))
    outcome = run_verify(storage, result.directory, validate=validate if deep else None, keys=keys)
    assert outcome.ok is False
    assert name in " ".join(outcome.errors)
    with pytest.raises(IntegrityError, match=name.replace(".", r"\.")):
        run_restore(storage, result.directory, BytesEngine(), "bytes", keys=keys)


def resealed(root: Path, result: BackupResult, changed: dict[str, bytes]) -> None:
    """What somebody does who may write into the storage and knows the public key: objects and all records anew."""
    folder = root / result.directory
    for name, data in changed.items():
        (folder / name).write_bytes(data)
    lines = [json.loads(line) for line in (folder / "parts.jsonl").read_text().splitlines()]
    document = json.loads((folder / "manifest.json").read_bytes())
    for record in [*lines, *document["encryption"]["objects"]]:
        data = (folder / record["path"]).read_bytes()
        record |= {"stored_size_bytes": len(data), "stored_sha256": hashlib.sha256(data).hexdigest()}
    for stream in document["streams"]:
        mine = [line for line in lines if line["stream"] == stream["directory"]]
        stream["stored_size_bytes"] = sum(line["stored_size_bytes"] for line in mine)
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()
    (folder / "parts.jsonl").write_bytes(text)
    document["compressed_size_bytes"] = sum(stream["stored_size_bytes"] for stream in document["streams"])
    document["parts_sha256"] = hashlib.sha256(text).hexdigest()
    manifest = artifact.Manifest.model_validate_json(json.dumps(document))
    parts = [artifact.PartRecord.model_validate(line) for line in lines]
    sums = artifact.expected_sums(manifest, parts)
    (folder / "SHA256SUMS").write_bytes(sums)
    manifest = manifest.model_copy(update={"checksum": hashlib.sha256(sums).hexdigest()})
    (folder / "manifest.json").write_bytes(artifact.encode_manifest(manifest))


def test_a_part_that_was_exchanged_with_all_hashes_is_found(storage: LocalStorage, root: Path) -> None:
    """The sealed hashes hold the parts together: one of another backup, or sealed anew, does not fit."""
    result = encrypted(storage)
    name = "01-one.raw/000001.zst.age"
    forged = encrypt(CODECS["zstd"]().compress(noise(PART, 9)), [IDENTITY.recipient()])
    resealed(root, result, {name: bytes(forged)})
    assert run_verify(storage, result.directory).ok is True  # age gives no authenticity; docs/encryption.md says so
    outcome = run_verify(storage, result.directory, validate=read_nothing, keys=KEYS)
    assert "01-one.raw: 01-one.raw/000001.zst.age does not decompress to the bytes that were read" in outcome.errors
    target = BytesEngine()
    with pytest.raises(DamagedPartError):
        run_restore(storage, result.directory, target, "bytes", keys=KEYS)
    assert target.restored == []


def test_a_part_for_another_key_is_damage(storage: LocalStorage, root: Path) -> None:
    """Not 'a wrong key': the rest of the backup was opened with the right one."""
    result = encrypted(storage)
    other = bytes(encrypt(b"x", [X25519Identity.generate().recipient()]))
    resealed(root, result, {"01-one.raw/000001.zst.age": other})
    outcome = run_verify(storage, result.directory, validate=validate, keys=KEYS)
    assert "sealed for other keys" in outcome.errors[0]


def test_a_bomb_does_not_go_off(storage: LocalStorage, root: Path) -> None:
    """A part that expands to a gigabyte is refused by the size that its record announces."""
    result = encrypted(storage)
    bomb = bytes(encrypt(CODECS["gzip"]().compress(bytes(256 * 1024 * 1024)), [IDENTITY.recipient()]))
    resealed(root, result, {"01-one.raw/000001.zst.age": bomb})
    outcome = run_verify(storage, result.directory, validate=validate, keys=KEYS)
    assert outcome.ok is False


def test_an_early_sealed_record_is_read(storage: LocalStorage, root: Path) -> None:
    """Before the first release it held a hash of each part's own raw bytes; it still opens, and still proves them."""
    source = engine()
    result = encrypted(storage, source)
    document = json.loads(encode_sealed(result.manifest, result.parts))
    for stream, content in zip(document["streams"], source.streams, strict=True):
        del stream["running"]
        own = [content.data[at : at + PART] for at in range(0, len(content.data), PART)]
        stream["parts"] = [hashlib.sha256(raw).hexdigest() for raw in own]
    text = json.dumps(document).encode()
    resealed(root, result, {"sealed.json.age": bytes(encrypt(text, [IDENTITY.recipient()]))})
    assert run_verify(storage, result.directory, validate=validate, keys=KEYS).ok is True
    run_restore(storage, result.directory, source, "bytes", keys=KEYS)
    assert source.restored == [(stream.name, stream.data) for stream in source.streams]
    text = text.replace(document["streams"][0]["parts"][1].encode(), b"ab" * 32)
    resealed(root, result, {"sealed.json.age": bytes(encrypt(text, [IDENTITY.recipient()]))})
    with pytest.raises(DamagedPartError, match="does not decompress to the bytes"):
        run_restore(storage, result.directory, BytesEngine(), "bytes", keys=KEYS)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.streams.pop(),
        lambda record: record.streams.append(record.streams[0]),
        lambda record: record.streams[0].running.pop(),
        lambda record: record.streams[0].running.append("0" * 64),
    ],
    ids=["a stream less", "a stream twice", "a part less", "a part more"],
)
def test_a_sealed_record_that_does_not_fit_is_refused(
    storage: LocalStorage, root: Path, change: Callable[[SealedRecord], object]
) -> None:
    """Forged with the public key: it must speak of exactly these streams and parts."""
    result = encrypted(storage)
    record = SealedRecord.model_validate_json(encode_sealed(result.manifest, result.parts))
    change(record)
    resealed(
        root, result, {"sealed.json.age": bytes(encrypt(record.model_dump_json().encode(), [IDENTITY.recipient()]))}
    )
    with pytest.raises(ManifestError, match="does not belong"):
        run_restore(storage, result.directory, BytesEngine(), "bytes", keys=KEYS)


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 1000, b'{"streams": 1}', b"\xff"], ids=repr)
def test_a_sealed_record_that_is_none_is_refused(storage: LocalStorage, root: Path, content: bytes) -> None:
    """Whatever is inside: an error of the tree."""
    result = encrypted(storage)
    resealed(root, result, {"sealed.json.age": bytes(encrypt(content, [IDENTITY.recipient()]))})
    outcome = run_verify(storage, result.directory, validate=validate, keys=KEYS)
    assert "sealed.json.age is not valid" in outcome.errors


@pytest.mark.parametrize("inside", [b"", b"no key", b"AGE-SECRET-KEY-1QQ", b"\xff\xfe"], ids=repr)
def test_a_key_that_is_none_is_refused(storage: LocalStorage, root: Path, inside: bytes) -> None:
    """`key.age` that was forged with the passphrase, or is no age file at all."""
    options = EncryptionOptions(passphrase=SecretStr(PASSPHRASE))
    result = run_backup(plan(), engine(), storage, encryption=options)
    keys = BackupKeys(passphrases=(SecretStr(PASSPHRASE),))
    for forged in (inside, bytes(encrypt(inside, [PassphraseRecipient(PASSPHRASE)]))):
        resealed(root, result, {"key.age": forged})
        with pytest.raises(ManifestError, match=r"key\.age is no key"):
            run_restore(storage, result.directory, BytesEngine(), "bytes", keys=keys)


def test_what_does_not_belong_is_told(storage: LocalStorage, root: Path) -> None:
    """A `key.age` that nobody stored is a stranger."""
    result = encrypted(storage)
    (root / result.directory / "key.age").write_bytes(b"x")
    assert run_verify(storage, result.directory).errors == ["key.age does not belong to this backup"]


def test_a_repair_copies_what_is_sealed(storage: LocalStorage, root: Path, tmp_path: Path) -> None:
    """Byte for byte, without any key; and what one copy lost comes from the other one, the sealed record too."""
    (tmp_path / "other").mkdir()
    other = LocalStorage(LocalConfig(path=str(tmp_path / "other")))
    options = EncryptionOptions(passphrase=SecretStr(PASSPHRASE))
    source = engine()
    result = run_backup(plan(), source, storage, encryption=options)
    run_repair([storage], other, result.directory)
    first, second = (
        {path.relative_to(base): path.read_bytes() for path in base.rglob("*") if path.is_file()}
        for base in (root, tmp_path / "other")
    )
    assert first == second
    for name in ("sealed.json.age", "01-one.raw/000001.zst.age"):
        flip(root / result.directory / name)
    flip(tmp_path / "other" / result.directory / "key.age")
    keys = BackupKeys(passphrases=(SecretStr(PASSPHRASE),))
    run_restore(storage, result.directory, source, "bytes", others=[other], keys=keys)
    assert source.restored == [(stream.name, stream.data) for stream in source.streams]
    run_repair([storage], other, result.directory)
    assert (tmp_path / "other" / result.directory / "key.age").read_bytes() == first[Path(result.directory) / "key.age"]


@pytest.mark.parametrize("fail_at", [0, 2 * PART])
def test_a_dump_that_fails_leaves_nothing(storage: LocalStorage, root: Path, fail_at: int) -> None:
    """As in clear."""
    stream = BytesStream("x", noise(5 * PART), fail_at=fail_at, error=DumpFailedError("it broke"))
    with pytest.raises(DumpFailedError):
        encrypted(storage, BytesEngine(BytesStream("y", b"z"), stream))
    assert [path for path in root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"recipients": []},
        {"recipients": [RECIPIENT], "passphrase": PASSPHRASE},
        {"recipients": ["nobody"]},
        {"passphrase": "short"},
        {"passphrase": "two\nlines of it"},
        {"recipients": [IDENTITY.secret_text()]},
        {"recipient": [RECIPIENT]},
    ],
    ids=["nothing", "nobody", "two ways", "no key", "short", "two lines", "a private key", "misspelt"],
)
def test_options_that_are_not_valid(document: dict[str, object]) -> None:
    """Refused when they are given, not when the backup runs."""
    with pytest.raises(ValidationError):
        EncryptionOptions.model_validate(document)


def test_secrets_are_masked(storage: LocalStorage) -> None:
    """Neither a passphrase nor an identity shows in a repr or in JSON."""
    options, keys = EncryptionOptions(passphrase=SecretStr(PASSPHRASE)), KEYS
    for shown in (repr(options), options.model_dump_json(), repr(keys), keys.model_dump_json()):
        assert PASSPHRASE not in shown
        assert "AGE-SECRET-KEY" not in shown
    sealed = encrypt(b"x", [IDENTITY.recipient()])
    assert decrypt(sealed, [IDENTITY]) == b"x"
