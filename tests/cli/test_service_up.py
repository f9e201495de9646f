"""`dataguardian up`: it starts with nothing configured, says so once, is alone on its home, and stops when asked."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.program import wait_for
from tests.cli.service import Service


def test_ready_is_said_once_as_one_json_line(own_service: Service) -> None:
    """The first line on standard output says that everything answers, where, and on what; SIGTERM ends it with 0."""
    ready = own_service.start()
    assert ready["event"] == "ready"
    assert ready["url"] == own_service.url
    assert ready["home"] == str(own_service.home)
    assert (ready["catalogue"], ready["queue"], ready["role"]) == ("sqlite", "embedded", "all")
    assert own_service.ok("status")["info"]["home"] == str(own_service.home)
    assert own_service.process is not None
    assert own_service.process.stdout is not None
    assert own_service.stop() == 0


def test_every_log_line_is_one_json_object(own_service: Service) -> None:
    """What we and others write to standard error can be read by a machine, line by line."""
    own_service.start()
    own_service.ok("job", "list")
    own_service.stop(signal.SIGINT)
    lines = [json.loads(line) for line in own_service.log.splitlines()]
    assert {"timestamp", "level", "event", "logger"} <= set.intersection(*(set(line) for line in lines))
    requests = [line for line in lines if line["event"] == "request"]
    assert requests
    assert all(line["request_id"] for line in requests)


LOGS = """
import logging, os, structlog
from dataguardian.cli.servicelog import configure_log
from dataguardian.settings import Settings

configure_log(Settings.from_environment())
def fail(password):
    raise ValueError("no such luck")
for log in (logging.getLogger("somebody.else"), structlog.get_logger("ours")):
    try:
        fail(os.environ["SECRET"])
    except ValueError:
        log.exception("it failed")
logging.getLogger("httpx").info("GET https://hooks.example.org/token")
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_tracebacks_hold_no_values(log_format: str) -> None:
    """A failure is logged with its lines of code and without what the variables held, whoever's logger it is."""
    env = {**os.environ, "DATAGUARDIAN_LOG_FORMAT": log_format, "SECRET": "Hunter2-Hunter2"}
    told = subprocess.run([sys.executable, "-c", LOGS], env=env, capture_output=True, text=True, check=True).stderr
    assert told.count("no such luck") == 2
    assert "somebody.else" in told
    assert "Hunter2" not in told
    assert "hooks.example.org" not in told
    if log_format == "json":
        assert [json.loads(line)["event"] for line in told.splitlines()] == ["it failed"] * 2


def test_a_second_one_on_the_same_home_is_refused(own_service: Service) -> None:
    """Two services on one home would fight; the second one says who holds it, and the first goes on."""
    own_service.start()
    assert own_service.process is not None
    told = own_service.refused(1, "up")
    assert f"process {own_service.process.pid}" in told
    assert "DATAGUARDIAN_HOME" in told
    own_service.ok("status")


def test_a_port_that_is_taken(own_service: Service, tmp_path: Path) -> None:
    """The error names the address and the way out."""
    own_service.start()
    other = {"DATAGUARDIAN_HOME": str(tmp_path / "h")}
    told = own_service.refused(1, "up", "--port", str(own_service.port), env=other)
    assert f"127.0.0.1:{own_service.port}" in told
    assert "--port" in told


@pytest.mark.parametrize(
    ("arguments", "env", "word"),
    [
        (["--role", "boss"], {}, "known: all, api, worker, scheduler"),
        (["--role", "worker"], {}, "DATABASE_URL"),
        (["--port", "70000"], {}, "65535"),
        ([], {"DATAGUARDIAN_LOG_FORMAT": "xml"}, "DATAGUARDIAN_LOG_FORMAT"),
        ([], {"DATAGUARDIAN_LOG_LEVEL": "loud"}, "DATAGUARDIAN_LOG_LEVEL"),
        ([], {"DATAGUARDIAN_PORT": "http"}, "DATAGUARDIAN_PORT"),
        ([], {"DATAGUARDIAN_TIMEZONE": "Mars/Olympus"}, "DATAGUARDIAN_TIMEZONE"),
    ],
)
def test_wrong_settings(own_service: Service, arguments: list[str], env: dict[str, str], word: str) -> None:
    """A setting that cannot hold is named before anything starts."""
    assert word in own_service.refused(2, "up", *arguments, env=env)
    assert not (own_service.home / "catalogue.db").exists()


def test_a_backup_that_runs_may_end_before_the_service_does(own_service: Service) -> None:
    """SIGTERM during a backup: the service waits for it, and the next start finds it completed."""
    own_service.env["DATAGUARDIAN_DRAIN_SECONDS"] = "120"
    own_service.start()
    thing = own_service.prepared(size_bytes=60_000_000)
    started = own_service.ok("job", "run", thing.name)
    row_id = started["execution_id"]
    own_service.reaches(row_id, "running")
    assert own_service.stop() == 0
    own_service.start()
    assert own_service.ok("execution", "show", row_id)["status"] == "completed"


def test_a_second_signal_does_not_wait(own_service: Service) -> None:
    """Two Ctrl-C during a long backup: the service ends soon, and hands the backup back to run again."""
    own_service.env["DATAGUARDIAN_DRAIN_SECONDS"] = "300"
    own_service.start()
    thing = own_service.prepared(size_bytes=1_500_000_000)
    row_id = own_service.ok("job", "run", thing.name)["execution_id"]
    own_service.reaches(row_id, "running")
    assert own_service.process is not None
    own_service.process.send_signal(signal.SIGINT)
    wait_for(lambda: '"stopping"' in own_service.log, "the drain")
    own_service.process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert own_service.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 30
    assert "a second signal" in own_service.log


def test_a_person_at_a_terminal_sees_a_panel(own_service: Service) -> None:
    """On a terminal the answer is for people: the address, and what to do next."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "dataguardian", "up", "--port", str(own_service.port)],
        env={**own_service.environment, "TERM": "xterm", "COLUMNS": "120"},
        stdout=slave,
        stderr=subprocess.DEVNULL,
    )
    os.close(slave)
    own_service.process = process  # type: ignore[assignment] -- its output is not read as text
    seen = b""
    while seen.count("╯".encode()) < 2:
        seen += os.read(master, 4096)
    text = seen.decode()
    assert own_service.url in text
    assert f"export DATAGUARDIAN_HOME={own_service.home}" in text
    assert "dataguardian user create NAME --role admin" in text
    assert f"POST {own_service.url}/api/setup" in text
    assert re.search(r"setup_[A-Za-z0-9_-]{43}", text)
    assert "dataguardian datasource add" in text
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    os.close(master)
