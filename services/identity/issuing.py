"""Issuing: where revocation is won.

Every method runs inside the caller's transaction, and that transaction locks (FOR SHARE; SQLite has BEGIN IMMEDIATE)
the rows of user, client, login session and grant, in that order, and sees that each is alive and that the user's and
the client's *hard generation* are still those under which the flow was authorized. Generations, `iat` and `exp` are
read behind those locks. So whatever takes something back either waits for this commit and then matches what it
issued, or comes first and nothing is issued: no flow that began before a password change ends after it with a living
token.

No token outlives its grant, and no grant that is tied to a login session outlives that session.

One long file on purpose: these are all the places that issue anything, and a review reads them together.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from contracts.identity.v1.events_pb2 import GrantGiven, RefreshTokenReused
from identity.domain import (
    OFFLINE,
    PASSWORD,
    AccessToken,
    Cause,
    ClientId,
    CodeReused,
    Entropy,
    Grant,
    GrantId,
    InvalidGrant,
    InvalidScope,
    InvalidTarget,
    LoginSession,
    NewSession,
    NotSignedIn,
    Redeemed,
    RefreshReused,
    Rotated,
    SessionId,
    SignInOvertaken,
    UnauthorizedClient,
    UserId,
    base64url,
    new_id,
    new_secret,
    scope_for,
    secret_digest,
)
from identity.endings import Fact
from identity.events import SecurityEvents
from identity.keyring import KeyRing, longest_life
from identity.revocations import RevocationLog
from identity.sealing import SecretKeys
from identity.standing import living_client, living_grant, living_session, user_row
from identity.storage import codes, grants, log_state, login_sessions, refresh_tokens
from servicekit.visitor import NOBODY_KNOWN, Visitor

ACCESS_TYPE = "at+jwt"
ID_TYPE = "JWT"
ACR_PASSWORD = "urn:rescind:acr:password"  # noqa: S105  (a name: the person gave their password here, at `auth_time`)


@dataclass(frozen=True, slots=True)
class Lives:
    """How long what is issued lives, in seconds."""

    access_token: int = 900
    code: int = 60
    session: int = 12 * 3600
    offline: int = 30 * 86400
    refresh_retry: int = 10
    device_code: int = 600


@dataclass(frozen=True, slots=True)
class Issuer:
    """Issues sessions, codes, grants, refresh tokens, access tokens and ID tokens."""

    issuer: str
    lives: Lives
    keyring: KeyRing
    revocations: RevocationLog
    secret_keys: SecretKeys
    now: Callable[[Connection], int]
    entropy: Entropy
    events: SecurityEvents

    def open_session(
        self,
        tx: Connection,
        user_id: str,
        *,
        hard_gen_seen: int,
        visitor: Visitor = NOBODY_KNOWN,
        amr: str = PASSWORD,
        ago: int = 0,
    ) -> NewSession:
        """Opens a login session for somebody who proved who they are, by `amr` (RFC 8176, space separated), `ago`
        seconds ago.

        `hard_gen_seen` is the user's hard generation as it was read together with the password hash. `visitor` is kept
        with the session, for the person to recognise it by.

        Raises:
            SignInOvertaken: meanwhile the account was disabled or everything of it signed out.
        """
        user = user_row(tx, user_id)
        if user is None or user.disabled_at is not None or user.hard_gen != hard_gen_seen:
            raise SignInOvertaken(user_id)
        now = self.now(tx)
        opened = NewSession(
            sid=SessionId(new_id("sid", self.entropy)),
            cookie=new_secret(self.entropy),
            auth_time=now - ago * 1000,
            expires_at=now + self.lives.session * 1000,
        )
        tx.execute(
            insert(login_sessions).values(
                id=opened.sid,
                user_id=user_id,
                cookie_hash=secret_digest(opened.cookie),
                hard_gen=user.hard_gen,
                auth_time=opened.auth_time,
                created_at=now,
                expires_at=opened.expires_at,
                user_agent=visitor.user_agent,
                network=visitor.network,
                amr=amr,
            )
        )
        return opened

    def session_of(self, tx: Connection, cookie: str) -> LoginSession | None:
        """The living login session that `cookie` presents, locked for issuing; None if there is none."""
        query = select(login_sessions.c.id, login_sessions.c.user_id)
        found = tx.execute(query.where(login_sessions.c.cookie_hash == secret_digest(cookie))).one_or_none()
        if found is None:
            return None
        user = user_row(tx, found.user_id)
        session = living_session(tx, found.id, user, self.now(tx))
        if session is None:
            return None
        return LoginSession(
            sid=SessionId(session.id),
            user_id=UserId(session.user_id),
            auth_time=session.auth_time,
            expires_at=session.expires_at,
        )

    def issue_code(
        self,
        tx: Connection,
        *,
        session_id: str,
        client_id: str,
        redirect_uri: str,
        scope: str,
        resources: Iterable[str],
        nonce: str | None,
        code_challenge: str,
    ) -> str:
        """An authorization code (RFC 6749 section 4.1.2) for what the person of this login session has consented to.

        The route has checked client, redirect URI, scope and resources; here only what can end meanwhile is checked.

        Raises:
            NotSignedIn: the login session has ended.
            UnauthorizedClient: the client is unknown or disabled.
        """
        query = select(login_sessions.c.user_id).where(login_sessions.c.id == session_id)
        user_id = tx.execute(query).scalar_one_or_none()
        user = user_row(tx, user_id)
        client = living_client(tx, client_id)
        session = living_session(tx, session_id, user, self.now(tx))
        if user is None or session is None:
            raise NotSignedIn(session_id)
        now = self.now(tx)
        code = new_secret(self.entropy)
        tx.execute(
            insert(codes).values(
                hash=secret_digest(code),
                grant_id=new_id("gid", self.entropy),
                user_id=user.id,
                client_id=client_id,
                session_id=session_id,
                redirect_uri=redirect_uri,
                scope=scope,
                resources=list(resources),
                nonce=nonce,
                code_challenge=code_challenge,
                user_hard_gen=user.hard_gen,
                client_hard_gen=client.hard_gen,
                auth_time=session.auth_time,
                expires_at=now + self.lives.code * 1000,
            )
        )
        return code

    def redeem_code(self, tx: Connection, code: str, client_id: str) -> Redeemed:
        """Spends a code, once for all, and makes its grant.

        The route checks redirect URI and PKCE verifier afterwards and rolls back if they are wrong: then the code is
        not spent, so that a stranger who saw it cannot burn it.

        Of several redemptions at once one succeeds; the others are a second use like any other, so they end what the
        one got (RFC 6749 section 4.1.2). Nobody can tell a client that sends twice from a thief who is just as fast.

        Raises:
            CodeReused: it was spent before. The grant made from it has been ended: commit.
            InvalidGrant: unknown, expired, another client's, or the person signed out meanwhile.
            UnauthorizedClient: the client is disabled.
        """
        hashed = secret_digest(code)
        row = tx.execute(select(codes).where(codes.c.hash == hashed)).one_or_none()
        if row is None or row.client_id != client_id:
            raise InvalidGrant("no such code of this client")
        user = user_row(tx, row.user_id)
        client = living_client(tx, client_id)
        session = living_session(tx, row.session_id, user, self.now(tx))
        now = self.now(tx)
        # The one atomic step: of any number of redemptions exactly one gets the row.
        spend = update(codes).where(codes.c.hash == hashed, codes.c.consumed_at.is_(None))
        if tx.execute(spend.values(consumed_at=now).returning(codes.c.hash)).one_or_none() is None:
            self.revocations.revoke_grant(tx, row.grant_id, Cause.CODE_REUSED)
            raise CodeReused(row.grant_id)
        if row.expires_at <= now:
            raise InvalidGrant("the code has expired")
        self.make_grant(tx, row, user=user, client=client, session=session)
        return Redeemed(
            grant_id=GrantId(row.grant_id),
            user_id=UserId(row.user_id),
            client_id=ClientId(client_id),
            session_id=SessionId(row.session_id),
            redirect_uri=row.redirect_uri,
            scope=row.scope,
            resources=tuple(row.resources),
            nonce=row.nonce,
            code_challenge=row.code_challenge,
            auth_time=row.auth_time,
        )

    def make_grant(
        self, tx: Connection, allowed: Row[Any], *, user: Row[Any] | None, client: Row[Any], session: Row[Any] | None
    ) -> Grant:
        """Makes the grant of a code or device code that was just spent: `allowed`, as it was stored when the person
        agreed. `user`, `client` and `session` are as they are now, locked.

        Raises:
            InvalidGrant: since then the person signed out, or the client was taken back.
        """
        if user is None or session is None or user.hard_gen != allowed.user_hard_gen:
            raise InvalidGrant("the person signed out meanwhile")
        if client.hard_gen != allowed.client_hard_gen:
            raise InvalidGrant("the client was taken back meanwhile")
        now = self.now(tx)
        offline = OFFLINE in allowed.scope.split()
        grant = Grant(
            grant_id=GrantId(allowed.grant_id),
            user_id=UserId(allowed.user_id),
            client_id=ClientId(allowed.client_id),
            session_id=None if offline else SessionId(allowed.session_id),
            scope=allowed.scope,
            resources=tuple(allowed.resources),
            auth_time=allowed.auth_time,
            expires_at=now + self.lives.offline * 1000 if offline else session.expires_at,
        )
        tx.execute(
            insert(grants).values(
                id=grant.grant_id,
                user_id=grant.user_id,
                client_id=grant.client_id,
                session_id=grant.session_id,
                begun_in=allowed.session_id,
                scope=grant.scope,
                resources=list(grant.resources),
                user_hard_gen=allowed.user_hard_gen,
                client_hard_gen=client.hard_gen,
                auth_time=grant.auth_time,
                created_at=now,
                expires_at=grant.expires_at,
            )
        )
        if not client.first_party:
            scopes = grant.scope.split()
            given = GrantGiven(subject=grant.user_id, client_id=grant.client_id, grant_id=grant.grant_id, scopes=scopes)
            self.events.tell(tx, [Fact(grant.user_id, given)])
        return grant

    def issue_access_token(
        self,
        tx: Connection,
        *,
        audience: str,
        scope: str | None = None,
        grant_id: str | None = None,
        client_id: str | None = None,
    ) -> AccessToken:
        """A signed access token (RFC 9068) for one audience: of a grant, or, with `client_id`, of a client itself.

        `scope` may ask for less than was granted; None asks for all. What means nothing at the audience, or is not
        open to the person's roles, is left out; the answer says what was granted.

        Raises:
            InvalidGrant: the grant, its session or its user has ended.
            UnauthorizedClient: the client is disabled or may not get tokens for itself.
            InvalidTarget: the audience was not authorized.
            InvalidScope: more was asked for than was granted.
        """
        if grant_id is not None:
            return self._for_person(tx, grant_id, audience, scope)
        if client_id is None:
            raise ValueError("a token is issued for a grant or for a client")
        return self._for_client(tx, client_id, audience, scope)

    def issue_refresh_token(self, tx: Connection, grant_id: str) -> str:
        """The first refresh token of a grant: opaque, stored as a hash."""
        token = new_secret(self.entropy)
        self._store_refresh(tx, token, grant_id, self.now(tx))
        return token

    def rotate_refresh_token(self, tx: Connection, presented: str, client_id: str) -> Rotated:
        """Spends a refresh token and gives its successor; the grant's absolute end does not move.

        A retry within the retry window gets the same successor, as long as nobody has used that one: a client whose
        answer was lost goes on, and two thieves of one token cannot both.

        Raises:
            RefreshReused: a spent token came back. Its grant has been ended: commit.
            InvalidGrant: unknown, another client's, or the grant, its session or its user has ended.
            UnauthorizedClient: the client is disabled.
        """
        hashed = secret_digest(presented)
        found = tx.execute(
            select(grants.c.id, grants.c.client_id)
            .join(refresh_tokens, refresh_tokens.c.grant_id == grants.c.id)
            .where(refresh_tokens.c.hash == hashed)
        ).one_or_none()
        if found is None or found.client_id != client_id:
            raise InvalidGrant("no such refresh token of this client")
        grant, _, _ = living_grant(tx, found.id, self.now(tx), alone=True)  # one rotation of a family at a time
        now = self.now(tx)
        spend = update(refresh_tokens).where(refresh_tokens.c.hash == hashed, refresh_tokens.c.consumed_at.is_(None))
        if tx.execute(spend.values(consumed_at=now).returning(refresh_tokens.c.hash)).one_or_none() is not None:
            successor = next(self.secret_keys.successors(presented))
            self._store_refresh(tx, successor, grant.grant_id, now)
            return Rotated(grant, successor)
        retried = self._unspent_successor(tx, presented, now)
        if retried is None:
            reused = RefreshTokenReused(subject=grant.user_id, client_id=client_id, grant_id=grant.grant_id)
            facts = [Fact(grant.user_id, reused)]
            self.revocations.revoke_grant(tx, grant.grant_id, Cause.REFRESH_REUSED, facts=facts)
            raise RefreshReused(grant.grant_id)
        return Rotated(grant, retried)

    def grant_of_refresh_token(
        self, tx: Connection, presented: str
    ) -> tuple[GrantId, ClientId, SessionId | None] | None:
        """Whose a refresh token is, spent or not, and which login session its grant is tied to; None if it is none
        of ours.
        """
        found = tx.execute(
            select(grants.c.id, grants.c.client_id, grants.c.session_id)
            .join(refresh_tokens, refresh_tokens.c.grant_id == grants.c.id)
            .where(refresh_tokens.c.hash == secret_digest(presented))
        ).one_or_none()
        if found is None:
            return None
        return GrantId(found.id), ClientId(found.client_id), found.session_id and SessionId(found.session_id)

    def id_token(
        self, tx: Connection, *, grant_id: str, access_token: str, nonce: str | None, session_id: str | None
    ) -> str:
        """An ID token (OpenID Connect Core section 2) with `auth_time`, `at_hash`, and `nonce` and `sid` if given.

        `acr` and `amr` say how the person signed in, as long as that login session is known.

        Raises:
            InvalidGrant: the grant, its session or its user has ended.
            UnauthorizedClient: the client is disabled.
        """
        grant, _, _ = living_grant(tx, grant_id, self.now(tx))
        issued_at = self.now(tx) // 1000
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "sub": grant.user_id,
            "aud": grant.client_id,
            "iat": issued_at,
            "exp": issued_at + self.lives.access_token,
            "auth_time": grant.auth_time // 1000,
            "at_hash": _half_hash(access_token),
        }
        if nonce is not None:
            claims["nonce"] = nonce
        if session_id is not None:
            claims["sid"] = session_id
            query = select(login_sessions.c.amr).where(login_sessions.c.id == session_id)
            amr = (tx.execute(query).scalar_one_or_none() or "").split()
            claims |= {"amr": amr, "acr": ACR_PASSWORD} if "pwd" in amr else {"amr": amr} if amr else {}
        return self.keyring.signing_key(tx, "access").sign(ID_TYPE, claims)

    def _for_person(self, tx: Connection, grant_id: str, audience: str, scope: str | None) -> AccessToken:
        grant, user, client = living_grant(tx, grant_id, self.now(tx))
        granted = _narrowed(grant.scope, scope, audience, grant.resources, user.roles)
        stamps: dict[str, Any] = {
            "gid": grant.grant_id,
            "gen": user.gen,
            "cgen": client.gen,
            "auth_time": grant.auth_time // 1000,
        }
        if grant.session_id is not None:
            stamps["sid"] = grant.session_id
        return self.sign(tx, user.id, client.id, audience, granted, stamps, not_after=grant.expires_at)

    def _for_client(self, tx: Connection, client_id: str, audience: str, scope: str | None) -> AccessToken:
        client = living_client(tx, client_id)
        if "client_credentials" not in client.grant_types:
            raise UnauthorizedClient(client_id)
        # A client that is trusted with a scope has it without a role: roles are for people.
        granted = _narrowed(" ".join(client.scopes), scope, audience, client.resources, ("admin",))
        return self.sign(tx, f"svc_{client_id}", client_id, audience, granted, {"cgen": client.gen})

    def sign(
        self,
        tx: Connection,
        subject: str,
        client_id: str,
        audience: str,
        scope: str,
        stamps: dict[str, Any],
        *,
        not_after: int | None = None,
    ) -> AccessToken:
        """Signs an access token; `stamps` are the claims beside RFC 9068's, `not_after` (ms) cuts its life.

        Only for those who hold the locks and have judged: the methods here, and `exchange`.
        """
        key = self.keyring.signing_key(tx, "access")
        now = self.now(tx)
        issued_at = now // 1000
        life_ms = self.lives.access_token * 1000
        if longest_life(tx) < life_ms:
            # Founding has seen to it; this is for a database that a shorter-lived replica founded meanwhile.
            tx.execute(update(log_state).where(log_state.c.longest_life < life_ms).values(longest_life=life_ms))
        expires_at = issued_at + self.lives.access_token
        if not_after is not None:
            expires_at = min(expires_at, not_after // 1000)
        claims = {
            "iss": self.issuer,
            "sub": subject,
            "aud": audience,
            "client_id": client_id,
            "iat": issued_at,
            "exp": expires_at,
            "jti": new_id("", self.entropy),
            "scope": scope,
            **stamps,
        }
        return AccessToken(key.sign(ACCESS_TYPE, claims), claims, scope, expires_at - issued_at)

    def _store_refresh(self, tx: Connection, token: str, grant_id: str, now: int) -> None:
        tx.execute(insert(refresh_tokens).values(hash=secret_digest(token), grant_id=grant_id, created_at=now))

    def _unspent_successor(self, tx: Connection, presented: str, now: int) -> str | None:
        """What a retry of `presented` is answered with; None if it is too late or the successor has been used."""
        columns = (refresh_tokens.c.consumed_at,)
        spent_at = tx.execute(select(*columns).where(refresh_tokens.c.hash == secret_digest(presented))).scalar_one()
        if now - spent_at > self.lives.refresh_retry * 1000:
            return None
        for successor in self.secret_keys.successors(presented):
            query = select(*columns).where(refresh_tokens.c.hash == secret_digest(successor))
            row = tx.execute(query).one_or_none()
            if row is not None:
                return successor if row.consumed_at is None else None
        return None


def _narrowed(granted: str, asked: str | None, audience: str, resources: Iterable[str], roles: Iterable[str]) -> str:
    if audience not in resources:
        raise InvalidTarget(audience)
    ceiling = granted.split()
    wanted = ceiling if asked is None else asked.split()
    if not set(wanted) <= set(ceiling):
        raise InvalidScope("more than was granted")
    return scope_for(wanted, audience=audience, roles=roles)


def _half_hash(token: str) -> str:
    return base64url(hashlib.sha256(token.encode()).digest()[:16])
