"""Values that look like options, shell commands or other addresses stay values."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from dataguardian.core.catalog import load_manifest, split_backup_path
from dataguardian.domain.artifact import slugify, stream_directory
from dataguardian.domain.errors import DataGuardianError, DumpFailedError, UsageError
from dataguardian.engines.mongodb.dump import restore_by_hand
from dataguardian.engines.mysql.dump import command_by_hand
from dataguardian.engines.postgres.dump import commands_by_hand
from dataguardian.engines.registry import ENGINES
from dataguardian.engines.sqlserver.sqlpackage import run_sqlpackage
from dataguardian.ssh import SshTarget
from dataguardian.storage.local import LocalConfig, LocalStorage
from dataguardian.storage.registry import STORAGES, build_storage

EVIL = [
    "-rf",
    "--help",
    "$(touch pwned)",
    "`touch pwned`",
    "a; touch pwned #",
    "a' ; touch pwned; '",
    'a" ; touch pwned; "',
    "a\ntouch pwned\n",
    "a && touch pwned",
    "a | touch pwned",
    "a\\' ; touch pwned; '",
    "!touch pwned",
    "*",
    "host=evil.example dbname=x",
    "postgresql://evil.example/x",
]


def _pasted(line: str, folder: Path) -> list[list[str]]:
    """Runs a line as people paste it, the programs in it replaced by one that notes its arguments."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("mongorestore", "mariadb", "mysql", "pg_restore", "psql"):
        program = programs / name
        program.write_text('#!/bin/bash\nprintf "%s\\0" "$@" "END" >>"$NOTES"\n')
        program.chmod(0o755)
    notes = folder / "notes"
    notes.unlink(missing_ok=True)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "NOTES": str(notes)}
    subprocess.run(["bash", "-i", "-c", line], cwd=folder, env=environment, check=True, capture_output=True)
    calls = notes.read_text().split("\0END\0")[:-1]
    return [call.split("\0") for call in calls]


@pytest.mark.parametrize("name", EVIL)
def test_the_lines_to_restore_by_hand_hold_any_name(tmp_path: Path, name: str) -> None:
    """Pasted into a shell, a database's name is one argument of the right program, and never a command or an option."""
    charset = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}
    lines = [
        *restore_by_hand(name, users=True),
        command_by_hand("mariadb", name, charset),
        *commands_by_hand(name),
        *commands_by_hand("shop", [name]),
    ]
    for line in lines:
        calls = _pasted(line, tmp_path)
        assert all(argument.startswith("-") or "CREATE SCHEMA" in argument for call in calls for argument in call)
    assert _pasted(lines[1], tmp_path)[0][-2] == f"--db={name}"
    assert _pasted(lines[2], tmp_path)[1][-1] == f"--database={name}"
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "mariadb", "mongodb", "sqlserver"])
@pytest.mark.parametrize("host", ["-oProxyCommand=touch", "a b", "a/../b", "a@b", "a\nb", "a\0b"])
def test_a_host_is_a_host(scheme: str, host: str) -> None:
    """What is neither a name nor an address is refused by every engine that has a host."""
    config = next(adapter.config for adapter in ENGINES.adapters.values() if scheme in adapter.schemes)
    with pytest.raises(ValidationError):
        config.model_validate({"host": host})
    with pytest.raises(ValidationError):
        SshTarget(host=host)


STORAGE_FIELDS: dict[str, dict[str, Any]] = {
    "s3": {"bucket": "abc", "access_key_id": "a", "secret_access_key": "b"},
    "minio": {"endpoint": "h:1", "bucket": "abc", "access_key": "a", "secret_key": "b"},
    "backblaze": {"bucket_name": "abcdef", "application_key_id": "a", "application_key": "b"},
}


@pytest.mark.parametrize("kind", STORAGE_FIELDS)
@pytest.mark.parametrize(
    "endpoint",
    ["http://:pw@h", "http://u@h", "http://u:p@h", "http://h#@evil", "http://h?x", "http://h/x", "http://ex。ample",
     "http://h\n.evil", "http://h\r\nX: y", "http://h\\@evil", "http://h x", "file:///etc", "gopher://h", "//h", ""],
)  # fmt: skip
def test_an_endpoint_is_a_scheme_a_host_and_a_port(kind: str, endpoint: str) -> None:
    """No user, no path, no fragment, no look-alike of a dot: nothing that two readers could read in two ways."""
    config = STORAGES.adapters[kind].config
    with pytest.raises(ValidationError):
        config.model_validate({**STORAGE_FIELDS[kind], "endpoint": endpoint})


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("s3", {"bucket": "-x"}),
        ("s3", {"bucket": "../x"}),
        ("s3", {"prefix": "../x"}),
        ("s3", {"prefix": "a/../../x"}),
        ("s3", {"region": "-x y"}),
        ("minio", {"bucket": "a/b"}),
        ("backblaze", {"bucket_name": "../x"}),
        ("backblaze", {"prefix": "../x"}),
        ("local", {"path": "relative"}),
        ("local", {"path": "/a\0b"}),
        ("ssh", {"host": "h", "username": "u", "remote_path": "/a/../../b"}),
        ("ssh", {"host": "-oProxyCommand=x", "username": "u", "remote_path": "/a"}),
        ("rclone", {"remote": "-x"}),
        ("rclone", {"remote": ":http,url=evil"}),
        ("rclone", {"remote": "a:b"}),
        ("rclone", {"remote": "a", "path": "../x"}),
        ("rclone", {"remote": "a", "path": "x]/y"}),
    ],
)
def test_a_field_of_a_storage_leads_nowhere_else(kind: str, fields: dict[str, Any]) -> None:
    """Options, ways up, and rclone's remotes on the fly are refused when they are given."""
    with pytest.raises(ValidationError):
        STORAGES.adapters[kind].config.model_validate({**STORAGE_FIELDS.get(kind, {}), **fields})


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "..", "", "a\\..\\b", "a\0b", "..\\x"]
)
def test_a_local_storage_stays_below_its_root(tmp_path: Path, path: str) -> None:
    """Every method refuses a path that could leave, before anything is touched."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "x").write_text("secret")
    storage = LocalStorage(LocalConfig(path=str(root)))
    calls = (
        lambda: storage.get(path, 100),
        lambda: storage.put(path, b"x"),
        lambda: storage.stat(path),
        lambda: storage.delete(path),
        lambda: load_manifest(storage, path),
    )
    for call in calls:
        with pytest.raises(UsageError):
            call()
    assert (tmp_path / "x").read_text() == "secret"
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("path", ["/store/..", "/store/../x", "/store/job/..", "/../..", "/store/a\\b/c", "x"])
def test_an_address_of_a_backup_does_not_climb(path: str) -> None:
    """The last two names of an address are a job's and a run's folder, and nothing else."""
    with pytest.raises(UsageError):
        split_backup_path(path)


@pytest.mark.parametrize("name", [*EVIL, "..", "../../etc", ".hidden", "/", "a/b", "con\0", "é", "\udcff", "a" * 5000])
def test_a_name_makes_a_folder_of_plain_letters(name: str) -> None:
    """Neither a job nor a stream can lead out of a storage, be an option, or be expanded by a shell."""
    for folder in (slugify(name), stream_directory(1, name, "tar")):
        assert folder == folder.strip(".-")
        assert len(folder) < 100
        assert all(char.isascii() and (char.isalnum() or char in "._-") for char in folder)


@pytest.mark.parametrize("database", ['x"\n"/p:Evil=1', "a\nb", 'a"b', "a'b"])
def test_no_name_adds_an_argument_for_sqlpackage(tmp_path: Path, database: str) -> None:
    """Its file of arguments is not even written when a name could end a line of it."""
    config = ENGINES.adapters["sqlserver"].config.model_validate({"host": "127.0.0.1"})
    program: Any = SimpleNamespace(path=lambda _: "/bin/false")
    arguments = [f"/SourceDatabaseName:{database}"]
    with pytest.raises(DumpFailedError, match="cannot be given names"):
        run_sqlpackage(config, program, tmp_path, arguments, side="Source", error=DumpFailedError)
    assert list(tmp_path.iterdir()) == []


def test_credentials_do_not_follow_a_redirect(tmp_path: Path) -> None:
    """A service that sends us elsewhere gets an error; elsewhere never hears of us."""
    import threading  # noqa: PLC0415 -- only here
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # noqa: PLC0415 -- only here

    asked: dict[str, list[str]] = {"here": [], "elsewhere": []}

    def served(name: str, location: str | None) -> ThreadingHTTPServer:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                asked[name].append(self.headers.get("Authorization", ""))
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(307 if location else 200)
                if location:
                    self.send_header("Location", location + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815 -- the library's names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    elsewhere = served("elsewhere", None)
    here = served("here", f"http://127.0.0.2:{elsewhere.server_address[1]}")
    address = f"127.0.0.1:{here.server_address[1]}"
    try:
        for kind, fields in STORAGE_FIELDS.items():
            endpoint = {"endpoint": address, "use_ssl": False} if kind == "minio" else {"endpoint": f"http://{address}"}
            region = {"region": "eu-1"} if kind == "s3" else {}
            config: Any = STORAGES.adapters[kind].config.model_validate({**fields, **endpoint, **region})
            before = len(asked["here"])
            for call in ("get", "put"):
                with pytest.raises(DataGuardianError):
                    getattr(build_storage(config), call)("a/b", b"x" if call == "put" else 100)
            assert len(asked["here"]) > before, kind
            assert asked["elsewhere"] == [], kind
    finally:
        for server in (here, elsewhere):
            server.shutdown()
            server.server_close()
    assert any(asked["here"])
