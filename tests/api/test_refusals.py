"""Refusals in the audit log: told at once, counted by the minute, and never so many that they fill a disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataguardian.domain.access import SYSTEM, ActorKind
from dataguardian.service.acting import acting
from dataguardian.service.refusals import MOST_LINES, MOST_SOURCES, unknown
from tests.api.stage import Desk, is_error, play


async def lines(desk: Desk) -> list[dict[str, Any]]:
    return [line async for line in desk.services.audit.lines()]


def test_a_flood_is_a_few_lines(tmp_path: Path) -> None:
    """Twenty thousand refusals of five thousand networks in a minute: ten lines, ten that count, one for all others."""

    async def story(desk: Desk) -> None:
        refusals = desk.services.refusals
        for _ in range(4):
            for number in range(5000):
                refusals.note("session.refused", actor=unknown(f"198.18.{number // 250}.{number % 250}"))
        await refusals.flush()
        assert len(await lines(desk)) == MOST_SOURCES
        desk.here.clock.advance(seconds=61)
        await refusals.flush()
        told = await lines(desk)
        assert len(told) == 2 * MOST_SOURCES + 1
        counted = sum(line["changes"].get("further", [0, 0])[1] for line in told)
        flood = told[-1]["changes"]
        assert MOST_SOURCES + counted + flood["refusals"][1] == 20_000
        assert flood["networks"][1] == 1000
        assert told[-1]["action"] == "access.flood"

    play(tmp_path, story)


def test_a_day_of_floods_is_bounded(tmp_path: Path) -> None:
    """Every minute of a day other networks: so many lines an hour, and then everything is counted all the same."""

    async def story(desk: Desk) -> None:
        refusals, hours, sent = desk.services.refusals, 3, 0
        for minute in range(60 * hours):
            for number in range(30):
                refusals.note("token.refused", actor=unknown(f"198.{minute % 250}.{number}.1"))
                sent += 1
            await refusals.flush()
            desk.here.clock.advance(minutes=1)
        await refusals.flush(last=True)
        told = await lines(desk)
        assert len(told) <= (MOST_LINES + 1) * hours + 1
        counted = sum(line["changes"].get("further", [0, 0])[1] for line in told)
        floods = [line["changes"]["refusals"][1] for line in told if line["action"] == "access.flood"]
        alone = sum(line["changes"] == {} for line in told)
        assert alone + counted + sum(floods) == sent

    play(tmp_path, story)


def test_an_ipv6_network_counts_once(tmp_path: Path) -> None:
    """Whoever has a /64 has 2^64 addresses, and is one network; one IPv4 address in two spellings is one."""

    async def story(desk: Desk) -> None:
        for address in ("2001:db8::1", "2001:db8::ffff:2", "192.0.2.1", "::ffff:192.0.2.1", "2001:db8:0:1::1"):
            desk.services.refusals.note("token.refused", actor=unknown(address))
        await desk.services.refusals.flush()
        assert len(await lines(desk)) == 3

    play(tmp_path, story)


def test_who_acts_is_who_asked(tmp_path: Path) -> None:
    """A request's actor is its own: two at once, what they leave running, and what the service does by itself."""

    async def story(desk: Desk) -> None:
        await desk.datasource("one")
        assert [line["actor_kind"] for line in await lines(desk)] == ["token"]
        await desk.services.datasources.create(
            {"name": "two", "type": "sqlite", "connection_config": {"file_path": str(tmp_path / "x.db")}}
        )
        with acting(unknown("192.0.2.9", "mallory")):
            desk.services.refusals.note("permission.refused")
        with acting(SYSTEM):
            await desk.services.refusals.flush()
        told = await lines(desk)
        assert told[1]["actor_kind"] == ActorKind.SYSTEM
        assert (told[2]["actor_name"], told[2]["address"]) == ("mallory", "192.0.2.9")
        assert told[1]["request_id"] is None
        is_error(await desk.get("/api/audit", limit=101), 422)

    play(tmp_path, story)
