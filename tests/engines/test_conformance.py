"""Every registered engine against its contract, each with a real server or real files behind it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataguardian.domain.errors import (
    AuthenticationError,
    DamagedPartError,
    DataGuardianError,
    IntegrityError,
    NotFoundError,
    TargetNotEmptyError,
    UnreachableError,
    UsageError,
)
from dataguardian.domain.urls import parse_url
from dataguardian.engines.base import DumpOptions, RestoreOptions, refuse_streams
from dataguardian.engines.registry import ENGINES, engine_config, engine_document
from dataguardian.service.secrets import masked, revealed
from tests.cli.program import Program, running
from tests.engines.conformance import (
    CHUNK_BYTES,
    EngineFixture,
    closed_port,
    counted,
    dump,
    engine_at,
    fixtures,
    living_children,
    moved,
    restore,
    silent_port,
    validate,
    watched_command_lines,
)
from tests.ssh.sshd import SshServer, ssh_server

FIXTURES = {name: fixture for name, fixture in sorted(fixtures().items()) if name in ENGINES.adapters}
SERVERS = [name for name, fixture in FIXTURES.items() if fixture.is_server]
CONSISTENT = [name for name, fixture in FIXTURES.items() if fixture.is_consistent]
PROBE_SECONDS = 12.0

REPEATED = frozenset(
    {
        "test_round_trip",
        "test_addresses_and_documents_say_the_same",
        "test_a_source_that_is_not_there",
        "test_a_healthy_source",
        "test_tools_and_server_are_named",
        "test_refused_credentials",
        "test_nobody_there",
        "test_the_command_line",
    }
)
"""What the second type of one engine is held to: its name, its addresses and its way through the program."""

Story = Callable[..., None]


def _held_to(names: list[str]) -> Callable[[Story], Story]:
    """A story that every one of these engines is told, but those that repeat another one only when it is REPEATED."""

    def mark(story: Story) -> Story:
        chosen = [name for name in names if FIXTURES[name].repeats is None or story.__name__ in REPEATED]
        return pytest.mark.parametrize("peer", chosen, indirect=True)(story)

    return mark


all_engines = _held_to(list(FIXTURES))
server_engines = _held_to(SERVERS)
consistent_engines = _held_to(CONSISTENT)


@pytest.fixture(scope="session")
def peer(request: pytest.FixtureRequest) -> Iterator[EngineFixture]:
    made = FIXTURES[request.param]()
    yield made
    made.close()


@pytest.fixture(scope="session")
def _sshd() -> Iterator[SshServer]:
    with ssh_server() as server:
        yield server


@pytest.fixture
def sshd(_sshd: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SshServer:
    monkeypatch.setenv("DATAGUARDIAN_HOME", str(tmp_path))
    return _sshd


def through(peer: EngineFixture, sshd: SshServer, address: str) -> str:
    return peer.by_ssh(address, f"ssh://{sshd.user}@127.0.0.1:{sshd.port}", str(sshd.key))


def _listening_ports() -> set[str]:
    """Returns the ports of 127.0.0.1 that this process listens on."""
    inodes = {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
    lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return {line[1] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in inodes}


def secret_of(address: str) -> str:
    password = parse_url(address).password
    assert password is not None, "a server's sources have passwords"
    return password.get_secret_value()


def test_every_registered_engine_has_a_fixture() -> None:
    """A new file in `engines/` needs a fixture for this suite, and a fixture needs its engine."""
    assert sorted(fixtures()) == sorted(ENGINES.adapters)


def test_a_repeated_engine_is_the_same_code() -> None:
    """Only a type whose engine and server another fixture has gone through in full may be spared stories."""
    repeating = {name: fixture for name, fixture in FIXTURES.items() if fixture.repeats is not None}
    assert set(repeating) == {"mysql"}
    assert globals().keys() >= REPEATED
    for name, fixture in repeating.items():
        whole = FIXTURES[str(fixture.repeats)]
        assert whole.repeats is None
        assert issubclass(fixture, whole)
        assert ENGINES.by_type(name).build is ENGINES.by_type(whole.type).build


@all_engines
def test_round_trip(peer: EngineFixture) -> None:
    """One of everything comes back the same, by the engine's own count and by an independent comparison."""
    source, target = peer.sample(), peer.target()
    streams = dump(source)
    for stream in streams:
        validate(peer.type, stream)
    warnings = restore(target, streams)
    assert peer.content(target) == peer.content(source)
    assert counted(target) == counted(source) != {}
    assert warnings == []


@all_engines
def test_what_a_dump_leaves_behind(peer: EngineFixture) -> None:
    """A dump changes nothing in its source and leaves nothing beside it."""
    source = peer.sample()
    before, names = peer.content(source), peer.names()
    dump(source)
    assert peer.content(source) == before
    assert peer.names() == names


@all_engines
def test_an_empty_source(peer: EngineFixture) -> None:
    """Nothing at all is something that can be backed up, checked and restored."""
    source, target = peer.empty(), peer.target()
    streams = dump(source)
    for stream in streams:
        validate(peer.type, stream)
    restore(target, streams)
    assert peer.content(target) == peer.content(source)


@all_engines
def test_replacing_needs_leave(peer: EngineFixture) -> None:
    """A target that holds something is left alone, unless the user says so: then it is what was backed up."""
    # What is `large` may be kept for other stories.
    source, target = peer.sample(), peer.ledger() if peer.is_consistent or peer.is_server else peer.large()
    streams, before = dump(source), peer.content(target)
    with pytest.raises(TargetNotEmptyError) as caught:
        restore(target, streams)
    assert caught.value.hint
    assert peer.content(target) == before
    restore(target, streams, drop_existing=True)
    assert peer.content(target) == peer.content(source)


@all_engines
def test_odd_names(peer: EngineFixture) -> None:
    """No name and no password becomes an option, a statement, a pattern or a path."""
    addresses = peer.odd()
    assert addresses
    for address in addresses:
        assert engine_at(address).check().status == "ok", address
        before = peer.content(address)
        streams = dump(address)
        for stream in streams:
            validate(peer.type, stream)
        restore(address, streams, drop_existing=True)
        assert peer.content(address) == before


@all_engines
def test_addresses_and_documents_say_the_same(peer: EngineFixture) -> None:
    """A configuration survives its JSON form, its description leads back to it, and neither shows a password."""
    for address in [peer.sample(), *peer.odd()]:
        config = engine_config(parse_url(address))
        assert engine_document(revealed(config)) == config
        again = engine_config(parse_url(config.describe()))
        assert again.describe() == config.describe()
        assert revealed(again) == {key: value for key, value in revealed(config).items() if key != "password"}
        assert config.default_name().encode()
        password = parse_url(address).password
        if password is not None:
            assert password.get_secret_value() not in config.describe() + json.dumps(masked(config)) + repr(config)


@all_engines
def test_one_source_has_no_databases_to_name(peer: EngineFixture) -> None:
    """One database, or a folder, is backed up whole; only a server has databases that can be named."""
    address = peer.empty()
    with pytest.raises(UsageError, match="backed up whole"):
        refuse_streams(engine_at(address), ["shop"], address)
    refuse_streams(engine_at(address), [], address)
    assert not peer.is_server or engine_at(peer.whole(address)).has_databases


@server_engines
def test_named_databases_of_a_server(peer: EngineFixture) -> None:
    """Those that are named, by names as they are, and no other; one that is not there ends it before the first byte."""
    names = tuple(parse_url(address).path[1:] for address in peer.odd()[:2])
    server = peer.whole(peer.empty())
    dumped = dump(server, DumpOptions(streams=names))
    assert {stream.name for stream in dumped} - {"globals"} == set(names)
    for wrong in ("no-such-database", names[0] + "x", "*", names[0][:-1] + "?"):
        with pytest.raises(NotFoundError, match="has no database") as caught:
            dump(server, DumpOptions(streams=(names[0], wrong)))
        assert repr(wrong) in caught.value.message
        # A server with many databases, those of other tests among them, is not told in full.
        assert repr(names[0]) in caught.value.message or "…" in caught.value.message


@all_engines
def test_damage_on_the_way_back(peer: EngineFixture) -> None:
    """A part that turns out damaged, the first, one in the middle or the last, leaves the target as it was."""
    streams, target = dump(peer.large()), peer.sample()
    before, names, children = peer.content(target), peer.names(), living_children()
    last = max(streams, key=lambda stream: stream.size_bytes)
    for place in (0, 1, (last.size_bytes - 1) // CHUNK_BYTES):
        last.damaged_after = place
        with pytest.raises(DamagedPartError):
            restore(target, streams, drop_existing=True)
        assert peer.content(target) == before
        assert peer.names() == names
    assert living_children() == children


@all_engines
def test_a_stop_before_the_swap(peer: EngineFixture) -> None:
    """Somebody who says no at the last moment finds the target as it was, and nothing beside it."""
    streams, target = dump(peer.sample()), peer.target()
    names = peer.names()

    def stop() -> None:
        raise DamagedPartError("stopped by the test")

    options = RestoreOptions(before_swap=stop)
    with pytest.raises(DamagedPartError, match="stopped by the test"):
        engine_at(target).restore(iter(streams), options)
    assert peer.names() == names
    restore(target, streams)


@all_engines
def test_leaving_early(peer: EngineFixture) -> None:
    """A dump that is left in its middle takes its children with it, and leaves nothing."""
    source = peer.large()
    before, names = living_children(), peer.names()
    dumping = engine_at(source).dump(DumpOptions())
    with next(dumping) as stream:
        assert stream.readinto(memoryview(bytearray(4096))) > 0
    del dumping
    assert living_children() == before
    assert peer.names() == names


@all_engines
def test_half_a_stream_is_found_out(peer: EngineFixture) -> None:
    """A dump that ends early, at any place, is not taken for a whole one, neither by a check nor by a restore."""
    streams = dump(peer.sample())
    stream = max(streams, key=lambda stream: stream.size_bytes)
    whole = stream.data
    for cut in (0, 1, len(whole) // 2, len(whole) * 9 // 10):
        stream.data = whole[:cut]
        if stream.data.ljust(len(whole), b"\0") == whole:
            continue
        with pytest.raises(IntegrityError):
            validate(peer.type, stream)
    stream.data = whole[: len(whole) // 2]
    target, names = peer.target(), peer.names()
    with pytest.raises(DataGuardianError):
        restore(target, streams)
    assert peer.names() == names


@all_engines
def test_a_source_that_is_not_there(peer: EngineFixture) -> None:
    """A wrong name is said to be one: to the backup as "not found", to the probe as an error."""
    with pytest.raises(NotFoundError) as caught:
        dump(peer.missing())
    assert caught.value.hint
    assert caught.value.exit_code == 5
    probe = engine_at(peer.missing()).check()
    assert probe.message
    # A path that is not there may also be a disk that is not mounted.
    assert probe.status in (("error",) if peer.is_server else ("error", "unreachable"))


@all_engines
def test_a_healthy_source(peer: EngineFixture) -> None:
    """A probe says that all is well; a server's tells its version, its size and who is connected."""
    probe = engine_at(peer.sample()).check()
    assert probe.status == "ok", probe
    assert probe.message == ""
    if peer.is_server:
        assert probe.metadata["version"][0].isdigit()
        assert probe.metadata["size_bytes"] > 0
        assert probe.metadata["connections"] >= 0


@all_engines
def test_tools_and_server_are_named(peer: EngineFixture) -> None:
    """What made a dump is known for the manifest: the server's release and each program's."""
    engine = engine_at(peer.sample())
    for context in engine.dump(DumpOptions()):
        with context as stream:
            while stream.readinto(memoryview(bytearray(1 << 20))):
                pass
            stream.finish()
            assert stream.restore_by_hand
            assert json.dumps(stream.metadata)
            assert stream.kind.isalnum()
    assert engine.tools
    assert all(tool.name and tool.version for tool in engine.tools)
    assert bool(engine.server_version) == peer.is_server


@consistent_engines
def test_a_dump_while_others_write(peer: EngineFixture) -> None:
    """Every transaction that comes during a dump is in it wholly or not at all."""
    source, target = peer.ledger(), peer.target()
    stop, done, failed = threading.Event(), [], []

    def write() -> None:
        try:
            with peer.transfer(source) as transfer:
                while not stop.is_set():
                    transfer()
                    done.append(time.monotonic())
        except Exception as error:  # noqa: BLE001 -- told to the test
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while len(done) < 3 and not failed:
            time.sleep(0.01)
        began = time.monotonic()
        streams = dump(source)
        ended = time.monotonic()
    finally:
        stop.set()
        writer.join()
    assert not failed
    assert any(began < moment < ended for moment in done), "nobody wrote while the dump ran: the test proved nothing"
    restore(target, streams)
    assert peer.is_balanced(target)
    assert peer.is_balanced(source)


@server_engines
def test_refused_credentials(peer: EngineFixture) -> None:
    """A wrong password, none, or an unknown user is told as that, and the password is not in the text."""
    for address in peer.wrong_passwords():
        with pytest.raises(AuthenticationError) as caught:
            dump(address)
        probe = engine_at(address).check()
        assert probe.status == "auth_failed", probe
        password = parse_url(address).password
        if password is not None and len(password.get_secret_value()) > 5:
            assert password.get_secret_value() not in f"{caught.value} {caught.value.hint} {probe}"


@server_engines
def test_nobody_there(peer: EngineFixture) -> None:
    """A port that nobody listens on, and a name that nobody has, are unreachable."""
    address = peer.sample()
    for nowhere in (moved(address, closed_port()), address.replace("127.0.0.1", "no-such-host.invalid")):
        with pytest.raises(UnreachableError) as caught:
            dump(nowhere)
        assert caught.value.hint
        assert engine_at(nowhere).check().status == "unreachable"


@server_engines
def test_a_server_that_says_nothing(peer: EngineFixture) -> None:
    """A probe of a server that takes the connection and is silent ends in time, as a timeout."""
    with silent_port() as port:
        began = time.monotonic()
        probe = engine_at(moved(peer.sample(), port)).check()
    assert time.monotonic() - began < PROBE_SECONDS
    assert probe.status == "timeout", probe


@server_engines
def test_a_server_that_is_killed_during_a_dump(peer: EngineFixture) -> None:
    """The dump fails, at once; when the server is back, the next one is whole."""
    source = peer.large()
    before, killed = peer.content(source), []

    def kill() -> None:
        if not killed:
            peer.kill()
            killed.append(True)

    try:
        with pytest.raises(DataGuardianError) as caught:
            dump(source, on_chunk=kill)
        assert caught.value.exit_code in (1, 5)
    finally:
        if killed:
            peer.restart()
    assert killed, "the server was not killed: the test proved nothing"
    restore(target := peer.target(), dump(source))
    assert peer.content(target) == before


@server_engines
def test_a_server_that_is_killed_during_a_restore(peer: EngineFixture) -> None:
    """The restore fails, and the target holds what it held before; the next restore succeeds."""
    streams, target = dump(peer.large()), peer.ledger()
    before, killed = peer.content(target), []
    largest = max(streams, key=lambda stream: stream.size_bytes)

    def kill(number: int) -> None:
        if number == largest.size_bytes // CHUNK_BYTES // 2 and not killed:
            peer.kill()
            killed.append(True)

    largest.on_chunk = kill
    try:
        with pytest.raises(DataGuardianError) as caught:
            restore(target, streams, drop_existing=True)
        assert caught.value.exit_code in (1, 5)
    finally:
        if killed:
            peer.restart()
    assert killed, "the server was not killed: the test proved nothing"
    if peer.replaces_at_end:
        assert peer.content(target) == before
    restore(target, streams, drop_existing=True)


@server_engines
def test_through_an_ssh_tunnel(peer: EngineFixture, sshd: SshServer) -> None:
    """Probe, dump, count and restore go through a tunnel; when all is done, nothing listens any more."""
    source, target = peer.sample(), peer.target()
    near_source, near_target = (through(peer, sshd, address) for address in (source, target))
    assert engine_at(near_source).check().status == "ok"
    listening = _listening_ports()
    streams = dump(near_source)
    restore(near_target, streams)
    assert peer.content(target) == peer.content(source)
    assert counted(near_target) == counted(source)
    assert _listening_ports() == listening


@server_engines
def test_an_ssh_tunnel_that_does_not_come_about(peer: EngineFixture, sshd: SshServer) -> None:
    """A key that is refused, a server that is not there and a port that nobody serves behind it are told apart."""
    address = peer.sample()
    refused = peer.by_ssh(address, f"ssh://{sshd.user}@127.0.0.1:{sshd.port}", str(sshd.wrong_key))
    nobody = peer.by_ssh(address, f"ssh://{sshd.user}@127.0.0.1:{closed_port()}", str(sshd.key))
    behind = through(peer, sshd, moved(address, closed_port()))
    for broken, error, status in (
        (refused, AuthenticationError, "auth_failed"),
        (nobody, UnreachableError, "unreachable"),
        (behind, UnreachableError, "unreachable"),
    ):
        with pytest.raises(error) as caught:
            dump(broken)
        assert caught.value.hint
        probe = engine_at(broken).check()
        assert probe.status == status, probe
        if broken is behind:
            assert "through the SSH tunnel" in caught.value.message
            assert "through the SSH tunnel" in probe.message


@server_engines
def test_an_ssh_tunnel_that_breaks(peer: EngineFixture, sshd: SshServer) -> None:
    """A tunnel that dies in the middle of a dump fails it, whatever was read, and is said to be the reason."""
    broken = []

    def break_it() -> None:
        if not broken:
            sshd.stop()
            broken.append(True)

    try:
        with pytest.raises(UnreachableError, match=r"SSH tunnel .* broke: "):
            dump(through(peer, sshd, peer.large()), on_chunk=break_it)
    finally:
        if broken:
            sshd.start()
    assert broken, "the tunnel did not break: the test proved nothing"


@server_engines
def test_a_user_who_may_only_read(peer: EngineFixture) -> None:
    """The privileges that the documentation asks for suffice: `check` is content, and the dump is the same."""
    source, target = peer.sample(), peer.target()
    reader = peer.reader(source)
    assert engine_at(reader).check().status == "ok"
    restore(target, dump(reader))
    assert peer.content(target) == peer.content(source)


@server_engines
def test_a_privilege_that_is_missing_is_named(peer: EngineFixture) -> None:
    """Somebody who may sign in but not dump is told by `check` which privilege is missing."""
    cases = peer.unprivileged()
    assert cases
    for address, word in cases:
        probe = engine_at(address).check()
        assert probe.status == "error", probe
        assert word in probe.message
        with pytest.raises(DataGuardianError):
            dump(address)


@all_engines
def test_the_command_line(peer: EngineFixture, tmp_path: Path) -> None:
    """Backup, list, deep verification and restore by the program; no password in a command line, output or backup."""
    program = Program(tmp_path)
    source, target = peer.sample(), peer.target()
    secrets = {secret_of(address) for address in (source, target)} if peer.is_server else set()
    marks = []

    def run(*arguments: str) -> str:
        outcome = program.run(*arguments)
        marks.append(outcome.mark)
        assert outcome.code == 0, outcome
        return outcome.out + outcome.err

    with watched_command_lines() as seen:
        said = run("backup", _without_password(source), program.storage, *_password(tmp_path, source))
        listed = run("list", program.storage, "--json")
        (backup,) = json.loads(listed)["backups"]
        said += listed
        said += run("verify", "--deep", backup["backup"])
        said += run("restore", backup["backup"], _without_password(target), *_password(tmp_path, target))
    assert peer.content(target) == peer.content(source)
    manifests = b"".join(path.read_bytes() for path in (tmp_path / "storage").rglob("*.json*"))
    for secret in secrets:
        assert not any(secret.encode() in line for line in seen)
        assert secret not in said
        assert secret.encode() not in manifests
    assert not any(running(mark) for mark in marks)


@pytest.mark.parametrize("peer", ["postgres", "sqlite", "files", "mongodb"], indirect=True)
def test_an_encrypted_backup(peer: EngineFixture, tmp_path: Path) -> None:
    """What an engine gives comes back through age as it does in clear: deep verification and restore with the key."""
    program = Program(tmp_path)
    source, target, key = peer.sample(), peer.target(), tmp_path / "key"
    made = program.run("key", "generate", str(key), "--json").json
    password = _password(tmp_path, source)
    backup = program.backup(
        _without_password(source), "--recipient", made["recipient"], "--part-size", "64KiB", *password
    )["backup"]
    into = (backup, _without_password(target), *_password(tmp_path, target))
    before = peer.content(target)
    assert program.run("restore", *into).code == 5
    assert peer.content(target) == before
    for verb in (("verify", "--deep", backup), ("restore", *into)):
        outcome = program.run(*verb, "--identity-file", str(key))
        assert outcome.code == 0, outcome
    assert peer.content(target) == peer.content(source)


def _without_password(address: str) -> str:
    url = parse_url(address)
    if url.password is None:
        return address
    head, _, rest = address.partition("@")
    return f"{head.rpartition(':')[0]}@{rest}"


def _password(folder: Path, address: str) -> list[str]:
    password = parse_url(address).password
    if password is None:
        return []
    file = folder / "password"
    file.write_text(password.get_secret_value(), encoding="utf-8")
    file.chmod(0o600)
    return ["--password-file", str(file)]
