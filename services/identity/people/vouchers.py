"""Who else vouches for somebody: accounts at other providers, linked after proof of both."""

from dataclasses import dataclass

from sqlalchemy import Connection, select

from identity.people.storage import user_identities


@dataclass(frozen=True, slots=True)
class Voucher:
    """An account at another provider that can be signed in with. `linked_at` in ms."""

    provider: str
    subject: str
    shown_as: str
    linked_at: int


def vouchers_of(tx: Connection, user_id: str) -> list[Voucher]:
    """Who else vouches for this person, in a stable order."""
    query = select(user_identities).where(user_identities.c.user_id == user_id)
    rows = tx.execute(query.order_by(user_identities.c.provider, user_identities.c.subject))
    return [Voucher(row.provider, row.subject, row.shown_as, row.linked_at) for row in rows]
