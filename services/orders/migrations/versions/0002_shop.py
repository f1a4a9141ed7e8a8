"""A catalogue with stock, prices in orders, more states, versions for etags, and the outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_STATUSES = "status IN ('placed', 'confirmed', 'shipped', 'delivered', 'cancelled')"
_CHECK_OF_0001 = "ck_orders_ck_orders_status"  # the naming convention came on top of a name that followed it
_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Forwards. Orders that exist keep what they are: without prices, in their first version."""
    # SQLite changes no constraint: there the table is copied. Told what it looks like, because SQLite does not tell.
    with op.batch_alter_table("orders", copy_from=_orders_of_0001()) as orders:
        orders.drop_constraint(op.f(_CHECK_OF_0001), type_="check")
        orders.create_check_constraint(op.f("ck_orders_status"), _STATUSES)
        orders.add_column(sa.Column("currency", sa.Text))
        orders.add_column(sa.Column("tracking_number", sa.Text, nullable=False, server_default=sa.text("''")))
        orders.add_column(sa.Column("version", sa.BigInteger, nullable=False, server_default="1"))
    op.create_index("ix_orders_created_at_id", "orders", ["created_at", "id"])
    op.create_index("ix_orders_owner_updated_at", "orders", ["owner", "updated_at"])
    op.create_table(
        "products",
        sa.Column("sku", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("price", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("stock", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("sku", name="pk_products"),
        sa.CheckConstraint("stock >= 0", name=op.f("ck_products_stock")),
    )
    _outbox()


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", _Id, nullable=False, autoincrement=True),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("aggregate", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.UniqueConstraint("position", name="uq_outbox_position"),
        sa.UniqueConstraint("aggregate", "sequence", name="uq_outbox_aggregate_sequence"),
    )
    unplaced = sa.text("position IS NULL")
    op.create_index("ix_outbox_unplaced", "outbox", ["id"], postgresql_where=unplaced, sqlite_where=unplaced)
    op.create_table(
        "outbox_sequences",
        sa.Column("aggregate", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("aggregate", name="pk_outbox_sequences"),
    )
    op.create_table(
        "outbox_state",
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("head", sa.BigInteger, nullable=False),
        sa.Column("settled", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("stream", name="pk_outbox_state"),
    )


def _orders_of_0001() -> sa.Table:
    return sa.Table(
        "orders",
        sa.MetaData(),
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
        sa.CheckConstraint("status IN ('placed', 'cancelled')", name=_CHECK_OF_0001),
        sa.Index("ix_orders_owner_created_at_id", "owner", "created_at", "id"),
    )
