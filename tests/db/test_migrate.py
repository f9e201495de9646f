"""Migrations: the same schema on both databases, one process at a time, whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, inspect, make_url, text

from dataguardian.db import migrate
from dataguardian.db.accounts import Base  # with the tables of every module
from dataguardian.db.address import sqlite_path
from dataguardian.domain.errors import CatalogUnavailableError, ConflictError, DataGuardianError, UsageError
from tests.servers import PostgresServer, free_port


def engine(url: str) -> Engine:
    """A plain engine, that knows nothing of the program's."""
    address = make_url(url)
    return create_engine(address if url.startswith("sqlite") else address.set(drivername="postgresql+psycopg"))


def tables(url: str) -> set[str]:
    there = engine(url)
    try:
        return set(inspect(there).get_table_names())
    finally:
        there.dispose()


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """The program's revisions, to which a test may add one."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrate.SCRIPTS, folder)
    return folder


NEWEST = migrate.revisions()[-1]
NEXT = f"{int(NEWEST) + 1:04}"


def add_revision(scripts: Path, upgrade: str, downgrade: str = "pass", number: str | None = None) -> None:
    number = number or NEXT
    before = f"{int(number) - 1:04}"
    body = f"import os, time\nimport sqlalchemy as sa\nfrom alembic import op\nrevision = '{number}'\n"
    body += f"down_revision = '{before}'\n\ndef upgrade():\n{textwrap.indent(upgrade, '    ')}\n"
    body += f"\ndef downgrade():\n{textwrap.indent(downgrade, '    ')}\n"
    (scripts / "versions" / f"v{number}_scripted.py").write_text(body)


def in_child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts Python with `migrate` imported."""
    lines = f"import sys\nfrom pathlib import Path\nfrom dataguardian.db import migrate\n{textwrap.dedent(code)}"
    return subprocess.Popen(
        [sys.executable, "-c", lines, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_migrated_catalogue_is_the_one_that_the_models_describe(url: str) -> None:
    """Alembic, asked what a migration would have to change, answers: nothing."""
    migrate.upgrade(url)
    there = engine(url)
    with there.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []
    there.dispose()


def test_the_rules_that_alembic_does_not_compare_are_the_models_too(url: str, request: pytest.FixtureRequest) -> None:
    """CHECK constraints and the conditions of partial indexes are the same as what the models would create."""

    def conditions(index: Any) -> list[tuple[str, str]]:
        return sorted((name, str(value)) for name, value in index.get("dialect_options", {}).items())

    def rules(connection: Connection) -> dict[str, object]:
        seen = inspect(connection)
        return {
            table: (
                sorted(
                    (check["name"], check["sqltext"].replace(chr(34), ""))
                    for check in seen.get_check_constraints(table)
                ),
                sorted((index["name"], conditions(index)) for index in seen.get_indexes(table)),
                sorted((key["name"], str(key["options"])) for key in seen.get_foreign_keys(table)),
            )
            for table in seen.get_table_names()
            if table != "alembic_version"
        }

    migrate.upgrade(url)
    other = f"{url}.other" if url.startswith("sqlite") else ""
    if not other:
        server: PostgresServer = request.getfixturevalue("postgres16")
        other = server.url(server.database())
    migrated, described = engine(url), engine(other)
    Base.metadata.create_all(described)
    with migrated.connect() as left, described.connect() as right:
        assert rules(left) == rules(right)
    migrated.dispose()
    described.dispose()


def test_down_leaves_nothing_and_up_again_works(url: str) -> None:
    """A downgrade to `base` removes every table, and the next start makes them anew."""
    migrate.upgrade(url)
    assert migrate.current(url) == migrate.revisions()[-1]
    migrate.downgrade(url, "base")
    assert migrate.current(url) is None
    assert tables(url) == {"alembic_version"}
    migrate.upgrade(url)
    assert tables(url) == {*Base.metadata.tables, "alembic_version"}


def test_file_names_tell_the_revisions_without_alembic() -> None:
    """The quick look at start trusts the names of files, so they must be what is written inside."""
    directory = ScriptDirectory(str(migrate.SCRIPTS))
    known = [script.revision for script in directory.walk_revisions()]
    assert migrate.revisions() == known[::-1]
    assert directory.get_current_head() == migrate.revisions()[-1]


def test_a_catalogue_that_is_up_to_date_costs_no_time(tmp_path: Path) -> None:
    """A start that has nothing to migrate imports neither Alembic nor SQLAlchemy, and takes a moment."""
    url = f"sqlite:///{tmp_path}/catalogue.db"
    migrate.upgrade(url)
    code = """
        import time
        start = time.process_time()  # of this process alone, however busy the machine
        migrate.upgrade(sys.argv[1])
        assert time.process_time() - start < 0.3
        assert not {"alembic", "sqlalchemy"} & set(sys.modules)
    """
    child = in_child(code, url)
    assert child.wait(30) == 0, child.communicate()[1]


def test_the_catalogue_is_for_its_owner_only(tmp_path: Path) -> None:
    """It holds passwords of datasources."""
    migrate.upgrade(f"sqlite:///{tmp_path}/catalogue.db")
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_an_installed_package_needs_nothing_of_the_checkout(url: str, tmp_path: Path) -> None:
    """Migrations run from a copy in another folder, from another working directory, without alembic.ini."""
    site = tmp_path / "site"
    shutil.copytree(Path(migrate.__file__).parents[1], site / "dataguardian")
    code = "import sys; from dataguardian.db import migrate; migrate.upgrade(sys.argv[1]); print(migrate.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code, url],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))
    assert migrate.current(url) == migrate.revisions()[-1]


def test_processes_that_start_at_once_wait_for_each_other(url: str, scripts: Path, tmp_path: Path) -> None:
    """Five starts at once: one migrates, slowly, and all go on with the same catalogue."""
    log = tmp_path / "log"
    add_revision(
        scripts,
        f"open({str(log)!r}, 'a').write('x')\ntime.sleep(0.5)\nop.create_table('slow', sa.Column('a', sa.Integer()))",
    )
    children = [in_child("migrate.upgrade(sys.argv[1], scripts=Path(sys.argv[2]))", url, str(scripts)) for _ in "12345"]
    for child in children:
        assert child.wait(60) == 0, child.communicate()[1]
    assert log.read_text() == "x"
    assert migrate.current(url) == NEXT


def wait_for(path: Path) -> None:
    limit = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < limit, f"{path.name} did not come"
        time.sleep(0.01)


@pytest.mark.parametrize("first", [True, False], ids=["the first start", "a later start"])
def test_a_migration_that_is_killed_leaves_what_was_there(url: str, scripts: Path, tmp_path: Path, first: bool) -> None:
    """kill -9 after half of a revision's statements: the next start finds the catalogue as before, and migrates."""
    if not first:
        migrate.upgrade(url)
    half = tmp_path / "half"
    slow = f"op.create_table('one', sa.Column('a', sa.Integer()))\nopen({str(half)!r}, 'w').close()\ntime.sleep(60)"
    add_revision(scripts, slow)
    child = in_child("migrate.upgrade(sys.argv[1], scripts=Path(sys.argv[2]))", url, str(scripts))
    wait_for(half)
    child.send_signal(signal.SIGKILL)
    assert child.wait(10) == -signal.SIGKILL
    assert migrate.current(url) == (None if first else NEWEST)
    assert "one" not in tables(url)
    add_revision(scripts, "op.create_table('one', sa.Column('a', sa.Integer()))")
    migrate.upgrade(url, scripts=scripts)
    assert "one" in tables(url)
    assert migrate.current(url) == NEXT


def test_a_migration_that_fails_changes_nothing(url: str, scripts: Path) -> None:
    """An error in the second statement takes the first one back."""
    migrate.upgrade(url)
    add_revision(scripts, "op.create_table('one', sa.Column('a', sa.Integer()))\nop.execute('SELECT * FROM nothing')")
    with pytest.raises(DataGuardianError, match="nothing"):
        migrate.upgrade(url, scripts=scripts)
    assert "one" not in tables(url)
    assert migrate.current(url) == NEWEST


def test_tables_are_altered_in_batch_mode_and_keep_their_rows(url: str, scripts: Path) -> None:
    """A column that others refer past is added and removed: rows and references stay, on SQLite by copying."""
    migrate.upgrade(url)
    there = engine(url)
    identity, moment = ("X'00'", "0") if url.startswith("sqlite") else ("gen_random_uuid()", "now()")
    columns = "(id, created_at, updated_at, key, value, description)"
    values = f"({identity}, {moment}, {moment}, 'k', '{{}}', 'd')"
    with there.begin() as connection:
        connection.execute(text(f"INSERT INTO system_settings {columns} VALUES {values}"))
    add_revision(
        scripts,
        "with op.batch_alter_table('system_settings', recreate='auto') as batch:\n"
        "    batch.add_column(sa.Column('note', sa.Text(), server_default='n', nullable=False))\n"
        "    batch.alter_column('description', nullable=True)",
        "with op.batch_alter_table('system_settings') as batch:\n"
        "    batch.drop_column('note')\n    batch.alter_column('description', nullable=False)",
    )
    migrate.upgrade(url, scripts=scripts)
    with there.connect() as connection:
        assert connection.execute(text("SELECT key, note FROM system_settings")).one() == ("k", "n")
    migrate.downgrade(url, NEWEST, scripts=scripts)
    with there.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        assert connection.execute(text("SELECT key FROM system_settings")).scalar() == "k"
    there.dispose()


def test_a_migration_that_breaks_a_reference_is_not_made(tmp_path: Path, scripts: Path) -> None:
    """SQLite does not look at references while a table is rebuilt, so they are looked at before the commit."""
    url = f"sqlite:///{tmp_path}/catalogue.db"
    migrate.upgrade(url)
    add_revision(
        scripts, "op.execute(\"INSERT INTO notification_deliveries VALUES (X'01',0,0,X'09','c','sent',1,1,NULL)\")"
    )
    with pytest.raises(DataGuardianError, match="notification_deliveries"):
        migrate.upgrade(url, scripts=scripts)
    assert migrate.current(url) == NEWEST


def test_the_targets_go_down_and_up_without_touching_a_backup(url: str) -> None:
    """Down to the release before and up again: the tables of several targets go and come, every other row stays."""
    migrate.upgrade(url)
    there = engine(url)
    identity, moment = ("X'00'", "0") if url.startswith("sqlite") else ("gen_random_uuid()", "now()")
    columns = "(id, created_at, updated_at, key, value, description)"
    with there.begin() as connection:
        values = f"({identity}, {moment}, {moment}, 'k', '{{}}', 'd')"
        connection.execute(text(f"INSERT INTO system_settings {columns} VALUES {values}"))
    migrate.downgrade(url, "0001")
    assert not {"execution_targets", "repairs"} & tables(url)
    migrate.upgrade(url)
    assert tables(url) >= {"execution_targets", "repairs"}
    with there.connect() as connection:
        assert connection.execute(text("SELECT key FROM system_settings")).scalar() == "k"
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    there.dispose()


def test_a_newer_catalogue_is_refused(url: str, scripts: Path) -> None:
    """An older program says so and touches nothing, up or down."""
    add_revision(scripts, "op.create_table('future', sa.Column('a', sa.Integer()))")
    migrate.upgrade(url, scripts=scripts)
    for verb, revision in ((migrate.upgrade, "head"), (migrate.downgrade, "base")):
        with pytest.raises(ConflictError, match=rf"revision {NEXT}.*none after {NEWEST}") as caught:
            verb(url, revision)
        assert "newer" in caught.value.hint
    assert "future" in tables(url)


def test_a_catalogue_that_became_newer_while_we_waited_is_refused_too(url: str, scripts: Path, tmp_path: Path) -> None:
    """What was read before the lock may be old: it is read again behind it."""
    here = tmp_path / "here"
    add_revision(scripts, f"open({str(here)!r}, 'w').close()\ntime.sleep(1)")
    child = in_child("migrate.upgrade(sys.argv[1], scripts=Path(sys.argv[2]))", url, str(scripts))
    wait_for(here)
    with pytest.raises(ConflictError, match=f"revision {NEXT}"):
        migrate.upgrade(url)
    assert child.wait(30) == 0


def test_revisions_that_are_none_are_refused(url: str) -> None:
    """The error names those that there are."""
    for attempt in (migrate.upgrade, migrate.downgrade):
        with pytest.raises(UsageError, match="9999") as caught:
            attempt(url, "9999")
        assert "0001" in caught.value.hint


def test_an_upgrade_to_what_is_older_does_nothing(url: str) -> None:
    """Up never goes down, nor down up."""
    migrate.upgrade(url)
    migrate.upgrade(url, "0001")
    migrate.downgrade(url, "0001")
    assert migrate.current(url) == "0001"


def test_another_programs_database_is_left_alone(url: str) -> None:
    """Tables of the same name that are not ours: a clear error, and nothing changes."""
    there = engine(url)
    with there.begin() as connection:
        connection.execute(text("CREATE TABLE notifications (theirs INTEGER)"))
    with pytest.raises(DataGuardianError, match="notifications"):
        migrate.upgrade(url)
    assert tables(url) == {"notifications"}
    there.dispose()


def test_a_held_lock_is_waited_for_and_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that never ends its migration is not waited for without limit."""
    lock = tmp_path / "catalogue.db.migrating"
    holder = in_child(
        "import fcntl, time\nlock = open(sys.argv[1], 'w')\nfcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\ntime.sleep(60)",
        str(lock),
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    monkeypatch.setattr(migrate, "LOCK_SECONDS", 0.3)
    with pytest.raises(ConflictError, match="migrating"):
        migrate.upgrade(f"sqlite:///{tmp_path}/catalogue.db")
    holder.kill()
    holder.wait(10)
    migrate.upgrade(f"sqlite:///{tmp_path}/catalogue.db")


SECRET = "s3cretword"


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://u:{SECRET}@127.0.0.1:PORT/x",
        f"postgresql://u:{SECRET}@{SECRET}@127.0.0.1:PORT/x",
        f"postgresql://u:{SECRET}/{SECRET}@127.0.0.1:PORT/x",
        f"postgresql://u:{SECRET}[@127.0.0.1:PORT/x",
        f"postgresql://u:p@127.0.0.1:{SECRET}/x",
        f"postgresql://u:p@127.0.0.1:PORT/x?{SECRET}={SECRET}",
        f"mysql://u:{SECRET}@127.0.0.1/x",
        f"{SECRET}",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
@pytest.mark.parametrize("verb", ["upgrade", "current"])
def test_addresses_that_do_not_work_show_no_password(address: str, verb: str) -> None:
    """Whatever is wrong with an address, no part of a password comes out, in no cause either."""
    with pytest.raises((UsageError, CatalogUnavailableError)) as caught:
        getattr(migrate, verb)(address.replace("PORT", str(free_port())))
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error) + str(getattr(error, "hint", ""))
        error = error.__cause__


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The error says what to do."""
    with pytest.raises(UsageError, match="nowhere") as caught:
        migrate.upgrade(f"sqlite:///{tmp_path}/nowhere/catalogue.db")
    assert "DATAGUARDIAN_HOME" in caught.value.hint


def test_a_file_that_is_no_database_is_named_damaged(tmp_path: Path) -> None:
    """Garbage is an integrity error, not a stack trace."""
    (tmp_path / "catalogue.db").write_bytes(b"this is no database" * 500)
    with pytest.raises(DataGuardianError, match="damaged"):
        migrate.upgrade(f"sqlite:///{tmp_path}/catalogue.db")


def test_looking_creates_nothing(tmp_path: Path) -> None:
    """`current` of a catalogue that is not there leaves no file behind."""
    url = f"sqlite:///{tmp_path}/catalogue.db"
    assert migrate.current(url) is None
    assert list(tmp_path.iterdir()) == []
    sqlite3.connect(tmp_path / "catalogue.db").close()
    assert sqlite_path(url) == tmp_path / "catalogue.db"
    assert migrate.current(url) is None
