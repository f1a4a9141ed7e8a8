"""Token exchange (RFC 8693) for clients, clients that are always asked about, and how a person signed in."""

import sqlalchemy as sa
from alembic import op

revision = "0006_exchange"
down_revision = "0005_device"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forwards. There is no way back: a step that is wrong is mended by a later step."""
    op.add_column("clients", sa.Column("exchange_scopes", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("clients", sa.Column("asks_always", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("login_sessions", sa.Column("amr", sa.Text(), nullable=False, server_default="pwd"))
