"""Where a storage is, in the few words of a list's column."""

from __future__ import annotations

import pytest

from dataguardian.cli.look import NOTHING
from dataguardian.cli.storage import place_of
from dataguardian.domain.urls import parse_url
from dataguardian.service.secrets import revealed
from dataguardian.storage.registry import STORAGES, storage_config

PLACES = {
    "file:///mnt/nas/backups": "/mnt/nas/backups",
    "s3://KEY:SECRET@vault/shop?region=eu-west-1": "vault/shop",
    "s3://KEY:SECRET@vault?endpoint=https://s3.example.org:9000": "s3.example.org:9000/vault",
    "minio://KEY:SECRET@minio.lan:9000/vault/a/b?use_ssl=false": "minio.lan:9000/vault/a/b",
    "b2://KEY:SECRET@vault/shop": "api.backblazeb2.com/vault/shop",
    "sftp://KEY:SECRET@nas.example.org:2222/srv/backups": "nas.example.org:2222/srv/backups",
    "sftp://KEY:SECRET@nas.example.org/~/backups": "nas.example.org:22/~/backups",
    "rclone://drive/shop/daily": "drive:shop/daily",
    "rclone://drive": "drive:",
}


@pytest.mark.parametrize("address", PLACES)
def test_host_and_folder_without_credentials(address: str) -> None:
    """Two buckets of one name on two hosts are told apart, and nothing of who signs in is shown."""
    shown = place_of(revealed(storage_config(parse_url(address))))
    assert shown == PLACES[address]
    assert "KEY" not in shown
    assert "SECRET" not in shown


def test_every_storage_has_a_place() -> None:
    """No adapter of ours is left out of the list above."""
    assert {parse_url(address).scheme for address in PLACES} >= {
        adapter.schemes[0] for adapter in STORAGES.adapters.values()
    }


def test_an_account_within_an_endpoint_is_not_shown() -> None:
    """Whatever an adapter of another package lets into an endpoint, only the host of it is shown."""
    assert place_of({"endpoint": "https://KEY:SEC/RET@host.example.org:1/x", "bucket": "b"}) == "host.example.org:1/b"
    assert place_of({}) == NOTHING
