"""Devices that cannot show a sign-in page (RFC 8628): they wait, a person decides elsewhere, they get the tokens.

A second place that makes grants, by the rules of `issuing`: the rows of user, client and login session are locked, and
the generations under which the person allowed it must still stand when the device comes for its tokens.

A device code works once. Of several polls at once one gets the tokens and the others hear that the code is spent; that
does not end the grant, as a second use of an authorization code does: a device code never passes through a browser, so
who holds it is the device, and its network may well have repeated the poll.

A user code is short, so that people can type it: twenty letters to the power of eight, 34 bits, for ten minutes.
Guessing is for signed-in people only, who get few tries (RFC 8628 section 5.1).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, case, func, insert, select, update

from identity.domain import (
    ClientId,
    DeviceError,
    DeviceRequest,
    Entropy,
    Grant,
    InvalidGrant,
    LoginSession,
    NotSignedIn,
    TooManyUserCodes,
    UnknownUserCode,
    WaitingDevice,
    new_id,
    new_secret,
    secret_digest,
)
from identity.issuing import Issuer
from identity.standing import living_client, living_session, user_row
from identity.storage import device_codes, exclusive, users, wrong_user_codes
from servicekit.database import insert_new

ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628 section 6.1: no vowels, so no words; no digits, so nothing to mix up
_LENGTH = 8
_INTERVAL_MS = 5_000
_SLOWEST_MS = 60_000
_EARLY_MS = 500  # a poll may be so much too soon: networks do not keep time
_TRIES = 5
_TRIES_WITHIN_MS = 10 * 60_000


def new_user_code(entropy: Entropy) -> str:
    """A user code as it is shown: WDJB-MJHT. Every code is equally likely."""
    letters: list[str] = []
    while len(letters) < _LENGTH:
        # 240 is the largest multiple of 20 in a byte: what is above it would favour the first letters.
        letters.extend(ALPHABET[byte % 20] for byte in entropy(16) if byte < 240)
    return f"{''.join(letters[:4])}-{''.join(letters[4:_LENGTH])}"


def plain(user_code: str) -> str:
    """A user code as it is compared: letters alone, however it was typed (RFC 8628 section 6.1)."""
    return re.sub(r"[^A-Z]", "", user_code[:64].upper())


@dataclass(frozen=True, slots=True)
class DeviceCodes:
    """Begins, decides and redeems. Every method works inside the caller's transaction."""

    issuer: Issuer

    def begin(
        self, tx: Connection, *, client_id: str, scope: str, resources: Iterable[str], max_auth_age: int | None = None
    ) -> WaitingDevice:
        """A device of this client begins to wait. The route has checked scope and resources.

        With `max_auth_age` (seconds), for a person who signed in no longer than that before now.

        Raises:
            UnauthorizedClient: the client is unknown or disabled.
        """
        client = living_client(tx, client_id)
        entropy, life = self.issuer.entropy, self.issuer.lives.device_code
        now = self.issuer.now(tx)
        waits = {
            "client_id": client_id,
            "scope": scope,
            "resources": list(resources),
            "client_hard_gen": client.hard_gen,
            "expires_at": now + life * 1000,
            "poll_interval": _INTERVAL_MS,
            "polled_at": 0,
            "signed_in_since": 0 if max_auth_age is None else now - max_auth_age * 1000,
        }
        while True:  # until the user code is nobody else's
            begun = WaitingDevice(new_secret(entropy), new_user_code(entropy), life, _INTERVAL_MS // 1000)
            codes = {
                "hash": secret_digest(begun.device_code),
                "user_code_hash": secret_digest(plain(begun.user_code)),
                "grant_id": new_id("gid", entropy),
            }
            if insert_new(tx, device_codes, {**codes, **waits}):
                return begun

    def find(self, tx: Connection, user_code: str, session: LoginSession) -> DeviceRequest:
        """What the device asks for that waits under this user code.

        Raises:
            UnknownUserCode: there is none. The try has been counted: commit.
            TooManyUserCodes: there have been too many of these.
        """
        # One try of a person at a time, so that many at once are not one.
        tx.execute(exclusive(select(users.c.id).where(users.c.id == session.user_id)))
        now = self.issuer.now(tx)
        mine = wrong_user_codes.c.user_id == session.user_id
        recent = select(func.count()).where(mine, wrong_user_codes.c.at > now - _TRIES_WITHIN_MS)
        if tx.execute(recent).scalar_one() >= _TRIES:
            raise TooManyUserCodes(session.user_id)
        columns = (
            device_codes.c.client_id,
            device_codes.c.scope,
            device_codes.c.resources,
            device_codes.c.signed_in_since,
        )
        waiting = (
            device_codes.c.user_code_hash == secret_digest(plain(user_code)),
            device_codes.c.decided_at.is_(None),
            device_codes.c.expires_at > now,
        )
        row = tx.execute(select(*columns).where(*waiting)).one_or_none()
        if row is None:
            wrong = {"id": new_id("try", self.issuer.entropy), "user_id": session.user_id, "at": now}
            tx.execute(insert(wrong_user_codes).values(wrong))
            raise UnknownUserCode(session.user_id)
        return DeviceRequest(ClientId(row.client_id), row.scope, tuple(row.resources), row.signed_in_since)

    def decide(self, tx: Connection, user_code: str, session: LoginSession, *, scope: str | None) -> None:
        """The person lets the device have `scope`; None: they do not. Once decided, it stays.

        Raises:
            UnknownUserCode: no device waits under this user code, or somebody has decided before.
            NotSignedIn: the login session has ended.
        """
        user = user_row(tx, session.user_id)
        standing = living_session(tx, session.sid, user, self.issuer.now(tx))
        if user is None or standing is None:
            raise NotSignedIn(session.sid)
        now = self.issuer.now(tx)
        decided: dict[str, object] = {
            "decided_at": now,
            "allowed": scope is not None,
            "user_id": user.id,
            "session_id": standing.id,
            "user_hard_gen": user.hard_gen,
            "auth_time": standing.auth_time,
        }
        if scope is not None:
            decided["scope"] = scope
        waiting = (
            device_codes.c.user_code_hash == secret_digest(plain(user_code)),
            device_codes.c.decided_at.is_(None),
            device_codes.c.expires_at > now,
        )
        row = update(device_codes).where(*waiting).values(decided).returning(device_codes.c.hash)
        if tx.execute(row).one_or_none() is None:
            raise UnknownUserCode(session.user_id)

    def redeem(self, tx: Connection, device_code: str, client_id: str) -> Grant:
        """Spends a device code that a person has allowed, once for all, and makes its grant.

        Raises:
            DeviceError: `authorization_pending`, `slow_down`, `access_denied` or `expired_token` (section 3.5).
            InvalidGrant: unknown, spent, another client's, or the person signed out meanwhile.
            UnauthorizedClient: the client is disabled.
        """
        hashed = secret_digest(device_code)
        row = tx.execute(select(device_codes).where(device_codes.c.hash == hashed)).one_or_none()
        if row is None or row.client_id != client_id:
            raise InvalidGrant("no such device code of this client")
        if row.consumed_at is not None:
            raise InvalidGrant("the device code is spent")
        if row.expires_at <= self.issuer.now(tx):
            raise DeviceError("expired_token")
        if row.decided_at is None:
            raise DeviceError(self._polled(tx, hashed))
        if not row.allowed:
            raise DeviceError("access_denied")
        user = user_row(tx, row.user_id)
        client = living_client(tx, client_id)
        session = living_session(tx, row.session_id, user, self.issuer.now(tx))
        now = self.issuer.now(tx)
        spend = update(device_codes).where(device_codes.c.hash == hashed, device_codes.c.consumed_at.is_(None))
        if tx.execute(spend.values(consumed_at=now).returning(device_codes.c.hash)).one_or_none() is None:
            raise InvalidGrant("the device code is spent")
        return self.issuer.make_grant(tx, row, user=user, client=client, session=session)

    def _polled(self, tx: Connection, hashed: str) -> str:
        """Notes a poll of a device that has to wait on; RFC 8628's word for it."""
        now = self.issuer.now(tx)
        this, interval = device_codes.c.hash == hashed, device_codes.c.poll_interval
        in_time = device_codes.c.polled_at <= now - interval + _EARLY_MS
        # The one atomic step: of many polls at once one was in time.
        noted = update(device_codes).where(this, in_time).values(polled_at=now).returning(device_codes.c.hash)
        if tx.execute(noted).one_or_none() is not None:
            return "authorization_pending"
        slower = case((interval < _SLOWEST_MS, interval + _INTERVAL_MS), else_=interval)
        tx.execute(update(device_codes).where(this).values(polled_at=now, poll_interval=slower))
        return "slow_down"
