"""Signing in and out: what happens to login sessions when a person proves who they are, or leaves."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select, update

from contracts.identity.v1.events_pb2 import SignedIn
from identity.domain import (
    PASSWORD,
    Cause,
    Credentials,
    NewSession,
    Position,
    SessionId,
    new_secret,
    secret_digest,
)
from identity.endings import Fact
from identity.issuing import Issuer
from identity.standing import living_session, user_row
from identity.storage import exclusive, login_sessions, users
from servicekit.visitor import NOBODY_KNOWN, Visitor


@dataclass(frozen=True, slots=True)
class Person:
    """Whom a page greets."""

    name: str
    email: str


def person(tx: Connection, user_id: str) -> Person:
    """The person with this id, who must exist."""
    return Person(*tx.execute(select(users.c.name, users.c.email).where(users.c.id == user_id)).one())


def open_session(
    tx: Connection,
    issuer: Issuer,
    proven: Credentials,
    previous_cookie: str | None,
    *,
    visitor: Visitor = NOBODY_KNOWN,
    client_id: str = "",
    amr: str = PASSWORD,
    ago: int = 0,
) -> NewSession:
    """The login session of somebody who proved who they are, by `amr` (RFC 8176) and `ago` seconds ago, with a cookie
    that nobody has seen before.

    Somebody who proves again who they are keeps their session, and what hangs on it, under the new cookie; the old
    cookie is dead. Another person's session in the same browser is signed out. That somebody signed in, for
    `client_id` if it was for a client, is told when a session begins.

    Raises:
        SignInOvertaken: meanwhile the account was disabled, or everything of it signed out.
    """
    previous = None if previous_cookie is None else _presented(tx, previous_cookie)
    if previous is not None and previous.user_id == proven.user_id:
        renewed = _renew(tx, issuer, previous, proven, amr, ago)
        if renewed is not None:
            return renewed
    opened = issuer.open_session(tx, proven.user_id, hard_gen_seen=proven.hard_gen, visitor=visitor, amr=amr, ago=ago)
    signed_in = SignedIn(
        subject=proven.user_id,
        session_id=opened.sid,
        client_id=client_id,
        remote_address=visitor.address,
        user_agent=visitor.user_agent,
    )
    facts = [Fact(proven.user_id, signed_in)]
    if previous is not None and previous.user_id != proven.user_id:
        # Two accounts are told of: in one step, so that their counters are locked in one order (see events).
        issuer.revocations.revoke_session(tx, previous.id, Cause.SIGNED_OUT, facts=facts)
    else:
        issuer.events.tell(tx, facts)
    return opened


def sign_out(tx: Connection, issuer: Issuer, cookie: str) -> Position | None:
    """Ends the login session of this cookie, and all that is tied to it; None if there is none alive."""
    session = _presented(tx, cookie)
    return None if session is None else issuer.revocations.revoke_session(tx, session.id, Cause.SIGNED_OUT)


def _presented(tx: Connection, cookie: str) -> Row[Any, Any, Any] | None:
    """The session of this cookie, dead or alive. Not locked: two that share a row and then want it alone would wait for
    each other.
    """
    query = select(login_sessions.c.id, login_sessions.c.user_id, login_sessions.c.cookie_hash)
    return tx.execute(query.where(login_sessions.c.cookie_hash == secret_digest(cookie))).one_or_none()


def _renew(
    tx: Connection, issuer: Issuer, previous: Row[Any, Any, Any], proven: Credentials, amr: str, ago: int
) -> NewSession | None:
    user = user_row(tx, proven.user_id)
    # Once the row is ours: under the cookie still that was presented? Of several windows that were shown the same one,
    # the first renews the session; the next would take away the cookie that the first has just been given.
    still = (login_sessions.c.id == previous.id) & (login_sessions.c.cookie_hash == previous.cookie_hash)
    if tx.execute(exclusive(select(login_sessions.c.id).where(still))).one_or_none() is None:
        return None
    now = issuer.now(tx)
    alive = living_session(tx, previous.id, user, now)
    if alive is None or alive.hard_gen != proven.hard_gen:
        return None
    newer = now - ago * 1000 >= alive.auth_time
    renewed = NewSession(
        sid=SessionId(previous.id),
        cookie=new_secret(issuer.entropy),
        auth_time=now - ago * 1000 if newer else alive.auth_time,
        expires_at=now + issuer.lives.session * 1000,
    )
    changed: dict[str, Any] = {
        "cookie_hash": secret_digest(renewed.cookie),
        "auth_time": renewed.auth_time,
        "expires_at": renewed.expires_at,
    }
    if newer:
        changed["amr"] = amr
    tx.execute(update(login_sessions).where(login_sessions.c.id == previous.id).values(changed))
    return renewed
