"""What a refused write broke, on both databases."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from sqlalchemy.exc import IntegrityError

from dataguardian.db.broken import Rule, broken_rule
from dataguardian.db.models import Base, StorageLocation
from dataguardian.db.session import Database
from tests.db import rows
from tests.db.conftest import Play


def _named(storage: StorageLocation) -> Base:
    return rows.storage(name=storage.name)


def _default(_: StorageLocation) -> Base:
    return rows.storage(name="another uq_datasources_name", is_default=True)


def _nowhere(storage: StorageLocation) -> Base:
    return rows.job(rows.datasource(), storage, datasource_id=uuid.uuid4())


@pytest.mark.parametrize(("made", "rule"), [(_named, Rule.NAME), (_default, Rule.DEFAULT), (_nowhere, Rule.REFERENCE)])
def test_a_refused_write_says_which_rule(play: Play, made: Callable[[StorageLocation], Base], rule: Rule) -> None:
    """A name that is taken, a second default and a datasource that is gone are three things."""

    async def story(database: Database) -> None:
        async with database.write() as session:
            storage = rows.storage(name="disk", is_default=True)
            session.add(storage)
        async with database.write() as session:
            session.add(made(storage))
            with pytest.raises(IntegrityError) as caught:
                await session.flush()
            await session.rollback()
        assert broken_rule(caught.value) is rule

    play(story)
