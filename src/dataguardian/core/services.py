"""Every service of one process, as bootstrap builds them and as the API and the workers are given them."""

from __future__ import annotations

from dataclasses import dataclass

from dataguardian.core.access.known import Known
from dataguardian.core.access.passwords import Passwords
from dataguardian.core.access.sessions import Sessions
from dataguardian.core.access.setup import Setup
from dataguardian.core.access.tokens import Tokens
from dataguardian.core.access.users import Users
from dataguardian.core.acting import current_limit
from dataguardian.core.audit import Audit
from dataguardian.core.cleanup import Cleanup
from dataguardian.core.context import Context
from dataguardian.core.definitions import Datasources, Jobs, StorageLocations
from dataguardian.core.delivery import Delivery
from dataguardian.core.events import Events
from dataguardian.core.executions import Executions
from dataguardian.core.exposure import Exposure
from dataguardian.core.health import Health
from dataguardian.core.history import History
from dataguardian.core.inbox import Inbox
from dataguardian.core.keyproofs import KeyProofs
from dataguardian.core.overview import Overview
from dataguardian.core.queueboard import QueueBoard
from dataguardian.core.recovery import Recovery
from dataguardian.core.refusals import Refusals
from dataguardian.core.sampling import Sampling
from dataguardian.core.scheduling import Scheduler
from dataguardian.core.systemsettings import SystemSettings
from dataguardian.core.work import Work


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
