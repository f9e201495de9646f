"""`dataguardian scrub`: the weekly sample of verifications."""

from __future__ import annotations

from typing import Annotated

import typer

from dataguardian.cli import look, output
from dataguardian.cli.client import Document, ServiceUrl, connect
from dataguardian.cli.credentials import TokenFile
from dataguardian.cli.options import Json
from dataguardian.cli.things import STORAGE, names

PATH = "/api/system/scrub"
SETTING_PATH = "/api/system/settings/scrub"


def scrub(
    *,
    now: Annotated[bool, typer.Option("--now", help="Begin a sample now, whatever the day.")] = False,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Show how far the weekly sample of stored backups is that the service verifies, or begin one now."""
    with connect(url, token_file) as client:
        told = client.post(PATH) if now else client.get(PATH)
        if json:
            output.show_json(told)
            return
        setting = client.get(SETTING_PATH)["value"]
        _show(told["sample"], setting, names(client, STORAGE))


def _show(sample: Document | None, setting: Document, storages: dict[str, str]) -> None:
    share = f"{setting['backups']} backups" if setting.get("backups") else f"{setting['percent']:g} % of the backups"
    when = f"{setting['weekday']}s from {setting['hour']:02d}:00, {share} of each storage location"
    if sample is not None:
        state = "done" if sample["done"] else "going on"
        begun = {"last": f"{look.moment(sample['since'])}, {state}"} if sample["storage_locations"] else {}
    else:
        begun = {}
    fields = {"schedule": when if setting["enabled"] else "switched off", **begun}
    output.show_fields("verification of stored backups", fields, style="bold")
    rows = [_row(entry, storages) for entry in (sample or {}).get("storage_locations", [])]
    if rows:
        columns = ["STORAGE", "PLANNED", "VERIFIED", "ACTIVE", "NOT CHECKED"]
        look.show_table(columns, rows, right=columns[1:])


def _row(entry: Document, storages: dict[str, str]) -> list[str]:
    figures = [str(entry[key]) for key in ("planned", "verified", "active", "failed")]
    return [storages.get(entry["storage_location_id"], "(removed)"), *figures]
