from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

import pytest

from tests.notifiers.peers import Certificate, make_certificate

Told = Callable[[BaseException], str]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Told:
    """Gives all that an error, its causes, the logs (down to debug; not the mail server's own) and the output tell."""
    caplog.set_level(logging.DEBUG)

    def everything(error: BaseException) -> str:
        logged = [record.getMessage() for record in caplog.records if record.name != "mail.log"]
        parts = [*logged, *capfd.readouterr(), str(getattr(error, "as_json", dict)())]
        return "\n".join(parts + traceback.format_exception(error))

    return everything
