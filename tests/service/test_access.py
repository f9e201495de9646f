"""What stands behind signing in: codes, passwords, back-off, tokens without a service, what is remembered."""

from __future__ import annotations

import asyncio
import stat
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import event, text

from dataguardian.db.migrate import upgrade
from dataguardian.db.session import Database
from dataguardian.domain.access import GRANTED, Actor, Permission, Role
from dataguardian.domain.errors import TooManyAttemptsError, UnauthenticatedError, UsageError
from dataguardian.service.access import passwords as passwords_module
from dataguardian.service.access.known import KEPT_SECONDS
from dataguardian.service.access.names import checked_name
from dataguardian.service.access.passwords import MOST_WAITING, NOBODYS, Passwords, checked_password
from dataguardian.service.access.texts import TOKEN_PREFIX, hash_of, is_secret, new_secret
from dataguardian.service.access.throttle import LONGEST_SECONDS, MOST_ENTRIES, Throttle, is_here, network_of
from dataguardian.service.access.tokens import LOCAL_TOKEN, Tokens
from dataguardian.service.access.totp import (
    STEP_SECONDS,
    code_of,
    matching_step,
    new_recovery_codes,
    new_totp_secret,
    plain_code,
    step_at,
)
from dataguardian.service.services import assemble
from tests.service.stage import START, SettableClock, Stage, stage

PASSWORD = SecretStr("correct horse battery")


def run(folder: Path, story: Callable[[Database, SettableClock], Awaitable[None]]) -> None:
    """Plays a story on a catalogue of its own, without a service."""

    async def played() -> None:
        url = f"sqlite:///{folder / 'catalogue.db'}"
        upgrade(url)
        db = Database(url)
        try:
            await story(db, SettableClock())
        finally:
            await db.close()

    asyncio.run(played())


@pytest.mark.parametrize(
    ("moment", "code"),
    [(59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"), (20000000000, "353130")],
)
def test_codes_are_those_of_the_standard(moment: int, code: str) -> None:
    """RFC 6238, appendix B, the last six of its eight digits."""
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    assert code_of(secret, moment // STEP_SECONDS) == code


def test_a_code_is_good_around_its_time_and_once() -> None:
    """Clocks may differ by half a minute; a step that is spent spends those before it."""
    secret, now = new_totp_secret(), step_at(START)
    for step, last, good in (
        (now, None, True),
        (now - 1, None, True),
        (now + 1, None, True),
        (now - 2, None, False),
        (now + 2, None, False),
        (now, now, False),
        (now - 1, now, False),
        (now + 1, now, True),
    ):
        assert (matching_step(secret, code_of(secret, step), START, last) == step) is good
    for wrong in ("", "12345", "1234567", "abcdef", "١٢٣٤٥٦", "\ud800"):
        assert matching_step(secret, wrong, START, None) is None
    codes = new_recovery_codes()
    assert len({plain_code(f" {code.upper()} ".replace("-", " ")) for code in codes}) == 10


def test_passwords_are_argon2id_and_a_stranger_takes_as_long(tmp_path: Path) -> None:
    """The hash says how it was made; the hash of nobody has the same parameters and never opens."""

    async def story() -> None:
        passwords = Passwords()
        stored = await passwords.hashed(PASSWORD)
        assert stored.rpartition("$")[0].rpartition("$")[0] == NOBODYS.rpartition("$")[0].rpartition("$")[0]
        assert stored.startswith("$argon2id$")
        assert await passwords.matches(stored, PASSWORD)
        assert not await passwords.matches(stored, SecretStr("wrong horse battery"))
        for anything in ("", "A" * 32, PASSWORD.get_secret_value()):
            assert not await passwords.matches(None, SecretStr(anything))
        composed, decomposed = SecretStr("caf\u00e9 corretto ristretto"), SecretStr("cafe\u0301 corretto ristretto")
        assert await passwords.matches(await passwords.hashed(composed), decomposed)

    asyncio.run(story())


def test_a_flood_of_sign_ins_takes_two_threads_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes when too many wait is sent away at once; callers that leave do not make room before their time."""
    running, most = 0, 0

    def slow(stored: str, password: SecretStr) -> bool:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.02)
        running -= 1
        return False

    monkeypatch.setattr(passwords_module, "_verify", slow)

    async def story() -> None:
        passwords = Passwords()
        flood = [asyncio.create_task(passwords.matches(None, PASSWORD)) for _ in range(200)]
        await asyncio.sleep(0)
        for task in flood[:MOST_WAITING]:
            task.cancel()
        with pytest.raises(TooManyAttemptsError):
            await passwords.matches(None, PASSWORD)
        done = await asyncio.gather(*flood, return_exceptions=True)
        assert sum(isinstance(answer, TooManyAttemptsError) for answer in done) == 200 - MOST_WAITING
        while passwords._waiting:
            await asyncio.sleep(0.01)
        assert await passwords.matches(None, PASSWORD) is False

    asyncio.run(story())
    assert most == 2


@pytest.mark.parametrize("password", ["short", "a" * 12, "ababababababab", "a" * 257, "anna-maria-12", ""])
def test_passwords_that_are_guessed_first_are_refused(password: str) -> None:
    """Too short, too long, hardly any characters, or the name with a little more."""
    with pytest.raises(UsageError, match="password"):
        checked_password(SecretStr(password), "anna-maria")


@pytest.mark.parametrize("name", ["", " ", "-x", "a b", "a/b", "a\nb", "é", "a" * 101, "../x", "a,b", "a'b"])
def test_names_that_could_be_something_else_are_refused(name: str) -> None:
    """In logs, files and commands a name is a name."""
    with pytest.raises(UsageError, match="name"):
        checked_name(name)
    assert checked_name("  Anna@Example.org ") == "anna@example.org"


def test_waiting_doubles_up_to_a_quarter_of_an_hour_and_is_forgotten() -> None:
    """Trying while one must wait makes nothing longer: nobody is kept out for ever by somebody who keeps trying."""
    clock = SettableClock()
    throttle, pauses = Throttle(clock, free=3), []
    for _ in range(14):
        throttle.check("anna")
        throttle.count("anna")
        pauses.append(throttle.state("anna")[1])
        for _ in range(5):
            if pauses[-1]:
                with pytest.raises(TooManyAttemptsError) as refused:
                    throttle.check("anna")
                assert refused.value.retry_after == pauses[-1]
        clock.advance(seconds=pauses[-1])
    assert pauses == [0, 0, 2, 4, 8, 16, 32, 64, 128, 256, 512, LONGEST_SECONDS, LONGEST_SECONDS, LONGEST_SECONDS]
    clock.advance(hours=2)
    throttle.count("anna")
    assert throttle.state("anna") == (1, 0)
    throttle.take_back("anna")
    assert throttle.state("anna")[0] == 0


def test_a_million_addresses_take_little_memory() -> None:
    """Counters are bounded, and of IPv6 a household's network counts as one address."""
    throttle = Throttle(SettableClock(), free=3)
    for number in range(3 * MOST_ENTRIES):
        throttle.count(f"name {number}")
    assert len(throttle._counters) == MOST_ENTRIES
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:192.0.2.1") == "192.0.2.1" == network_of("192.0.2.1")
    assert network_of(None) == network_of("testclient") == "unknown"
    assert [is_here(text) for text in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "192.0.2.1", "::2", "", None)] == [
        *[True] * 3,
        *[False] * 4,
    ]


def test_a_token_is_made_without_a_service_and_known_to_one_that_runs(tmp_path: Path) -> None:
    """Only its hash is stored. What one process revokes another one forgets within seconds, its own at once."""

    async def story(db: Database, clock: SettableClock) -> None:
        here, there = Tokens(db, clock), Tokens(db, clock)
        row, secret = await here.create(name="ci", role=Role.OPERATOR)
        assert is_secret(secret, TOKEN_PREFIX)
        assert row.shown_as == secret[:8]
        actor = await there.authenticate(secret)
        assert (actor.name, actor.role, actor.permissions) == ("ci", Role.OPERATOR, GRANTED[Role.OPERATOR])
        async with db.read() as session:
            stored = [tuple(row) for row in await session.execute(text("SELECT * FROM api_tokens"))]
        assert secret not in str(stored)
        assert hash_of(secret) in str(stored)
        await here.revoke(row.id)
        with pytest.raises(UnauthenticatedError):
            await here.authenticate(secret)
        clock.advance(seconds=KEPT_SECONDS + 0.1)
        with pytest.raises(UnauthenticatedError):
            await there.authenticate(secret)

    run(tmp_path, story)


def test_recognising_somebody_costs_neither_a_query_nor_a_write_per_request(tmp_path: Path) -> None:
    """A thousand requests within a moment are one look into the catalogue, and one write when the minute is over."""

    async def story(db: Database, clock: SettableClock) -> None:
        tokens = Tokens(db, clock)
        row, secret = await tokens.create(name="ci", role=Role.VIEWER)
        statements: list[str] = []
        for engine in (db.engine, db._reader):
            event.listen(engine.sync_engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
        for _ in range(1000):
            await tokens.authenticate(secret, "192.0.2.1")
        assert len([line for line in statements if "api_tokens" in line]) == 1
        assert not [line for line in statements if line.startswith("UPDATE")]
        await tokens.write_uses()
        await tokens.write_uses()
        assert len([line for line in statements if line.startswith("UPDATE")]) == 1
        used = await tokens.get(row.id)
        assert (used.last_used_at, used.last_used_from) == (clock.now(), "192.0.2.1")
        for _ in range(3000):
            with pytest.raises(UnauthenticatedError):
                await tokens.authenticate(new_secret(TOKEN_PREFIX))
        assert len(tokens._known._entries) == 1

    run(tmp_path, story)


def test_the_local_token_is_this_starts_own(tmp_path: Path) -> None:
    """Readable by its owner alone, whatever the umask and whatever lay there; the one of the start before is dead."""

    async def story(db: Database, clock: SettableClock) -> None:
        home, name = tmp_path / "home", f"local {'a' * 32}"
        home.mkdir()
        (home / LOCAL_TOKEN).write_text("old")
        (home / LOCAL_TOKEN).chmod(0o666)
        secrets = []
        for _ in range(4):
            tokens = Tokens(db, clock)
            path = await tokens.make_local(home, "a" * 32)
            secrets.append(path.read_text().strip())
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            clock.advance(days=20)
        await Tokens(db, clock).make_local(home, "b" * 32)  # another home on the same catalogue
        for dead in secrets[:-1]:
            with pytest.raises(UnauthenticatedError):
                await tokens.authenticate(dead)
        assert (await tokens.authenticate(secrets[-1])).may(Permission.ADMINISTER)
        async with db.read() as session:
            kept = await session.execute(text("SELECT count(*) FROM api_tokens WHERE name = :name"), {"name": name})
            assert kept.scalar_one() == 3  # what was revoked a month ago is gone
        assert [row.name for row in (await tokens.page(1, 10)).data if row.is_local].count(name) == 1

    run(tmp_path, story)


def test_the_local_token_works_while_the_catalogue_is_away(tmp_path: Path) -> None:
    """Whoever holds the home can look at what is wrong, which no other token could prove to be allowed."""

    async def story(db: Database, clock: SettableClock) -> None:
        tokens = Tokens(db, clock)
        path = await tokens.make_local(tmp_path, "a" * 32)
        _, other = await tokens.create(name="ci", role=Role.ADMIN)
        hanging = asyncio.Event()

        async def hang(_: str) -> Actor | None:
            await hanging.wait()
            return None

        tokens._load = hang  # type: ignore[method-assign]
        local = path.read_text().strip()
        assert (await tokens.authenticate(local)).may(Permission.ADMINISTER)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tokens.authenticate(other), 0.3)
        hanging.set()

    run(tmp_path, story)


def test_a_scope_that_a_role_lacks_is_no_scope(tmp_path: Path) -> None:
    """Nor is an empty one, an end in the past, or an administrator with a limit."""

    async def story(db: Database, clock: SettableClock) -> None:
        tokens = Tokens(db, clock)
        with pytest.raises(UsageError):
            await tokens.create(name="x", role=Role.VIEWER, permissions=[Permission.RUN])
        with pytest.raises(UsageError):
            await tokens.create(name="x", role=Role.VIEWER, permissions=[])
        with pytest.raises(UsageError):
            await tokens.create(name="x", role=Role.VIEWER, expires_at=clock.now())
        with pytest.raises(UsageError):
            await tokens.create(name="x", role=Role.ADMIN, datasource_ids=frozenset({uuid.uuid4()}))

    run(tmp_path, story)


def test_a_restart_gives_nobody_fresh_guesses(tmp_path: Path) -> None:
    """How often somebody has failed stays in the user's row; a sign-in that succeeds clears it."""

    async def story(here: Stage) -> None:
        services = assemble(here.context)
        user = await services.users.create(name="anna", password=PASSWORD, role=Role.ADMIN)
        for _ in range(5):
            with pytest.raises(UnauthenticatedError):
                await services.sessions.sign_in("anna", SecretStr("wrong"), address="192.0.2.1")
        restarted = assemble(here.context)
        with pytest.raises(TooManyAttemptsError):
            await restarted.sessions.sign_in("Anna ", PASSWORD, address="192.0.2.1")
        here.clock.advance(seconds=2)
        with pytest.raises(UnauthenticatedError):
            await restarted.sessions.sign_in("anna", SecretStr("wrong"), address="192.0.2.2")
        with pytest.raises(TooManyAttemptsError) as refused:
            await restarted.sessions.sign_in("anna", PASSWORD, address="192.0.2.3")
        assert refused.value.retry_after == 4
        here.clock.advance(seconds=4)
        session = await restarted.sessions.sign_in("anna", PASSWORD, address="192.0.2.4")
        cleared = await services.users.get(user.id)
        assert (cleared.failed_sign_ins, cleared.locked_until) == (0, None)
        assert PASSWORD.get_secret_value() not in repr(session) + str(vars(cleared))
        assert session.secret not in repr(session)

    asyncio.run(_staged(tmp_path, story))


def test_whoever_is_signed_in_somewhere_is_not_locked_out_there(tmp_path: Path) -> None:
    """An attacker elsewhere makes a name wait; from where its owner works it opens, and guesses there count there."""

    async def story(here: Stage) -> None:
        services = assemble(here.context)
        await services.users.create(name="anna", password=PASSWORD, role=Role.ADMIN)
        await services.sessions.sign_in("anna", PASSWORD, address="203.0.113.9")
        for _ in range(5):
            with pytest.raises(UnauthenticatedError):
                await services.sessions.sign_in("anna", SecretStr("wrong"), address="192.0.2.1")
        with pytest.raises(TooManyAttemptsError):
            await services.sessions.sign_in("anna", PASSWORD, address="192.0.2.2")
        assert (await services.sessions.sign_in("anna", PASSWORD, address="203.0.113.9")).user.name == "anna"
        with pytest.raises(TooManyAttemptsError):
            await services.sessions.sign_in("anna", PASSWORD, address="192.0.2.2")

    asyncio.run(_staged(tmp_path, story))


def test_sessions_end_by_themselves(tmp_path: Path) -> None:
    """After half a day without a request, and after a week whatever happens; their rows go, too."""

    async def story(here: Stage) -> None:
        services = assemble(here.context)
        user = await services.users.create(name="anna", password=PASSWORD, role=Role.VIEWER)
        idle = await services.sessions.sign_in("anna", PASSWORD, address="192.0.2.1")
        busy = await services.sessions.sign_in("anna", PASSWORD, address="192.0.2.1")
        for _ in range(16):
            here.clock.advance(hours=10)
            assert (await services.sessions.authenticate(busy.secret)).user.id == user.id
            await services.sessions.write_uses()
        with pytest.raises(UnauthenticatedError):
            await services.sessions.authenticate(idle.secret)
        here.clock.advance(hours=9)
        with pytest.raises(UnauthenticatedError):
            await services.sessions.authenticate(busy.secret)
        await services.sessions.write_uses()
        async with here.context.db.read() as session:
            assert (await session.execute(text("SELECT count(*) FROM sign_ins"))).scalar_one() == 0
        assert await services.sessions.of_user(user.id) == []

    asyncio.run(_staged(tmp_path, story))


def test_a_second_factor_is_sealed_for_its_user(tmp_path: Path) -> None:
    """The catalogue alone makes no codes; a secret that is copied into another user's row does not open there."""

    async def story(here: Stage) -> None:
        services = assemble(here.context)
        anna = await services.users.create(name="anna", password=PASSWORD, role=Role.ADMIN)
        eve = await services.users.create(name="eve", password=PASSWORD, role=Role.VIEWER)
        secret, _ = await services.users.enrol(eve.id)
        await services.users.confirm(eve.id, code_of(secret, step_at(here.clock.now())))
        async with here.context.db.write() as session:
            sealed = (await session.execute(text("SELECT totp_secret FROM users WHERE name = 'eve'"))).scalar_one()
            assert here.context.vault.is_sealed(sealed)
            statement = "UPDATE users SET totp_secret = :sealed, totp_confirmed = 1 WHERE name = 'anna'"
            await session.execute(text(statement), {"sealed": sealed})
        here.clock.advance(seconds=30)
        with pytest.raises(UnauthenticatedError):
            await services.sessions.sign_in("anna", PASSWORD, code_of(secret, step_at(here.clock.now())))
        assert (await services.users.get(anna.id)).failed_sign_ins == 1

    asyncio.run(_staged(tmp_path, story))


async def _staged(folder: Path, story: Callable[[Stage], Awaitable[None]]) -> None:
    async with stage(folder) as here:
        await story(here)


def test_tokens_expire_by_the_clock(tmp_path: Path) -> None:
    """Also one that was recognised a moment ago is not taken for longer than that moment."""

    async def story(db: Database, clock: SettableClock) -> None:
        tokens = Tokens(db, clock)
        _, secret = await tokens.create(name="x", role=Role.VIEWER, expires_at=clock.now() + timedelta(seconds=10))
        clock.advance(seconds=9)
        await tokens.authenticate(secret)
        clock.advance(seconds=KEPT_SECONDS + 0.1)
        with pytest.raises(UnauthenticatedError):
            await tokens.authenticate(secret)

    run(tmp_path, story)


def test_rows_never_hold_what_opens_anything(tmp_path: Path) -> None:
    """Tables of access, dumped whole after everything was used, hold no secret that was handed out."""

    async def story(here: Stage) -> None:
        services = assemble(here.context)
        setup = await services.setup.issue()
        assert setup is not None
        user = await services.setup.claim(SecretStr(setup), "anna", PASSWORD, "192.0.2.1")
        session = await services.sessions.sign_in("anna", PASSWORD, address="192.0.2.1", agent="browser\x00\n" * 100)
        _, secret = await services.tokens.create(name="x", role=Role.VIEWER, user_id=user.id)
        totp, _ = await services.users.enrol(user.id)
        codes = await services.users.confirm(user.id, code_of(totp, step_at(here.clock.now())))
        async with here.context.db.read() as reading:
            tables = ("users", "sign_ins", "api_tokens", "system_settings")
            dump = str([list(await reading.execute(text(f"SELECT * FROM {table}"))) for table in tables])
        handed_out = [setup, PASSWORD.get_secret_value(), session.secret, session.csrf, secret, totp, *codes]
        assert not [text for text in handed_out if text in dump or plain_code(text) in dump]

    asyncio.run(_staged(tmp_path, story))
