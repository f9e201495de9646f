"""The weekly sample and the settings, from the terminal."""

from __future__ import annotations

from tests.cli.service import Service


def test_a_sample_is_begun_and_seen(own_service: Service) -> None:
    """Settings are listed, changed and reset; a sample is taken; the damaged backup is seen as such."""
    own_service.start()
    thing = own_service.prepared()
    backup = own_service.backup(thing.name)
    assert {row["key"] for row in own_service.ok("setting", "list")["data"]} >= {"scrub", "cleanup"}
    assert "scrub" in own_service.told("setting", "list")
    changed = own_service.ok("setting", "edit", "scrub", "--config", "percent=50", "--config", "weekday=monday")
    assert (changed["value"]["percent"], changed["value"]["weekday"]) == (50, "monday")
    told = own_service.told("scrub")
    assert "mondays from 01:00, 50 % of the backups" in told
    reset = own_service.ok("setting", "edit", "scrub", "--unset", "percent")
    assert reset["value"]["percent"] == 5
    assert "weekday" in own_service.refused(2, "setting", "edit", "scrub", "--config", "weekday=someday")
    assert "there is no setting" in own_service.refused(5, "setting", "show", "coffee")
    assert "not yet" in own_service.told("execution", "show", backup["id"])
    part = next((thing.disk / backup["backup_path"]).rglob("000001.*"))
    part.write_bytes(part.read_bytes() + b"!")
    assert own_service.run("execution", "verify", backup["id"], "--wait").code == 3
    assert "DAMAGED" in own_service.told("execution", "show", backup["id"])
    assert "DAMAGED" in own_service.told("execution", "list", "--job", thing.name)
    begun = own_service.ok("scrub", "--now")["sample"]
    assert {entry["planned"] for entry in begun["storage_locations"]} == {1}
    assert "PLANNED" in own_service.told("scrub")
    own_service.ok("setting", "edit", "scrub", "--config", "enabled=false")
    assert "switched off" in own_service.told("scrub")
    assert own_service.stop() == 0
