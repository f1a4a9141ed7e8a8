"""Inboxes with a sequence of their own, the mails about them, and what tells a repeated event."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forwards. There is no way back: a step that is wrong is mended by a later step."""
    op.create_table(
        "people",
        sa.Column("person", sa.Text, nullable=False),
        sa.Column("last_sequence", sa.BigInteger, nullable=False),
        sa.Column("unread", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("person", name="pk_people"),
        sa.CheckConstraint("unread >= 0 AND unread <= last_sequence", name="ck_people_unread"),
    )
    op.create_table(
        "notifications",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("person", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("about", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("read_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_notifications"),
        sa.ForeignKeyConstraint(["person"], ["people.person"], name="fk_notifications_person"),
        sa.UniqueConstraint("person", "sequence", name="uq_notifications_person_sequence"),
        sa.CheckConstraint("category IN ('orders', 'security')", name="ck_notifications_category"),
    )
    op.create_table(
        "preferences",
        sa.Column("person", sa.Text, nullable=False),
        sa.Column("order_emails", sa.Boolean, nullable=False),
        sa.Column("security_emails", sa.Boolean, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("person", name="pk_preferences"),
    )
    op.create_table(
        "mails",
        sa.Column("notification", sa.Text, nullable=False),
        sa.Column("person", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("queued_at", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("claim", sa.Text, nullable=False),
        sa.Column("settled_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("notification", name="pk_mails"),
        sa.ForeignKeyConstraint(["notification"], ["notifications.id"], name="fk_mails_notification"),
        sa.CheckConstraint("state IN ('queued', 'sent', 'refused', 'expired', 'dropped')", name="ck_mails_state"),
    )
    queued = sa.text("state = 'queued'")
    op.create_index("ix_mails_due_at", "mails", ["due_at"], sqlite_where=queued, postgresql_where=queued)
    op.create_index("ix_mails_state_settled_at", "mails", ["state", "settled_at"])
    op.create_table(
        "inbox",
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("reader", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("handled_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("event_id", "stream", "reader", name="pk_inbox"),
    )
    op.create_index("ix_inbox_stream_reader_position", "inbox", ["stream", "reader", "position"])
    op.create_table(
        "inbox_floors",
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("reader", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("occurred_before", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("stream", "reader", name="pk_inbox_floors"),
    )
