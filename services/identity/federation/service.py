"""Who it is that another provider vouches for, and when to link.

What a provider says of an address never opens an account here. An identity is linked after proof of both: by somebody
who is signed in and has just shown their password, or by whoever reads the mail that is sent to the address, in the
browser that came back from the provider (so nobody confirms for a stranger).
"""

from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, delete, select

from identity import signin
from identity.audit import AuditTrail
from identity.domain import VOUCHED_FOR, Credentials, NewSession, UserId, secret_digest
from identity.federation.upstream import NotBelieved, Vouched
from identity.people.links import LIVES, Link, LinkSpent
from identity.people.service import NewAccount, People, checked_address
from identity.people.storage import user_identities
from identity.service import NewUser
from identity.standing import user_row
from identity.storage import exclusive, users
from servicekit.database import insert_new
from servicekit.errors import Kind, ServiceError
from servicekit.visitor import Visitor

_log = structlog.get_logger("identity.federation")


@dataclass(frozen=True, slots=True)
class Federation:
    """The use cases."""

    people: People
    names: dict[str, str]  # of the providers, by id
    audit: AuditTrail

    async def known(self, vouched: Vouched) -> Credentials | None:
        """Whose identity this is here, to be signed in; None: nobody's yet.

        Raises:
            ServiceError: ACCOUNT_NOT_USABLE: the account is switched off.
        """

        def work(tx: Connection) -> Credentials | None:
            row = tx.execute(
                select(users.c.id, users.c.hard_gen, users.c.disabled_at)
                .join(user_identities, user_identities.c.user_id == users.c.id)
                .where(user_identities.c.provider == vouched.provider, user_identities.c.subject == vouched.subject)
            ).one_or_none()
            if row is None:
                return None
            return Credentials(UserId(row.id), "", row.hard_gen, disabled=row.disabled_at is not None)

        found = await self.people.database.read(work)
        if found is not None and found.disabled:
            raise ServiceError(Kind.FORBIDDEN, "ACCOUNT_NOT_USABLE", "This account cannot be used.")
        return found

    async def link(self, vouched: Vouched, user_id: str, hard_gen: int) -> None:
        """Links an identity to somebody who is signed in and has proven it, under `hard_gen`.

        Raises:
            NotBelieved: since then everything of the account was signed out.
            ServiceError: IDENTITY_TAKEN: it is another account's.
        """

        def work(tx: Connection) -> bool:
            user = user_row(tx, user_id)
            if user is None or user.disabled_at is not None or user.hard_gen != hard_gen:
                raise NotBelieved("the account changed meanwhile")
            return self._insert(tx, vouched, user_id)

        if not await self.people.database.run(work):
            raise ServiceError(Kind.CONFLICT, "IDENTITY_TAKEN", "It is connected to an account already.")
        _log.info("identity_linked", user_id=user_id, provider=vouched.provider)

    async def unlink(self, user_id: str, provider: str, subject: str) -> None:
        """Takes a way of signing in away from somebody who has just proven who they are and can still come in.

        Raises:
            ServiceError: LAST_WAY_IN: there is no password; NO_SUCH_IDENTITY, also for another person's.
        """

        def work(tx: Connection) -> None:
            row = tx.execute(exclusive(select(users.c.password_hash).where(users.c.id == user_id))).one()
            if not row.password_hash:
                detail = "You have no password: without this you could not sign in any more. Get a password first."
                raise ServiceError(Kind.CONFLICT, "LAST_WAY_IN", detail)
            theirs = (user_identities.c.provider == provider) & (user_identities.c.subject == subject)
            gone = delete(user_identities).where(theirs, user_identities.c.user_id == user_id)
            if tx.execute(gone.returning(user_identities.c.user_id)).one_or_none() is None:
                raise ServiceError(Kind.NOT_FOUND, "NO_SUCH_IDENTITY", "It is not connected to your account.")
            self.audit.write(tx, user_id, "IDENTITY_UNLINKED", "user", user_id, provider=provider)

        await self.people.database.run(work)
        _log.info("identity_unlinked", user_id=user_id, provider=provider)

    async def ask_for_proof(self, vouched: Vouched, browser: str, flow: str = "") -> None:
        """Mails a link that proves the address, good in this browser alone; `flow` is what waits for it.

        Raises:
            ServiceError: EMAIL_NOT_VERIFIED: the provider does not say that it has seen to the address.
        """
        if not vouched.email:
            detail = "The other provider has not confirmed an e-mail address of yours. Confirm one there first."
            raise ServiceError(Kind.FORBIDDEN, "EMAIL_NOT_VERIFIED", detail)
        self.people.require_mail()
        address = checked_address(vouched.email)
        about = {
            "provider": vouched.provider,
            "subject": vouched.subject,
            "name": vouched.name or address.partition("@")[0],
            "browser": secret_digest(browser),
            "flow": flow,
        }

        def work(tx: Connection) -> None:
            # Bound to the account as it is now: whatever signs out everywhere ends the link, too.
            account = select(users.c.id, users.c.hard_gen).where(users.c.email == address)
            row = tx.execute(account).one_or_none()
            user_id, hard_gen = (None, None) if row is None else (row.id, row.hard_gen)
            link = Link("vouch", address, user_id, hard_gen, about)
            secret = self.people.links.make(tx, link)
            name = self.names[vouched.provider]
            self.people.post.hand_in(tx, "vouch", address, life=LIVES["vouch"], link=secret, provider=name)

        await self.people.database.run(work)
        self.people.post.handed_in.set()

    async def prove(
        self, secret: str, browser: str, visitor: Visitor, *, client_id: str = "", previous: str | None = None
    ) -> NewAccount:
        """Links the identity to the account with the proven address, or begins one, and signs the person in.

        Raises:
            LinkSpent: it was used, is too old, is another browser's, or the account cannot be used.
        """

        def work(tx: Connection) -> NewAccount:
            waiting = self.people.links.look(tx, secret, "vouch")
            if waiting.about["browser"] != secret_digest(browser):
                raise LinkSpent
            # The account before its link: that is the order of locks.
            row = tx.execute(exclusive(select(users).where(users.c.email == waiting.email))).one_or_none()
            link = self.people.links.spend(tx, secret, "vouch")
            if ((None, None) if row is None else (row.id, row.hard_gen)) != (link.user_id, link.hard_gen):
                raise LinkSpent
            if row is None:
                self.people.accounts.add_user(tx, NewUser(link.email, link.about["name"], ""))
                row = tx.execute(select(users).where(users.c.email == link.email)).one()
            vouched = Vouched(link.about["provider"], link.about["subject"], link.email, link.about["name"])
            if row.disabled_at is not None or not self._insert(tx, vouched, row.id):
                raise LinkSpent
            return NewAccount(
                row.id, row.hard_gen, self._opened(tx, row.id, row.hard_gen, visitor, client_id, previous)
            )

        made = await self.people.database.run(work)
        _log.info("identity_linked_by_mail", user_id=made.user_id)
        return made

    def _opened(
        self, tx: Connection, user_id: str, hard_gen: int, visitor: Visitor, client_id: str, previous: str | None
    ) -> NewSession:
        proven = Credentials(UserId(user_id), "", hard_gen, disabled=False)
        return signin.open_session(
            tx, self.people.issuer, proven, previous, visitor=visitor, client_id=client_id, amr=VOUCHED_FOR
        )

    def _insert(self, tx: Connection, vouched: Vouched, user_id: str) -> bool:
        return insert_new(
            tx,
            user_identities,
            {
                "provider": vouched.provider,
                "subject": vouched.subject,
                "user_id": user_id,
                "shown_as": vouched.email or vouched.name or vouched.subject,
                "linked_at": self.people.database.now(tx),
            },
        )
