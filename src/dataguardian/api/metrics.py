"""Numbers for Prometheus. Each scrape has a registry of its own: nothing leaks in, nothing stays behind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from dataguardian import __version__
from dataguardian.domain.states import DatasourceStatus, StorageStatus
from dataguardian.service.overview import Measured

METRICS_DOCUMENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus's text format",
        "content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}},
    }
}

_GIGABYTE = 10**9
_JOB = ("job_id", "job")
_DATASOURCE = ("datasource_id", "datasource")
_STORAGE = ("storage_location_id", "storage_location")


def rendered(measured: Measured) -> bytes:
    """Returns the numbers in the text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(measured))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, measured: Measured) -> None:
        self._measured = measured

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("dataguardian", "This DataGuardian", value={"version": __version__})
        yield from self._jobs()
        yield from self._datasources()
        yield from self._storages()
        yield from self._queues()
        yield _gauge(
            "notifications_unread",
            "Notifications that nobody has read",
            (),
            [((), self._measured.unread_notifications)],
        )

    def _jobs(self) -> Iterator[Metric]:
        jobs = [((str(job.job_id), job.name), job) for job in self._measured.jobs]
        numbers = {
            "job_enabled": ("1 when the job is switched on", [(key, job.enabled) for key, job in jobs]),
            "job_last_success_timestamp_seconds": (
                "When the last good backup ended",
                [(key, _seconds(job.last_success_at)) for key, job in jobs],
            ),
            "job_last_success_duration_seconds": (
                "How long the last good backup took",
                [(key, job.duration_seconds) for key, job in jobs],
            ),
            "job_last_success_size_bytes": ("What it read", [(key, job.size_bytes) for key, job in jobs]),
            "job_last_success_stored_bytes": (
                "What it stored",
                [(key, job.compressed_size_bytes) for key, job in jobs],
            ),
            "job_failures": (
                "Failed executions that the catalogue still knows",
                [(key, job.failures) for key, job in jobs],
            ),
            "job_failures_in_row": (
                "Failed executions since the last good backup",
                [(key, job.failures_in_row) for key, job in jobs],
            ),
        }
        yield from (_gauge(name, text, _JOB, samples) for name, (text, samples) in numbers.items())

    def _datasources(self) -> Iterator[Metric]:
        samples = [
            ((str(row.id), row.name, status.value), row.status is status)
            for row in self._measured.datasources
            for status in DatasourceStatus
        ]
        yield _gauge("datasource_status", "1 for the state that it is in", (*_DATASOURCE, "status"), samples)

    def _storages(self) -> Iterator[Metric]:
        rows = [((str(entry.location.id), entry.location.name), entry) for entry in self._measured.storages]
        states = [
            ((*key, status.value), entry.location.status is status) for key, entry in rows for status in StorageStatus
        ]
        free = [(key, _bytes(entry.location.available_space_gb)) for key, entry in rows]
        yield _gauge("storage_status", "1 for the state that it is in", (*_STORAGE, "status"), states)
        yield _gauge("storage_free_bytes", "Free space, as of the last check", _STORAGE, free)
        yield _gauge("storage_backups", "Backups in it", _STORAGE, [(key, entry.stored.backups) for key, entry in rows])
        stored = [(key, entry.stored.size_bytes) for key, entry in rows]
        yield _gauge("storage_stored_bytes", "What its backups take", _STORAGE, stored)

    def _queues(self) -> Iterator[Metric]:
        queues = self._measured.queues
        yield _gauge("queue_up", "1 when the queue server answers", (), [((), queues is not None)])
        samples = [
            ((name.value, state), count) for name, counts in (queues or {}).items() for state, count in counts.items()
        ]
        yield _gauge("queue_jobs", "Jobs in a queue, by state", ("queue", "state"), samples)


def _gauge(name: str, text: str, labels: tuple[str, ...], samples: Any) -> Metric:  # noqa: ANN401 -- (labels, number) pairs
    """Returns a family; what is unknown (None) has no sample, so that nobody takes it for a zero."""
    family = GaugeMetricFamily(f"dataguardian_{name}", text, labels=labels)
    for key, value in samples:
        if value is not None:
            family.add_metric(key, float(value))
    return family


def _seconds(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment is not None else None


def _bytes(gigabytes: float | None) -> float | None:
    return gigabytes * _GIGABYTE if gigabytes is not None else None
