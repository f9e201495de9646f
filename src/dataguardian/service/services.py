"""Every service of one process, as bootstrap builds them and as the API and the workers are given them."""

from __future__ import annotations

from dataclasses import dataclass

from dataguardian.service.access.known import Known
from dataguardian.service.access.passwords import Passwords
from dataguardian.service.access.sessions import Sessions
from dataguardian.service.access.setup import Setup
from dataguardian.service.access.tokens import Tokens
from dataguardian.service.access.users import Users
from dataguardian.service.acting import current_limit
from dataguardian.service.audit import Audit
from dataguardian.service.cleanup import Cleanup
from dataguardian.service.context import Context
from dataguardian.service.definitions import Datasources, Jobs, StorageLocations
from dataguardian.service.delivery import Delivery
from dataguardian.service.events import Events
from dataguardian.service.executions import Executions
from dataguardian.service.exposure import Exposure
from dataguardian.service.health import Health
from dataguardian.service.history import History
from dataguardian.service.inbox import Inbox
from dataguardian.service.keyproofs import KeyProofs
from dataguardian.service.overview import Overview
from dataguardian.service.queueboard import QueueBoard
from dataguardian.service.recovery import Recovery
from dataguardian.service.refusals import Refusals
from dataguardian.service.sampling import Sampling
from dataguardian.service.scheduling import Scheduler
from dataguardian.service.systemsettings import SystemSettings
from dataguardian.service.work import Work


@dataclass(frozen=True)
class Services:
    context: Context
    audit: Audit
    refusals: Refusals
    events: Events
    executions: Executions
    scheduler: Scheduler
    datasources: Datasources
    storages: StorageLocations
    jobs: Jobs
    work: Work
    health: Health
    cleanup: Cleanup
    sampling: Sampling
    delivery: Delivery
    history: History
    inbox: Inbox
    overview: Overview
    queueboard: QueueBoard
    settings: SystemSettings
    exposure: Exposure
    tokens: Tokens
    users: Users
    sessions: Sessions
    setup: Setup
    proofs: KeyProofs
    recovery: Recovery


def assemble(context: Context) -> Services:
    """Returns the services that stand on one context."""
    context.db.limit = current_limit
    audit, events = Audit(context), Events(context)
    executions = Executions(context, events)
    work = Work(context, events)
    proofs = KeyProofs(context, events)
    known, passwords = Known(context.clock), Passwords()
    users, refusals = Users(context, passwords, known), Refusals(context, audit)
    return Services(
        context=context,
        audit=audit,
        refusals=refusals,
        events=events,
        executions=executions,
        scheduler=Scheduler(context, executions, events),
        datasources=Datasources(context),
        storages=StorageLocations(context),
        jobs=Jobs(context),
        work=work,
        health=Health(context, events),
        cleanup=Cleanup(context, events),
        sampling=Sampling(context, events, work),
        delivery=Delivery(context, events),
        history=History(context),
        inbox=Inbox(context),
        overview=Overview(context),
        queueboard=QueueBoard(context),
        settings=SystemSettings(context),
        exposure=Exposure(context, events),
        tokens=Tokens(context.db, context.clock, known),
        users=users,
        sessions=Sessions(context, passwords, known, refusals),
        setup=Setup(context, users),
        proofs=proofs,
        recovery=Recovery(context, events, proofs),
    )
