"""How recent the sign-in must be that lets a device in (step-up, RFC 9470)."""

import sqlalchemy as sa
from alembic import op

revision = "0009_device_sign_in"
down_revision = "0008_audit"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forwards. Devices that wait now asked for no recent sign-in."""
    op.add_column(
        "device_codes", sa.Column("signed_in_since", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
    )
