"""Signing in: a session is created only from a flow that this very browser began.

What the answer must fit (state, nonce, PKCE verifier) is kept under a pre-login cookie that only the browser has, and
is good once. The session comes with a new secret each time; signing in again takes the place of the old session, whose
secret is dead in the same step (ASVS 7.2.4).
"""

import hmac
from dataclasses import dataclass, field

import structlog

from rescind import BOUNDED, Guard, Principal, RescindError
from servicekit.errors import Kind, ServiceError
from session.domain import (
    IDENTITY,
    NOTIFICATIONS,
    ORDERS,
    Attempt,
    Entropy,
    Held,
    Session,
    SessionKey,
    SessionSecret,
    is_secret,
    key_of,
    new_name,
    new_secret,
)
from session.relying_party import GrantEnded, Profile, RelyingParty, TokenAnswer
from session.sealing import Vault
from session.signed import SignedByIdentity, SignedIn
from session.storage import SessionStore
from session.token_handler import SessionOver, Timing, TokenHandler

ATTEMPT_LIFE = 600_000  # ms that a person may take to sign in
_log = structlog.get_logger("session.sign_in")


@dataclass(frozen=True, slots=True)
class Begun:
    """Where to send the browser, and the pre-login cookie that it takes along."""

    url: str
    state: str
    secret: SessionSecret = field(repr=False)


@dataclass(frozen=True, slots=True)
class Completed:
    """A new session; `secret` is the only copy of what presents it."""

    secret: SessionSecret = field(repr=False)
    return_to: str


@dataclass(frozen=True, slots=True)
class Callback:
    """What identity's redirect brought along (RFC 6749 section 4.1.2, RFC 9207)."""

    state: str
    issuer: str
    code: str = field(default="", repr=False)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Visitor:
    """The browser, as far as people want to recognise it."""

    device: str
    address: str


class SignInRefused(Exception):
    """Identity's answer is an OAuth error: the person said no, or something went wrong there. `error` is its code."""

    def __init__(self, error: str, return_to: str) -> None:
        super().__init__(error)
        self.error = error
        self.return_to = return_to


class SignIns:
    """Begins and completes sign-ins. `life` is ms after which a session ends for good."""

    def __init__(
        self,
        store: SessionStore,
        vault: Vault,
        relying_party: RelyingParty,
        signed: SignedByIdentity,
        tokens: TokenHandler,
        guard: Guard,
        timing: Timing,
        *,
        issuer: str,
        life: int,
        entropy: Entropy,
        over: SessionOver,
    ) -> None:
        self._store = store
        self._vault = vault
        self._relying_party = relying_party
        self._signed = signed
        self._tokens = tokens
        self._guard = guard  # for identity's audience
        self._timing = timing
        self._issuer = issuer
        self._life = life
        self._entropy = entropy
        self._over = over

    async def begin(self, return_to: str, *, again: Held | None = None) -> Begun:
        """A sign-in; `again` is the session of the person who shall prove that it is still them.

        Raises:
            ServiceError: IDENTITY_UNAVAILABLE, SESSIONS_UNAVAILABLE.
        """
        secret = SessionSecret(new_secret(self._entropy))
        attempt = Attempt(
            state=new_secret(self._entropy),
            nonce=new_secret(self._entropy),
            verifier=new_secret(self._entropy),
            return_to=return_to,
            replaces=again.session.key if again else None,
            subject=again.session.subject if again else None,
            begun_at=self._timing.now(),
        )
        url = await self._relying_party.authorization_url(attempt, prompt="login" if again else None)
        await self._store.begin(key_of(secret), attempt, ATTEMPT_LIFE)
        return Begun(url, attempt.state, secret)

    async def complete(
        self, callback: Callback, pre_login: str, visitor: Visitor, old: SessionKey | None = None
    ) -> Completed:
        """The session that the answer stands for. `old` is a session that the browser presented besides.

        Raises:
            ServiceError: SIGN_IN_NOT_BEGUN, ISSUER_MISMATCH, STATE_MISMATCH, CODE_REFUSED, ID_TOKEN_REFUSED.
            SignInRefused: identity's answer is an error.
        """
        attempt = await self._attempt(callback, pre_login)
        if callback.error or not callback.code:
            raise SignInRefused(callback.error or "invalid_request", attempt.return_to)
        try:
            answer = await self._relying_party.redeem(callback.code, attempt)
        except GrantEnded:
            raise _refused("CODE_REFUSED", "Identity did not accept the code.") from None
        try:
            signed_in = await self._signed.id_token(answer.id_token, attempt, answer.access_token)
            principal = await self._guard.authenticate(answer.access_token, staleness=BOUNDED(60))
        except RescindError as error:
            _log.warning("what identity sent is refused", reason=error.reason)
            raise _refused("ID_TOKEN_REFUSED", "What identity sent cannot be trusted.") from error
        if principal.subject != signed_in.subject or principal.gid is None or principal.sid != signed_in.sid:
            raise _refused("ID_TOKEN_REFUSED", "What identity sent does not fit together.")
        profile = await self._relying_party.profile(answer.access_token)
        secret = SessionSecret(new_secret(self._entropy))
        held = self._new(key_of(secret), principal, signed_in, answer, profile, visitor)
        replaced = await self._replaced(attempt, old)
        await self._store.create(
            held, self._timing.now(), self._timing.idle, replaced.session.key if replaced else attempt.replaces
        )
        _log.info("session created", session_name=held.session.name, subject=held.session.subject)
        if replaced is not None:
            await self._retire(replaced, held.session)
        await self._fetch_ahead(held)
        return Completed(secret, attempt.return_to)

    async def _attempt(self, callback: Callback, pre_login: str) -> Attempt:
        attempt = await self._store.take(key_of(pre_login)) if is_secret(pre_login) else None
        if attempt is None:
            raise _refused("SIGN_IN_NOT_BEGUN", "This browser has not begun to sign in, or too long ago.")
        if not hmac.compare_digest(callback.state.encode(), attempt.state.encode()):
            raise _refused("STATE_MISMATCH", "This is not the answer to what this browser asked.")
        if callback.issuer != self._issuer:  # RFC 9207 section 2.4: missing is as wrong as another
            raise _refused("ISSUER_MISMATCH", "This answer is not from the identity service that was asked.")
        return attempt

    def _new(
        self,
        key: SessionKey,
        principal: Principal,
        signed_in: SignedIn,
        answer: TokenAnswer,
        profile: Profile,
        visitor: Visitor,
    ) -> Held:
        now = self._timing.now()
        session = Session(
            key=key,
            name=new_name(self._entropy),
            subject=signed_in.subject,
            sid=signed_in.sid,
            gid=principal.gid or "",
            client_id=principal.client_id,
            gen=principal.gen or 0,
            cgen=principal.cgen,
            display_name=profile.name,
            email=profile.email,
            device=visitor.device,
            address=visitor.address,
            authenticated_at=signed_in.authenticated_at * 1000,
            created_at=now,
            last_used_at=now,
            expires_at=now + self._life,
        )
        return Held(
            session,
            refresh=self._vault.seal(key, "refresh", answer.refresh_token),
            version=0,
            rotated_at=now,
            tokens={IDENTITY: self._tokens.sealed(key, IDENTITY, answer)},
        )

    async def _replaced(self, attempt: Attempt, old: SessionKey | None) -> Held | None:
        """The living session that the new one takes the place of: a browser has one."""
        for key in (attempt.replaces, old):
            if key is not None:
                held = await self._store.find(key, self._timing.now(), self._timing.idle, use=False)
                if held is not None:
                    return held
        return None

    async def _retire(self, replaced: Held, new: Session) -> None:
        """Ends the old session's streams and its grant: nothing of it is needed any more."""
        await self._store.remove(replaced.session.key)
        await self._over(replaced.session, "SIGNED_IN_AGAIN")
        try:
            await self._relying_party.revoke(self._tokens.refresh_token(replaced))
        except Exception as error:  # the grant ends with its login session, or in a few hours
            _log.info("an old grant was not ended", session_name=new.name, error=type(error).__name__)

    async def _fetch_ahead(self, held: Held) -> None:
        """The tokens that the first page needs at once, so that it shows what the person may do."""
        for audience in (ORDERS, NOTIFICATIONS):
            current = await self._store.find(held.session.key, self._timing.now(), self._timing.idle, use=False)
            if current is None:
                return
            try:
                await self._tokens.token_for(current, audience, staleness=BOUNDED(60))
            except (ServiceError, RescindError) as error:
                _log.info("a token was not to be had yet", audience=audience, reason=error.reason)


def _refused(reason: str, detail: str) -> ServiceError:
    return ServiceError(Kind.INVALID, reason, f"{detail} Begin again.")
