from __future__ import annotations

import json
import subprocess
import sys

import pytest

EVIL = "shop\n2026-11-23 [info] all is well\r\x1b[2J\x1b]0;title\x07\u2028\u202e\x9b2J"
_CODE = f"""
import logging, structlog
from dataguardian.cli.servicelog import configure_log
from dataguardian.settings import Settings
configure_log(Settings.from_environment())
evil = {EVIL!r}
structlog.get_logger("ours").warning(evil, name=evil, **{{"plain": "\\x1b[2J"}})
logging.getLogger("theirs").warning("it said %s", evil)
try:
    raise ValueError(evil)
except ValueError:
    structlog.get_logger("ours").exception("it failed")
"""


def _logged(log_format: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _CODE],
        env={"DATAGUARDIAN_LOG_FORMAT": log_format, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        check=True,
    )
    return done.stderr.decode()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_name_steers_a_terminal_from_the_log(log_format: str) -> None:
    """Escape codes, carriage returns and directions of writing come out as text that can be seen."""
    assert not set(_logged(log_format)) & set("\r\x1b\x07\u2028\u202e\x9b")


def test_no_name_makes_a_line_of_its_own() -> None:
    """As JSON each event is one line, however many its name pretends to be; as text, too, but for tracebacks."""
    lines = _logged("json").splitlines()
    assert [json.loads(line)["level"] for line in lines] == ["warning", "warning", "error"]
    before = _logged("console").split("Traceback", 1)[0].splitlines()
    assert [line for line in before if line.startswith("2026-11-23 [info]")] == []
    assert len(before) == 3
