"""Users as the command line makes them at home, and as they sign in to a real service."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.program import wait_for
from tests.cli.service import Service

PASSWORD = "correct horse battery"
ELSEWHERE = {"X-Forwarded-For": "203.0.113.9"}


def made(service: Service, name: str, *options: str, role: str = "viewer", password: str = PASSWORD) -> dict[str, Any]:
    return service.ok("user", "create", name, "--role", role, *options, data=password + "\n")


def signed_in(service: Service, name: str, password: str = PASSWORD, **options: Any) -> httpx.Response:
    body = {"name": name, "password": password}
    return httpx.post(f"{service.url}/api/session", json=body, timeout=30, trust_env=False, **options)


def setup_line(service: Service) -> dict[str, Any]:
    """Returns what the console says after `ready`."""
    assert service.process is not None
    assert service.process.stdout is not None
    return dict(json.loads(service.process.stdout.readline()))


def test_the_first_administrator_by_the_setup_token(own_service: Service) -> None:
    """The console alone has the token; it makes one administrator, once, and is not shown again."""
    own_service.start()
    told = setup_line(own_service)
    assert (told["event"], told["url"]) == ("setup", f"{own_service.url}/api/setup")
    assert "dataguardian user create" in told["hint"]
    body = {"token": told["setup_token"], "name": "ada", "password": PASSWORD}
    wrong = httpx.post(told["url"], json=body | {"token": "setup_" + "x" * 43}, timeout=30, trust_env=False)
    assert wrong.status_code == 401
    answer = httpx.post(told["url"], json=body, timeout=30, trust_env=False)
    assert (answer.status_code, answer.json()["role"]) == (201, "admin")
    assert httpx.post(told["url"], json=body, timeout=30, trust_env=False).status_code == 409
    assert signed_in(own_service, "ada").status_code == 201
    assert told["setup_token"] not in own_service.log
    own_service.stop()
    own_service.start()
    own_service.stop()
    assert own_service.said_after_ready == ""


def test_the_first_administrator_at_home(own_service: Service) -> None:
    """Before the first start, or beside it: afterwards no setup token is shown, and none is taken."""
    assert "user create NAME --role admin" in own_service.told("user", "list")
    made(own_service, "Ada", role="admin")
    own_service.start()
    assert signed_in(own_service, "ada").status_code == 201
    assert httpx.get(f"{own_service.url}/api/setup", trust_env=False).json() == {"needed": False}
    own_service.stop()
    assert own_service.said_after_ready == ""


def test_a_user_from_beginning_to_end(own_service: Service) -> None:
    """Made, signed in, another password, disabled, enabled, deleted: each counts at once in the service that runs."""
    own_service.start()
    row = made(own_service, "bob", "--datasource", "dataguardian")
    assert (row["name"], row["role"], len(row["datasource_ids"])) == ("bob", "viewer", 1)
    assert PASSWORD not in json.dumps(row)
    assert "dataguardian" in own_service.told("user", "list")
    cookies = dict(signed_in(own_service, "bob").cookies)
    assert cookies

    def asked() -> int:
        return httpx.get(f"{own_service.url}/api/session", cookies=cookies, trust_env=False).status_code

    assert asked() == 200
    own_service.ok("user", "password", "bob", data="another horse battery\n")
    wait_for(lambda: asked() == 401, "the session to end", seconds=10)
    assert signed_in(own_service, "bob").status_code == 401
    assert signed_in(own_service, "bob", "another horse battery").status_code == 201
    own_service.ok("user", "disable", "bob")
    assert signed_in(own_service, "bob", "another horse battery").status_code == 401
    assert " disabled " in own_service.told("user", "list")
    own_service.ok("user", "enable", "bob")
    assert signed_in(own_service, "bob", "another horse battery").status_code == 201
    assert "--yes" in own_service.refused(2, "user", "delete", "bob")
    own_service.ok("user", "delete", "bob", "--yes")
    assert signed_in(own_service, "bob", "another horse battery").status_code == 401
    assert own_service.ok("user", "list")["data"] == []


def test_a_second_factor_that_was_lost(own_service: Service) -> None:
    """With it the password alone is not enough; `totp-reset` ends it."""
    own_service.start()
    made(own_service, "ada", role="admin")
    with httpx.Client(base_url=own_service.url, timeout=30, trust_env=False) as browser:
        begun = browser.post("/api/session", json={"name": "ada", "password": PASSWORD}).json()
        browser.headers.update({"X-CSRF-Token": begun["csrf_token"], "Origin": own_service.url})
        drawn = browser.post("/api/account/second-factor", json={"password": PASSWORD})
        assert drawn.status_code == 200, drawn.text
        secret = drawn.json()["secret"]
        confirmed = browser.post("/api/account/second-factor/confirm", json={"code": code_of(secret)})
        assert confirmed.status_code == 200, confirmed.text
    assert signed_in(own_service, "ada").status_code == 401
    assert own_service.ok("user", "list")["data"][0]["second_factor"] is True
    own_service.ok("user", "totp-reset", "ada", "--yes")
    assert signed_in(own_service, "ada").status_code == 201


def code_of(secret: str) -> str:
    """Returns what an authenticator app would show now, computed by `openssl` from RFC 6238's own words."""
    key = subprocess.run(["base32", "-d"], input=secret.encode(), capture_output=True, check=True).stdout
    step = int(time.time() // 30).to_bytes(8, "big")
    mac = ["openssl", "dgst", "-sha1", "-mac", "HMAC", "-macopt", f"hexkey:{key.hex()}", "-binary"]
    digest = subprocess.run(mac, input=step, capture_output=True, check=True).stdout
    offset = digest[-1] & 15
    return f"{(int.from_bytes(digest[offset : offset + 4], 'big') & 0x7FFFFFFF) % 1_000_000:06d}"


def test_a_lock_out_is_ended(own_service: Service) -> None:
    """Wrong passwords from elsewhere lock a user out; `unlock`, in another process, reaches the service that runs."""
    own_service.env["DATAGUARDIAN_TRUSTED_PROXIES"] = "127.0.0.1"
    own_service.start()
    made(own_service, "bob")
    answers = [signed_in(own_service, "bob", f"wrong {n} wrong", headers=ELSEWHERE).status_code for n in range(6)]
    assert answers[-1] == 429
    assert signed_in(own_service, "bob", headers=ELSEWHERE).status_code == 429
    assert own_service.ok("user", "list")["data"][0]["failed_sign_ins"] >= 5
    assert own_service.ok("user", "unlock", "bob")["locked_until"] is None
    assert signed_in(own_service, "bob", headers=ELSEWHERE).status_code == 201


@pytest.mark.parametrize(
    ("arguments", "password", "code", "words"),
    [
        (["create", "x y", "--role", "admin"], PASSWORD, 2, "name"),
        (["create", "bob", "--role", "king"], PASSWORD, 2, "known: admin, operator, viewer"),
        (["create", "bob", "--role", "viewer"], "short", 2, "12 to 256 characters"),
        (["create", "bob", "--role", "viewer"], "", 2, "first line is the password"),
        (["create", "bob", "--role", "viewer", "--password-file", "/nowhere"], "", 2, "cannot be read"),
        (["create", "bob", "--role", "viewer", "--datasource", "nothing"], PASSWORD, 5, "there is no datasource"),
        (["password", "nobody"], PASSWORD, 5, "there is no user"),
        (["delete", "nobody", "--yes"], "", 5, "dataguardian user list"),
        (["disable", "last"], "", 1, "last administrator"),
        (["delete", "last", "--yes"], "", 1, "last administrator"),
        (["create", "LAST", "--role", "viewer"], PASSWORD, 1, "there is a user last already"),
    ],
)
def test_what_is_refused(home_of_one: Service, arguments: list[str], password: str, code: int, words: str) -> None:
    """Each mistake is named, and nothing changes."""
    before = home_of_one.ok("user", "list")
    told = home_of_one.refused(code, "user", *arguments, data=password + "\n")
    assert words in told
    assert PASSWORD not in told
    assert home_of_one.ok("user", "list") == before


@pytest.fixture(scope="module")
def home_of_one(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A home on which no service runs, with one administrator."""
    service = Service(tmp_path_factory.mktemp("one"))
    made(service, "last", role="admin")
    return service


def test_a_password_is_typed_twice_and_not_shown(own_service: Service) -> None:
    """On a terminal it is asked for without an echo; two different ones are no password."""
    for again, code, words in (
        (PASSWORD, 0, "user bob is made"),
        ("something else here", 2, "two different passwords"),
    ):
        name = "bob" if code == 0 else "eve"
        seen, ended = _typed(own_service, ["user", "create", name, "--role", "admin"], [PASSWORD, again])
        assert ended == code, seen
        assert words in seen
        assert PASSWORD not in seen
    assert [row["name"] for row in own_service.ok("user", "list")["data"]] == ["bob"]


def _typed(service: Service, arguments: list[str], lines: list[str]) -> tuple[str, int]:
    """Runs a verb on a terminal and types a line whenever it asks; returns what was to be seen, and its exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, "-m", "dataguardian", *arguments], service.environment)
    seen, answered = "", 0
    with os.fdopen(terminal, "r+b", buffering=0) as screen:
        while True:
            try:
                piece = screen.read(4096)
            except OSError:
                break
            if not piece:
                break
            seen += piece.decode()
            if seen.count(": ") > answered and answered < len(lines):
                screen.write(lines[answered].encode() + b"\n")
                answered += 1
    return seen, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextmanager
def watched(sentinel: str) -> Iterator[list[str]]:
    """Looks at the arguments and environments of all processes, all the time; collects those that hold a secret."""
    found: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for folder in Path("/proc").iterdir():
                if folder.name.isdigit() and int(folder.name) != os.getpid():
                    found.extend(
                        f"{folder}/{name}" for name in ("cmdline", "environ") if sentinel in _text(folder / name)
                    )

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def test_no_password_is_an_argument_or_lies_about(own_service: Service, tmp_path: Path) -> None:
    """While it is set by a file and by standard input it is in no process's arguments, and in no file of the home."""
    sentinel = "Sentinel-Password-4711"
    file = tmp_path / "password"
    file.write_text(sentinel + "\n")
    file.chmod(0o600)
    own_service.start()
    with watched(sentinel) as found:
        own_service.ok("user", "create", "ada", "--role", "admin", "--password-file", str(file))
        own_service.ok("user", "password", "ada", "--password-file", "-", data=sentinel + "\n")
    assert found == []
    assert signed_in(own_service, "ada", sentinel).status_code == 201
    own_service.stop()
    files = [path for path in own_service.home.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if sentinel.encode() in path.read_bytes()] == []
    assert sentinel not in own_service.log
    with watched(sentinel) as found:  # what it would look like if it were an argument
        subprocess.run([sys.executable, "-c", "import time; time.sleep(2)", sentinel], check=True)
    assert found


def test_who_did_it_is_known(own_service: Service) -> None:
    """The audit log has what was done at home, by whom, and no secret."""
    made(own_service, "ada", role="admin")
    token = own_service.ok("token", "create", "--role", "admin", "--name", "ci")["token"]
    own_service.start()
    with own_service.client() as client:
        lines = list(client.every("/api/audit"))
    done = {line["action"]: line for line in lines}
    assert {"user.create", "token.create"} <= done.keys()
    assert {done[action]["actor_kind"] for action in ("user.create", "token.create")} == {"console"}
    assert token not in json.dumps(lines)
