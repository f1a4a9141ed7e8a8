"""What alembic runs; the connection and the lock are servicekit's."""

import identity.audit
import identity.people.storage  # noqa: F401
from identity.storage import metadata
from servicekit.migrations import run_from_env

run_from_env(metadata)
