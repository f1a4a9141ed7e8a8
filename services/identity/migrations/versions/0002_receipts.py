"""Who verifies, and who has applied what."""

import sqlalchemy as sa
from alembic import op

revision = "0002_receipts"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forwards. There is no way back: a step that is wrong is mended by a later step."""
    op.create_table(
        "verifiers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("audience", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("log", sa.Text(), nullable=False),
        sa.Column("pos", sa.BigInteger(), nullable=False),
        sa.Column("freshness", sa.Text(), nullable=False),
        sa.Column("reported_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verifiers")),
    )
    op.create_index(op.f("ix_verifiers_reported_at"), "verifiers", ["reported_at"], unique=False)
    op.create_table(
        "receipts",
        sa.Column("log", sa.Text(), nullable=False),
        sa.Column("pos", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("verifier_id", sa.Text(), nullable=False),
        sa.Column("delay_ms", sa.Float(), nullable=False),
        sa.Column("reported_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("log", "pos", "verifier_id", name=op.f("pk_receipts")),
    )
    op.create_index(op.f("ix_receipts_reported_at"), "receipts", ["reported_at"], unique=False)
