"""What the environment may set, and what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataguardian.domain.errors import UsageError
from dataguardian.settings import Settings

SECRET = "Hunter2"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATAGUARDIAN_PORT", "abc"),
        ("DATAGUARDIAN_PORT", "65536"),
        ("DATAGUARDIAN_PORT", "-1"),
        ("DATAGUARDIAN_PORT", "84.5"),
        ("DATAGUARDIAN_PORT", "inf"),
        ("DATAGUARDIAN_DRAIN_SECONDS", "-1"),
        ("DATAGUARDIAN_DRAIN_SECONDS", "nan"),
        ("DATAGUARDIAN_DRAIN_SECONDS", "soon"),
        ("DATAGUARDIAN_LEASE_SECONDS", "1"),
        ("DATAGUARDIAN_LEASE_SECONDS", "nan"),
        ("DATAGUARDIAN_TIMEZONE", "Mars/One"),
        ("REDIS_URL", f"foo:{SECRET}@host"),
        ("REDIS_URL", f"redis://:{SECRET}@host:port/0"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(name: str, value: str) -> None:
    """A start with a mistake in the environment ends at once, says which variable, and repeats no password."""
    with pytest.raises(UsageError, match=name) as caught:
        Settings.from_environment({name: value})
    assert SECRET not in f"{caught.value} {caught.value.hint}"


def test_what_is_right_is_taken() -> None:
    """Empty variables count as unset."""
    given = {"DATAGUARDIAN_PORT": "0", "DATAGUARDIAN_DRAIN_SECONDS": "0.5", "REDIS_URL": "unix:///run/redis.sock"}
    settings = Settings.from_environment(given | {"DATAGUARDIAN_LOG_LEVEL": "", "DATABASE_URL": ""})
    assert (settings.port, settings.drain_seconds, settings.redis_url) == (0, 0.5, "unix:///run/redis.sock")
    assert (settings.log_level, settings.database_url) == ("info", None)


def test_a_checkout_has_its_own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `make up` has run, commands of that virtual environment find its home; anywhere else it is the user's."""
    monkeypatch.setattr("sys.prefix", str(tmp_path / ".venv"))
    assert Settings.from_environment({}).home == Path.home() / ".dataguardian"
    (tmp_path / ".dataguardian").mkdir()
    assert Settings.from_environment({}).home == Path.home() / ".dataguardian"
    (tmp_path / ".dataguardian" / "lock").touch()
    assert Settings.from_environment({}).home == Settings(staging_dir=tmp_path).home == tmp_path / ".dataguardian"
    assert Settings.from_environment({"DATAGUARDIAN_HOME": "/srv/dg"}).home == Path("/srv/dg")
