"""The use cases of people's own accounts: sign-up, reset, proof of an address.

Whoever asks for mail learns nothing: a known and an unknown address take the same steps (one link, one mail), and the
same words. Only who reads the mail learns which it was.

An account begins when its address has been proven: nobody can sit on an address that is not theirs, and nobody's
password waits in an account that another person will one day prove to be theirs.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import structlog
from sqlalchemy import Connection, exists, select, update

from contracts.identity.v1.events_pb2 import PasswordChanged
from identity import signin
from identity.domain import Cause, Credentials, NewSession, UserId
from identity.endings import Fact
from identity.issuing import Issuer
from identity.passwords import Passwords, check_new
from identity.people.links import LIVES, Link, Links, LinkSpent, Purpose
from identity.people.post import Post
from identity.publisher import Publisher
from identity.revocations import RevocationLog
from identity.service import Accounts, NewUser
from identity.storage import exclusive, login_sessions, users
from servicekit.database import Database
from servicekit.errors import Kind, ServiceError
from servicekit.visitor import Visitor

# One address as anybody has one. What a mail server makes of it is its business; no header can be made of it.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)*[A-Za-z0-9-]{1,63}")
_LONGEST_ADDRESS = 254
_log = structlog.get_logger("identity.people")


def checked_address(email: str) -> str:
    """The address as it is kept: lower case, no space around it.

    Raises:
        ServiceError: ADDRESS_NOT_VALID.
    """
    address = email.strip().lower()
    dotted = all(address.partition("@")[0].split("."))
    if len(address) > _LONGEST_ADDRESS or _ADDRESS.fullmatch(address) is None or not dotted:
        raise ServiceError(
            Kind.UNPROCESSABLE, "ADDRESS_NOT_VALID", "This is no e-mail address: name@example.com is one."
        )
    return address


def checked_name(name: str) -> str:
    """The name as it is kept.

    Raises:
        ServiceError: NAME_NOT_VALID.
    """
    tidy = " ".join(name.split())
    if not 1 <= len(tidy) <= 100 or not tidy.isprintable():
        raise ServiceError(Kind.UNPROCESSABLE, "NAME_NOT_VALID", "A name has 1 to 100 characters that can be printed.")
    return tidy


@dataclass(frozen=True, slots=True)
class NewAccount:
    """An account just made, and the session that its owner is signed in with."""

    user_id: str
    hard_gen: int
    opened: NewSession


@dataclass(frozen=True, slots=True)
class People:
    """What somebody does with their own account."""

    database: Database
    accounts: Accounts
    issuer: Issuer
    revocations: RevocationLog
    publisher: Publisher
    passwords: Passwords
    links: Links
    post: Post
    mails: bool  # whether this installation sends any

    def require_mail(self) -> None:
        """Returns when mail is sent here.

        Raises:
            ServiceError: MAIL_NOT_CONFIGURED.
        """
        if not self.mails:
            detail = "This system sends no mail. Whoever runs it can make an account for you, or set a new password."
            raise ServiceError(Kind.UNAVAILABLE, "MAIL_NOT_CONFIGURED", detail)

    async def ask_to_sign_up(self, email: str, about: Mapping[str, str] = MappingProxyType({})) -> None:
        """Mails a link with which an account begins, or says in the mail that there is one. `about`: what waits for it.

        Raises:
            ServiceError: ADDRESS_NOT_VALID.
        """
        address = checked_address(email)

        def work(tx: Connection) -> None:
            self._letter(tx, address, known=("known", "reset"), unknown=("signup", "signup"), about=about)

        await self._mail(work)

    async def ask_to_reset(self, email: str, about: Mapping[str, str] = MappingProxyType({})) -> None:
        """Mails a link with which a password is chosen anew, or says in the mail that there is no account.

        `about`: what waits until the person has signed in with it.

        Raises:
            ServiceError: ADDRESS_NOT_VALID.
        """
        address = checked_address(email)

        def work(tx: Connection) -> None:
            self._letter(tx, address, known=("reset", "reset"), unknown=("nobody", "signup"), about=about)

        await self._mail(work)

    async def ask_to_verify(self, user_id: str) -> None:
        """Mails a link that proves the address of an account."""

        def work(tx: Connection) -> None:
            row = tx.execute(select(users.c.email, users.c.hard_gen).where(users.c.id == user_id)).one()
            self._hand_in(tx, "verify", Link("verify", row.email, user_id, row.hard_gen))

        await self._mail(work)

    async def linked(self, secret: str, purpose: Purpose) -> Link:
        """What a living link proves.

        Raises:
            LinkSpent: there is no such link any more.
        """
        return await self.database.read(lambda tx: self.links.look(tx, secret, purpose))

    async def finish_sign_up(
        self,
        secret: str,
        name: str,
        password: str,
        visitor: Visitor,
        *,
        client_id: str = "",
        previous: str | None = None,
    ) -> NewAccount:
        """Makes the account and signs the person in, for `client_id` if they came from a client.

        Raises:
            LinkSpent: the link was used meanwhile, or there is an account with this address by now.
            PasswordRefused, ServiceError: NAME_NOT_VALID. The link stays good.
        """
        address = (await self.linked(secret, "signup")).email
        name = checked_name(name)
        check_new(password, email=address)
        hashed = await self.passwords.hash(password)

        def work(tx: Connection) -> NewAccount:
            link = self.links.spend(tx, secret, "signup")
            if not self.accounts.add_user(tx, NewUser(link.email, name, hashed)):
                raise LinkSpent
            row = tx.execute(select(users.c.id, users.c.hard_gen).where(users.c.email == link.email)).one()
            proven = Credentials(UserId(row.id), hashed, row.hard_gen, disabled=False)
            opened = signin.open_session(tx, self.issuer, proven, previous, visitor=visitor, client_id=client_id)
            return NewAccount(row.id, row.hard_gen, opened)

        made = await self.database.run(work)
        _log.info("account_made", user_id=made.user_id)
        return made

    async def finish_reset(self, secret: str, password: str) -> None:
        """Sets the password, signs the person out everywhere, and counts the address as proven.

        Raises:
            LinkSpent: the link was used, or everything of the account was signed out since it was asked for.
            PasswordRefused: the link stays good.
        """
        address = (await self.linked(secret, "reset")).email
        check_new(password, email=address)
        hashed = await self.passwords.hash(password)

        def work(tx: Connection) -> str:
            # The account before its link: that is the order of locks.
            row = tx.execute(exclusive(select(users).where(users.c.email == address))).one_or_none()
            link = self.links.spend(tx, secret, "reset")
            if row is None or row.disabled_at is not None or (row.id, row.hard_gen) != (link.user_id, link.hard_gen):
                raise LinkSpent
            proven = {"password_hash": hashed, "email_verified_at": self.database.now(tx)}
            tx.execute(update(users).where(users.c.id == row.id).values(proven))
            self.post.hand_in(tx, "changed", row.email, life=86_400)
            facts = [Fact(row.id, PasswordChanged(subject=row.id))]
            self.revocations.revoke_subject(tx, row.id, Cause.PASSWORD_CHANGED, facts=facts)
            return str(row.id)

        user_id = await self.database.run(work)
        self.post.handed_in.set()
        await self.publisher.publish_pending()
        _log.info("password_reset", user_id=user_id)

    async def verify(self, secret: str) -> None:
        """Counts an address as proven.

        Raises:
            LinkSpent: the link was used, or the account has another address by now.
        """

        def work(tx: Connection) -> str:
            link = self.links.spend(tx, secret, "verify")
            whose = (users.c.id == link.user_id) & (users.c.email == link.email)
            proven = update(users).where(whose).values(email_verified_at=self.database.now(tx))
            if tx.execute(proven.returning(users.c.id)).one_or_none() is None:
                raise LinkSpent
            return str(link.user_id)

        _log.info("address_proven", user_id=await self.database.run(work))

    def notice_new_device(self, tx: Connection, user_id: str, browser: str) -> None:
        """Mails, in the transaction of a sign-in, that the browser was not known; not at the first sign-in of all."""
        before = exists().where(login_sessions.c.user_id == user_id)
        if self.mails and tx.execute(select(before)).scalar_one():
            email = tx.execute(select(users.c.email).where(users.c.id == user_id)).scalar_one()
            self.post.hand_in(tx, "new_device", email, life=86_400, browser=browser)

    def _letter(
        self,
        tx: Connection,
        address: str,
        known: tuple[str, Purpose],
        unknown: tuple[str, Purpose],
        about: Mapping[str, str],
    ) -> None:
        columns = (users.c.id, users.c.hard_gen, users.c.disabled_at)
        row = tx.execute(select(*columns).where(users.c.email == address)).one_or_none()
        if row is None:
            letter, purpose = unknown
            self._hand_in(tx, letter, Link(purpose, address, None, None, about))
            return
        letter, purpose = ("disabled", known[1]) if row.disabled_at is not None else known
        self._hand_in(tx, letter, Link(purpose, address, row.id, row.hard_gen, about))

    def _hand_in(self, tx: Connection, letter: str, link: Link, **about: str) -> None:
        secret = self.links.make(tx, link)
        self.post.hand_in(tx, letter, link.email, life=LIVES[link.purpose], link=secret, **about)

    async def _mail(self, work: Callable[[Connection], None]) -> None:
        await self.database.run(work)
        self.post.handed_in.set()
