"""Orders, with what makes an idempotency key hold."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forwards. There is no way back: a step that is wrong is mended by a later step."""
    op.create_table(
        "orders",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("items", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_orders"),
        sa.UniqueConstraint("owner", "idempotency_key", name="uq_orders_owner_idempotency_key"),
        sa.CheckConstraint("status IN ('placed', 'cancelled')", name="ck_orders_status"),
    )
    op.create_index("ix_orders_owner_created_at_id", "orders", ["owner", "created_at", "id"])
