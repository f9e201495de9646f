"""Deliveries: once, again when it may help, never for ever, and nobody waits for a server that hangs."""

from __future__ import annotations

import asyncio
import time
import uuid
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest

from dataguardian.db.models import NotificationDelivery
from dataguardian.db.repositories.deliveries import OutboxRepository
from dataguardian.db.repositories.notifications import SettingRepository
from dataguardian.domain.auditlog import read_anchors
from dataguardian.domain.errors import NotFoundError, NotifierRejectedError, NotifierTransientError
from dataguardian.domain.states import EntityType, NotificationType, Severity
from dataguardian.queues.consumer import Consumer, NoRetry, TryAgain
from dataguardian.queues.definitions import QueueName
from dataguardian.queues.producer import QueueJob
from dataguardian.service.audit import Audit
from dataguardian.service.delivery import Delivery, Verdict
from dataguardian.service.events import OWED_AFTER, SENDING_AT_MOST, SETTING, load_settings
from dataguardian.workers.notification import NotificationWorker, notification_loops
from tests.notifiers.peers import hang, http_server, misbehaving_server, smtp_server
from tests.servers import free_port
from tests.service.backups import play
from tests.service.stage import SettableClock, Stage


def hook(port: int, **fields: Any) -> dict[str, Any]:
    return {"type": "webhook", "url": f"http://127.0.0.1:{port}/hook", "timeout_seconds": 2} | fields


async def configure(here: Stage, channels: dict[str, Any], **fields: Any) -> None:
    async with here.context.db.write() as session:
        await SettingRepository(session).put(SETTING, {"channels": channels} | fields, "test", here.clock.now())


async def emit(here: Stage, title: str = "Backup of shop failed", severity: str = "critical") -> None:
    async with here.context.db.write() as session:
        pending = await here.events.emit(
            session,
            type=NotificationType.BACKUP_FAILED,
            severity=Severity(severity),
            entity_type=EntityType.BACKUP_JOB,
            entity_id=uuid.uuid4(),
            title=title,
            message="the server went away",
        )
    await here.events.dispatch(pending)


async def deliveries(here: Stage) -> list[NotificationDelivery]:
    async with here.context.db.read() as session:
        return list(await OutboxRepository(session).all())


async def newest(here: Stage) -> QueueJob:
    return (await queued(here))[-1]


async def queued(here: Stage) -> list[QueueJob]:
    found = await here.context.queues.jobs(QueueName.NOTIFICATION, "waiting")
    return sorted(found, key=lambda job: job.id)


def delivery(here: Stage) -> Delivery:
    return Delivery(here.context, here.events)


def test_a_notification_reaches_its_channels_through_the_queue(tmp_path: Path) -> None:
    """A critical event goes to a signed web hook and by mail, once each."""

    async def story(here: Stage) -> None:
        with http_server() as web, smtp_server() as mail:
            letters = {
                "type": "email",
                "host": "127.0.0.1",
                "port": mail.port,
                "security": "none",
                "sender": "dg@example.com",
                "recipients": ["ops@example.com"],
            }
            await configure(here, {"web": hook(web.port, secret="a long secret"), "mail": letters})
            await emit(here)
            consumer = Consumer(
                here.context.queues.url, QueueName.NOTIFICATION, NotificationWorker(delivery(here)).process
            )
            consumer.start()
            try:
                await until(here, lambda rows: all(row.status == "sent" for row in rows))
            finally:
                await consumer.stop(5, hurry=asyncio.Event())
            assert [sent["title"] for sent in web.json] == ["Backup of shop failed"]
            assert len(mail.envelopes) == 1
            assert {row.attempts for row in await deliveries(here)} == {1}

    play(tmp_path, story)


async def until(here: Stage, enough: Any, seconds: float = 20) -> list[NotificationDelivery]:
    async with asyncio.timeout(seconds):
        while not enough(rows := await deliveries(here)):
            await asyncio.sleep(0.05)
    return rows


def test_a_job_that_comes_twice_sends_once(tmp_path: Path) -> None:
    """The queue hands the same job out twice, at once and later, and an old number, too: one message is sent."""

    async def story(here: Stage) -> None:
        with http_server() as web:
            await configure(here, {"web": hook(web.port)})
            await emit(here)
            (job,) = await queued(here)
            first, second = delivery(here), delivery(here)
            await asyncio.gather(*(one.carry_out(job.data, tries=1) for one in (first, second)))
            await first.carry_out(job.data, tries=1)
            await first.carry_out(job.data | {"number": 0}, tries=1)
            assert len(web.requests) == 1

    play(tmp_path, story)


def test_a_transient_failure_is_tried_again_and_a_refusal_is_not(tmp_path: Path) -> None:
    """503 asks for the queue's back-off, and works later; 404 is the end, with its reason in the row."""

    async def story(here: Stage) -> None:
        with http_server() as web:
            await configure(here, {"web": hook(web.port)})
            await emit(here)
            (job,) = await queued(here)
            worker = NotificationWorker(delivery(here))
            web.status = 503
            with pytest.raises(TryAgain):
                await worker.process(job)
            (row,) = await deliveries(here)
            assert (row.status, row.attempts) == ("pending", 1)
            assert "503" in str(row.error_message)
            web.status = 200
            await worker.process(job)
            (row,) = await deliveries(here)
            assert (row.status, row.attempts, row.error_message) == ("sent", 2, None)
            web.status = 404
            here.clock.advance(seconds=1)
            await emit(here, severity="warning")
            with pytest.raises(NoRetry):
                await worker.process(await newest(here))
            assert sorted(row.status for row in await deliveries(here)) == ["failed", "sent"]

    play(tmp_path, story)


def test_a_critical_message_that_was_never_taken_leaves_a_mark(tmp_path: Path) -> None:
    """After three tries the delivery failed; a warning says so, and goes to no channel, so that nothing loops."""

    async def story(here: Stage) -> None:
        await configure(here, {"web": hook(free_port())})
        await emit(here)
        (job,) = await queued(here)
        service = delivery(here)
        verdicts = [(await service.carry_out(job.data, tries=tries))[0] for tries in (1, 2, 3, 4)]
        assert verdicts == [Verdict.TRY_AGAIN, Verdict.TRY_AGAIN, Verdict.GIVEN_UP, Verdict.DONE]
        notes = await here.notifications()
        assert {note.type: note.severity for note in notes} == {"backup_failed": "critical", "system_alarm": "warning"}
        assert any("Backup of shop failed" in note.message for note in notes if note.type == "system_alarm")
        assert len(await deliveries(here)) == 1

    play(tmp_path, story)


def test_a_channel_that_is_gone_fails_its_delivery(tmp_path: Path) -> None:
    """Between event and delivery the channel was removed."""

    async def story(here: Stage) -> None:
        await configure(here, {"web": hook(free_port())})
        await emit(here, severity="warning")
        await configure(here, {})
        (job,) = await queued(here)
        verdict, reason = await delivery(here).carry_out(job.data, tries=1)
        assert verdict is Verdict.GIVEN_UP
        assert "no channel web any more" in reason

    play(tmp_path, story)


def test_a_queue_that_is_away_while_an_event_happens_loses_nothing(tmp_path: Path) -> None:
    """The queue server is gone when the event is emitted; when it is back, the reconciler enqueues the delivery."""

    async def story(here: Stage) -> None:
        with http_server() as web:
            await configure(here, {"web": hook(web.port)})
            here.server.stop()
            await emit(here)
            (row,) = await deliveries(here)
            assert row.status == "pending"
            here.server.start()
            assert await here.events.reconcile() == 0
            here.clock.advance(seconds=OWED_AFTER.total_seconds() + 1)
            assert await here.events.reconcile() == 1
            assert await here.events.reconcile() == 0
            (job,) = await queued(here)
            await delivery(here).carry_out(job.data, tries=1)
            assert len(web.requests) == 1
            here.clock.advance(hours=1)
            assert await here.events.reconcile() == 0

    play(tmp_path, story)


def test_a_delivery_that_a_crash_cut_short_is_sent_again(tmp_path: Path) -> None:
    """The service was killed while it sent: after a while the delivery is enqueued again, under a new number."""

    async def story(here: Stage) -> None:
        with http_server() as web:
            await configure(here, {"web": hook(web.port)})
            await emit(here)
            (job,) = await queued(here)
            async with here.context.db.write() as session:
                assert await OutboxRepository(session).claim(uuid.UUID(job.data["id"]), 1, here.clock.now())
            here.clock.advance(seconds=SENDING_AT_MOST.total_seconds() + 1)
            assert await here.events.reconcile() == 1
            (again,) = [entry for entry in await queued(here) if entry.data["number"] == 2]
            assert (await delivery(here).carry_out(job.data, tries=1))[1] == "nothing to do"
            await delivery(here).carry_out(again.data, tries=1)
            (row,) = await deliveries(here)
            assert (row.status, len(web.requests)) == ("sent", 1)

    play(tmp_path, story)


def test_the_reconciler_looks_past_the_ones_that_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More deliveries wait in the queue than one look takes in; one lost behind them is found all the same."""

    async def story(here: Stage) -> None:
        await configure(here, {"web": hook(free_port())})
        for number in range(5):
            await emit(here, f"event {number}")
            here.clock.advance(seconds=1)
        await here.context.queues.remove(QueueName.NOTIFICATION, (await queued(here))[-1].id)
        here.clock.advance(seconds=61)
        assert await here.events.reconcile() == 1
        here.clock.advance(days=-1)
        assert await here.events.reconcile() == 0

    monkeypatch.setattr("dataguardian.service.events.OWED_BATCH", 2)
    play(tmp_path, story)


def test_a_server_that_hangs_blocks_nobody_else(tmp_path: Path) -> None:
    """Twenty messages to a web hook that never answers; others, which came later, overtake them."""

    async def story(here: Stage) -> None:
        with misbehaving_server(hang) as dead, http_server() as web:
            channels = {"dead": hook(dead.port, timeout_seconds=4), "web": hook(web.port)}
            routes = [
                {"min_severity": "critical", "channels": ["dead"]},
                {"types": ["backup_failed"], "min_severity": "info", "channels": ["web"]},
            ]
            await configure(here, channels, routes=[routes[0]])
            for _ in range(20):
                await emit(here, "to the dead")
            await configure(here, channels, routes=[routes[1]])
            for number in range(10):
                await emit(here, f"news {number}", severity="info")
            here.clock.__class__ = RunningClock
            consumer = Consumer(
                here.context.queues.url, QueueName.NOTIFICATION, NotificationWorker(delivery(here)).process
            )
            consumer.start()
            try:
                await until(here, lambda rows: sum(row.status == "sent" for row in rows) == 10, seconds=30)
                asked = dead.fired
            finally:
                await consumer.stop(0, hurry=asyncio.Event())
            assert asked < 20  # else all five workers were busy with the dead one, again and again, for 16 seconds
            assert dead.fired >= 5
            assert len(web.requests) == 10

    play(tmp_path, story)


class RunningClock(SettableClock):
    """A set time, and a monotonic clock that runs."""

    def monotonic(self) -> float:
        return time.monotonic()


def test_a_channel_is_tested_on_request(tmp_path: Path) -> None:
    """A test message arrives, a refusal is said, and an unknown channel is named."""

    async def story(here: Stage) -> None:
        with http_server() as web:
            await configure(here, {"web": hook(web.port), "nobody": hook(free_port())})
            service = delivery(here)
            await service.test_channel("web")
            assert [sent["type"] for sent in web.json] == ["test"]
            web.status = 401
            with pytest.raises(NotifierRejectedError):
                await service.test_channel("web")
            with pytest.raises(NotifierTransientError):
                await service.test_channel("nobody")
            with pytest.raises(NotFoundError, match="other"):
                await service.test_channel("other")
            assert await here.notifications() == []

    play(tmp_path, story)


def test_the_digest_is_sent_once_a_day_by_however_many_schedulers(tmp_path: Path) -> None:
    """Two schedulers ask every minute; each morning one digest tells of the day before, also after days off."""

    async def story(here: Stage) -> None:
        with http_server() as web:
            digest = {"hour": 8, "time_zone": "Europe/Lisbon", "channels": ["web"]}
            await configure(here, {"web": hook(web.port)}, digest=digest, routes=[{"channels": []}])
            assert len(notification_loops(here.events, delivery(here))) == 2

            async def ask() -> int:
                sent = await asyncio.gather(*(delivery(here).send_digest() for _ in range(2)))
                return sum(sent)

            assert await ask() == 0
            await emit(here, "something happened")
            here.clock.advance(hours=19)
            assert await ask() == 0
            here.clock.advance(hours=2)
            assert await ask() == 1
            assert await ask() == 0
            here.clock.advance(days=3)
            assert await ask() == 1
            notes = sorted(await here.notifications(), key=lambda note: note.created_at)[1:]
            assert {note.type for note in notes} == {"daily_digest"}
            assert "1 critical" in notes[0].title
            assert "something happened" in notes[0].message
            assert "nothing happened" in notes[1].title
            assert notes[1].details["since"] == "2026-03-02T08:00:00.000Z"
            assert len(await deliveries(here)) == 2

    play(tmp_path, story)


def test_the_digest_hands_out_the_end_of_the_audit_log(tmp_path: Path) -> None:
    """Who gets the mail can prove later that nothing up to then was rewritten; a log of no lines has no end to tell."""

    async def story(here: Stage) -> None:
        with smtp_server() as mail:
            fields = {"port": mail.port, "sender": "dg@example.com", "recipients": ["ops@example.com"]}
            letters = {"type": "email", "host": "127.0.0.1", "security": "none", **fields}
            digest = {"hour": 8, "time_zone": "UTC", "channels": ["mail"]}
            await configure(here, {"mail": letters}, digest=digest)
            assert not await delivery(here).send_digest()
            here.clock.advance(days=1)
            assert await delivery(here).send_digest()
            audit = Audit(here.context)
            for name in ("one", "two"):
                await audit.tell("scrub.run", entity_name=name)
            here.clock.advance(days=1)
            assert await delivery(here).send_digest()
            for job in await queued(here):
                assert (await delivery(here).carry_out(job.data, tries=1))[0] is Verdict.DONE
            texts = [_text(envelope.content) for envelope in mail.envelopes]
            [anchor] = [line for text in texts for line in text.splitlines() if line.startswith("2:")]
            assert [anchor in text for text in texts] == [False, True]
            assert (await audit.verify(read_anchors([anchor]))).ok
            await audit.tell("scrub.run")
            assert (await audit.verify(read_anchors([anchor]))).ok
            assert not (await audit.verify(read_anchors([f"2:{'0' * 64}"]))).ok

    play(tmp_path, story)


def _text(letter: Any) -> str:
    part = message_from_bytes(letter, policy=policy.default).get_body(("plain",))
    assert part is not None
    return str(part.get_content())


def test_without_a_digest_setting_there_is_none(tmp_path: Path) -> None:
    """Nobody asked for a digest."""

    async def story(here: Stage) -> None:
        assert not await delivery(here).send_digest()

    play(tmp_path, story)


def test_channels_that_cannot_be_read_do_not_silence_the_others(tmp_path: Path) -> None:
    """A channel of an adapter that is no longer installed is left out, also of the routes; the others go on."""

    async def story(here: Stage) -> None:
        channels = {"web": hook(1), "pigeon": {"type": "pigeon"}}
        await configure(here, channels, routes=[{"min_severity": "warning", "channels": ["pigeon", "web"]}])
        async with here.context.db.read() as session:
            settings = await load_settings(session, here.context.vault)
        assert list(settings.channels) == ["web"]
        assert [route.channels for route in settings.routes] == [("web",)]
        await configure(here, channels, routes="nonsense")
        await emit(here)
        assert [row.channel for row in await deliveries(here)] == ["web"]

    play(tmp_path, story)


def test_a_notifier_with_a_defect_is_tried_again_and_then_given_up(tmp_path: Path) -> None:
    """What a notifier raises beside its contract ends like any failure; its text may be secret and stays out."""

    async def story(here: Stage) -> None:
        await configure(here, {"web": hook(1)})
        await emit(here)

        class Broken:
            def send(self, notification: object) -> None:
                raise RuntimeError("password=hunter2")

        service = Delivery(here.context, here.events, build=lambda _: Broken())  # type: ignore[arg-type,return-value]
        (job,) = await queued(here)
        verdict, reason = await service.carry_out(job.data, tries=1)
        assert verdict is Verdict.TRY_AGAIN
        assert "hunter2" not in reason
        (row,) = await deliveries(here)
        assert "RuntimeError" in str(row.error_message)

    play(tmp_path, story)
