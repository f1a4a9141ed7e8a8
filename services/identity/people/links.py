"""Links in mails: a secret that proves who reads an address, and works once.

The secret is 256 random bits and stored as a digest. Following a link only shows a form, because programs that look
through mail follow links too; the form's POST spends it, in one atomic step, together with what it is for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from sqlalchemy import Connection, insert, select, update

from identity.domain import Entropy, new_secret, secret_digest
from identity.people.storage import mail_links
from servicekit.errors import Kind, ServiceError

Purpose = Literal["signup", "reset", "verify", "vouch"]

# Seconds. A reset link is a key to an account that exists; the others wait for somebody to see their mail.
LIVES: Mapping[Purpose, int] = MappingProxyType({"signup": 86_400, "reset": 3_600, "verify": 86_400, "vouch": 3_600})


class LinkSpent(ServiceError):
    """The link was used, is too old, or never was one of ours. One answer for all three."""

    def __init__(self) -> None:
        detail = "This link has been used already, or is too old. Ask for a new one where you asked for this one."
        super().__init__(Kind.GONE, "LINK_SPENT", detail)


@dataclass(frozen=True, slots=True)
class Link:
    """What a link proves, and what for."""

    purpose: Purpose
    email: str
    user_id: str | None
    hard_gen: int | None
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Links:
    """Makes, shows and spends links."""

    now: Callable[[Connection], int]
    entropy: Entropy

    def make(self, tx: Connection, link: Link) -> str:
        """The secret of a new link, of which there is no other copy."""
        secret = new_secret(self.entropy)
        now = self.now(tx)
        tx.execute(
            insert(mail_links).values(
                hash=secret_digest(secret),
                purpose=link.purpose,
                email=link.email,
                user_id=link.user_id,
                hard_gen=link.hard_gen,
                about=dict(link.about),
                created_at=now,
                expires_at=now + LIVES[link.purpose] * 1000,
            )
        )
        return secret

    def look(self, tx: Connection, secret: str, purpose: Purpose) -> Link:
        """What a living link proves, without spending it.

        Raises:
            LinkSpent: there is no such link any more.
        """
        alive = (
            mail_links.c.hash == secret_digest(secret),
            mail_links.c.purpose == purpose,
            mail_links.c.consumed_at.is_(None),
            mail_links.c.expires_at > self.now(tx),
        )
        return _link(tx.execute(select(mail_links).where(*alive)).one_or_none())

    def spend(self, tx: Connection, secret: str, purpose: Purpose) -> Link:
        """Like `look`, and nobody else gets it: of any number at once, one.

        Raises:
            LinkSpent: there is no such link any more.
        """
        now = self.now(tx)
        alive = (
            mail_links.c.hash == secret_digest(secret),
            mail_links.c.purpose == purpose,
            mail_links.c.consumed_at.is_(None),
            mail_links.c.expires_at > now,
        )
        spend = update(mail_links).where(*alive).values(consumed_at=now).returning(*mail_links.c)
        return _link(tx.execute(spend).one_or_none())


def _link(row: Any) -> Link:
    if row is None:
        raise LinkSpent
    return Link(row.purpose, row.email, row.user_id, row.hard_gen, row.about)
