"""Devices that wait for a person (RFC 8628), and the wrong user codes that people entered."""

import sqlalchemy as sa
from alembic import op

revision = "0005_device"
down_revision = "0003_events"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forwards. There is no way back: a step that is wrong is mended by a later step."""
    op.create_table(
        "device_codes",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("user_code_hash", sa.Text(), nullable=False),
        sa.Column("grant_id", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("resources", sa.JSON(), nullable=False),
        sa.Column("client_hard_gen", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("poll_interval", sa.BigInteger(), nullable=False),
        sa.Column("polled_at", sa.BigInteger(), nullable=False),
        sa.Column("decided_at", sa.BigInteger(), nullable=True),
        sa.Column("allowed", sa.Boolean(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("user_hard_gen", sa.BigInteger(), nullable=True),
        sa.Column("auth_time", sa.BigInteger(), nullable=True),
        sa.Column("consumed_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["client_id"], ["clients.id"], name=op.f("fk_device_codes_client_id")),
        sa.ForeignKeyConstraint(["session_id"], ["login_sessions.id"], name=op.f("fk_device_codes_session_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_device_codes_user_id")),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_device_codes")),
        sa.UniqueConstraint("user_code_hash", name=op.f("uq_device_codes_user_code_hash")),
    )
    op.create_index(op.f("ix_device_codes_expires_at"), "device_codes", ["expires_at"], unique=False)
    op.create_index(op.f("ix_device_codes_session_id"), "device_codes", ["session_id"], unique=False)
    op.create_table(
        "wrong_user_codes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_wrong_user_codes_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_wrong_user_codes")),
    )
    op.create_index(op.f("ix_wrong_user_codes_at"), "wrong_user_codes", ["at"], unique=False)
    op.create_index("ix_wrong_user_codes_user_id_at", "wrong_user_codes", ["user_id", "at"], unique=False)
