"""The system itself: settings, queues, and the numbers of the overview."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from dataguardian import __version__
from dataguardian.api.access import refuse_limited, requires
from dataguardian.api.dependencies import Given, Paged
from dataguardian.api.errors import documented
from dataguardian.api.patience import PatientRoute
from dataguardian.api.schemas.common import Listing, listing, whole
from dataguardian.api.schemas.system import (
    CleanupIn,
    CleanupReportOut,
    CleanupStarted,
    InfoOut,
    OverviewOut,
    QueueJobOut,
    QueueOut,
    SampleOut,
    SampleReportOut,
    SecretsOut,
    SettingIn,
    SettingOut,
)
from dataguardian.domain.access import Permission
from dataguardian.queues.definitions import QueueName
from dataguardian.queues.producer import JobState

router = APIRouter(prefix="/api/system", tags=["system"], route_class=PatientRoute)

SettingKey = Annotated[str, Path(max_length=200, description="As in the list of settings")]
QueuePath = Annotated[QueueName, Path(description="The queue's name")]
QueueJobId = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9-]{1,100}$", description="The queue job's id, such as `<execution id>-<number>`")
]


@router.get("/info", dependencies=[requires(Permission.VIEW)], responses=documented())
async def get_info(services: Given) -> InfoOut:
    """Which DataGuardian this is, and what it stands on."""
    context = services.context
    return InfoOut(
        version=__version__,
        home=str(context.settings.home),
        catalogue="sqlite" if context.db.is_sqlite else "postgresql",
        queue="redis" if context.settings.redis_url else "embedded",
        timezone=context.settings.timezone,
        now=context.clock.now(),
        secrets=SecretsOut.model_validate(await services.exposure.report(), from_attributes=True),
    )


@router.get("/overview", dependencies=[requires(Permission.VIEW)], responses=documented())
async def get_overview(services: Given) -> OverviewOut:
    """How things stand, in numbers; those over all executions may be some seconds old."""
    return OverviewOut.of(await services.overview.summary())


@router.get("/settings", dependencies=[requires(Permission.VIEW, everywhere=True)], responses=documented())
async def list_settings(services: Given) -> Listing[SettingOut]:
    return whole(await services.settings.all(), SettingOut.of)


@router.get(
    "/settings/{key}", dependencies=[requires(Permission.VIEW, everywhere=True)], responses=documented(404, 422)
)
async def get_setting(services: Given, key: SettingKey) -> SettingOut:
    return SettingOut.of(await services.settings.get(key))


@router.put(
    "/settings/{key}",
    dependencies=[requires(Permission.ADMINISTER, everywhere=True)],
    responses=documented(404, 413, 415, 422),
)
async def change_setting(services: Given, key: SettingKey, body: SettingIn) -> SettingOut:
    return SettingOut.of(await services.settings.change(key, body.value))


@router.get("/queues", dependencies=[requires(Permission.VIEW)], responses=documented())
async def list_queues(services: Given) -> Listing[QueueOut]:
    """Every queue with its numbers."""
    return whole(await services.queueboard.queues(), QueueOut.of)


@router.get(
    "/queues/{queue}/jobs", dependencies=[requires(Permission.VIEW, everywhere=True)], responses=documented(422)
)
async def list_queue_jobs(
    services: Given,
    paging: Paged,
    queue: QueuePath,
    state: Annotated[JobState, Query(description="Only jobs in this state")] = "active",
) -> Listing[QueueJobOut]:
    """Jobs in a state: active ones with their progress, failed ones with the reason."""
    return listing(await services.queueboard.jobs(queue, state, paging.page, paging.limit), QueueJobOut.of)


@router.post(
    "/queues/{queue}/jobs/{job_id}/retry",
    status_code=202,
    dependencies=[requires(Permission.RUN, everywhere=True)],
    responses=documented(404, 409, 413, 415, 422),
)
async def retry_queue_job(services: Given, queue: QueuePath, job_id: QueueJobId) -> QueueJobOut:
    """Puts a failed job back; 409 when what it points at has ended for good, and must be started anew."""
    return QueueJobOut.of(await services.queueboard.retry(queue, job_id))


@router.post(
    "/queues/{queue}/pause",
    status_code=204,
    dependencies=[requires(Permission.RUN, everywhere=True)],
    responses=documented(413, 415, 422),
)
async def pause_queue(services: Given, queue: QueuePath) -> None:
    """Hands out no more jobs of this queue, on any machine, until it is resumed. Running ones go on."""
    await services.queueboard.pause(queue)


@router.post(
    "/queues/{queue}/resume",
    status_code=204,
    dependencies=[requires(Permission.RUN, everywhere=True)],
    responses=documented(413, 415, 422),
)
async def resume_queue(services: Given, queue: QueuePath) -> None:
    await services.queueboard.resume(queue)


@router.post(
    "/cleanup", status_code=202, dependencies=[requires(Permission.RUN)], responses=documented(404, 413, 415, 422)
)
async def start_cleanup(services: Given, body: CleanupIn | None = None) -> CleanupStarted:
    """Cleans up now, instead of waiting for the time that the setting `cleanup` names."""
    wanted = body or CleanupIn()
    if wanted.job_id is None:
        refuse_limited()
    return CleanupStarted(queue_job_id=await services.cleanup.run_now(wanted.job_id, force=wanted.force))


@router.get("/cleanup", dependencies=[requires(Permission.VIEW, everywhere=True)], responses=documented())
async def get_cleanup_report(services: Given) -> CleanupReportOut:
    """What the last cleanup of everything did, and what it did not dare to do."""
    return CleanupReportOut(report=await services.cleanup.last_report())


@router.post(
    "/scrub",
    status_code=202,
    dependencies=[requires(Permission.RUN, everywhere=True)],
    responses=documented(413, 415, 422),
)
async def start_sample(services: Given) -> SampleReportOut:
    """Verifies a sample of every storage's backups now, instead of on the day that the setting `scrub` names."""
    return SampleReportOut(sample=SampleOut.of(await services.sampling.run_now()))


@router.get("/scrub", dependencies=[requires(Permission.VIEW, everywhere=True)], responses=documented())
async def get_sample(services: Given) -> SampleReportOut:
    """How far this week's sample is; what each verification found is in the list of verifications."""
    sample = await services.sampling.sample()
    return SampleReportOut(sample=SampleOut.of(sample) if sample else None)
