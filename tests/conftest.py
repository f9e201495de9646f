"""Fixtures for everybody. A required server or tool that is missing fails in CI and skips, by name, on a laptop."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

pytest_plugins = ["tests.servers", "tests.mariadb"]

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell that starts the suite in the background has it ignored, and so would every program that a test stops.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def missing(what: str) -> None:
    """Fails in CI, skips elsewhere: a suite that may skip in CI proves nothing."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have {what}")
    pytest.skip(f"needs {what}")


def require_tool(name: str) -> str:
    """Returns the path of a stock tool (`zstd`, `tar`, `sha256sum`)."""
    path = shutil.which(name)
    if path is None:
        missing(name)
    assert path is not None
    return path
