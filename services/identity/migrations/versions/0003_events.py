"""What is told on `identity.events`; what a login session looks like to its person."""

import sqlalchemy as sa
from alembic import op

revision = "0003_events"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forwards. There is no way back: a step that is wrong is mended by a later step."""
    op.add_column("login_sessions", sa.Column("user_agent", sa.Text(), server_default="", nullable=False))
    op.add_column("login_sessions", sa.Column("network", sa.Text(), server_default="", nullable=False))
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("aggregate", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("aggregate", "sequence", name=op.f("uq_outbox_aggregate_sequence")),
        sa.UniqueConstraint("position", name=op.f("uq_outbox_position")),
    )
    op.create_index(
        "ix_outbox_unplaced",
        "outbox",
        ["id"],
        postgresql_where=sa.text("position IS NULL"),
        sqlite_where=sa.text("position IS NULL"),
    )
    op.create_table(
        "outbox_sequences",
        sa.Column("aggregate", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("aggregate", name=op.f("pk_outbox_sequences")),
    )
    op.create_table(
        "outbox_state",
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("head", sa.BigInteger(), nullable=False),
        sa.Column("settled", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("stream", name=op.f("pk_outbox_state")),
    )
