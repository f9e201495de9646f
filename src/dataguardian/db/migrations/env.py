"""What Alembic runs. The transaction, its locks and the connection belong to `db/migrate.py`."""

from alembic import context
from sqlalchemy import MetaData

from dataguardian.db.models import NAMING_CONVENTION

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=MetaData(naming_convention=NAMING_CONVENTION),
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
