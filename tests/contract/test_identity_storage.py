"""Identity's migrations make exactly the tables that its code declares, on SQLite and on PostgreSQL."""

from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import identity.audit
import identity.people.storage  # noqa: F401  (these declare tables in the same metadata)
from identity.storage import metadata
from servicekit.database import Database
from servicekit.migrations import migrate


def test_the_steps_make_what_the_code_declares(database_url: str) -> None:
    migrate(database_url, "identity")
    database = Database(database_url)

    def differences(tx: Any) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(tx), metadata))

    try:
        assert database.run_sync(differences) == []
    finally:
        database.engine.dispose()
