"""Brings a database to the newest schema, once, however many processes start at the same moment.

Each service keeps its steps in `<service>/migrations/versions`; its `env.py` is two lines:

    from servicekit import migrations
    migrations.run_from_env(storage.metadata)
"""

import zlib
from typing import cast

from alembic import command, context
from alembic.config import Config
from sqlalchemy import Connection, MetaData, text

from servicekit.database import Database


def migrate(url: str, package: str) -> None:
    """Applies the steps of `<package>.migrations` that this database lacks, all in one transaction.

    Whoever comes second waits: PostgreSQL by an advisory lock, SQLite by BEGIN IMMEDIATE.

    Raises:
        ServiceError: DATABASE_UNAVAILABLE.
    """
    # One connection, and patience: another process may be at a long step.
    database = Database(url, pool_size=1, statement_timeout=60.0)
    try:
        database.run_sync(lambda tx: upgrade(tx, package))
    finally:
        database.engine.dispose()


def upgrade(tx: Connection, package: str) -> None:
    """Like `migrate`, in the caller's transaction."""
    if tx.dialect.name == "postgresql":
        tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": zlib.crc32(package.encode())})
    config = Config()
    config.set_main_option("script_location", f"{package}:migrations")
    config.attributes["connection"] = tx
    command.upgrade(config, "head")


def run_from_env(metadata: MetaData) -> None:
    """What `env.py` calls: runs the steps on the connection that `upgrade` holds.

    Raises:
        RuntimeError: alembic was started by hand. `python -m <service> migrate` does it under the lock.
    """
    connection = cast("Connection | None", context.config.attributes.get("connection"))
    if connection is None:
        raise RuntimeError("start migrations through servicekit.migrations.migrate")
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()
