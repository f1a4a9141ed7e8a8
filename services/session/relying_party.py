"""Identity, as an OAuth 2.0 client meets it: the confidential client `web`, through Authlib.

Code + PKCE (RFC 7636), `resource` (RFC 8707), `iss` in the answer (RFC 9207); pushed authorization requests (RFC 9126)
and private_key_jwt (RFC 7523) where there is a key and identity's metadata announces them, else the client's secret.

One Authlib client serves all people: it is given every token and never asked for one, so it remembers nothing that
could become somebody else's.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import RSAKey

from rescind.clock import since_boot
from rescind.keys import tls_context
from servicekit.errors import Kind, ServiceError
from servicekit.telemetry import outgoing
from session.domain import AUDIENCES, IDENTITY, Attempt

SCOPE = "openid profile email orders:read orders:write orders:admin notifications:read identity:admin"
TIMEOUT = 5.0  # seconds for one answer of identity's
METADATA_LIFE = 300.0  # seconds
_ANSWERED_BY_NOBODY = (502, 503, 504)


class GrantEnded(Exception):
    """Identity says invalid_grant: the code or refresh token is no good, or what it hangs on has ended."""


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """A token response (RFC 6749 section 5.1)."""

    access_token: str = field(repr=False)
    expires_in: int
    scope: str
    refresh_token: str = field(repr=False)
    id_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Profile:
    """What userinfo says for people to see."""

    name: str
    email: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """How this client is known at identity. `identity_url` is where its HTTP is reached from here."""

    issuer: str
    identity_url: str
    client_id: str
    client_secret: str = field(repr=False)
    client_key: str = field(default="", repr=False)  # PEM; empty: none
    redirect_uri: str


class RelyingParty:
    """Asks identity. Every call has a deadline.

    All raise ServiceError IDENTITY_UNAVAILABLE when it does not answer, and IDENTITY_REFUSED when it answers with what
    only a wrong configuration explains.
    """

    def __init__(
        self,
        registration: Registration,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
        monotonic: Callable[[], float] = since_boot,
    ) -> None:
        self._registration = registration
        self._monotonic = monotonic
        more = {"verify": tls_context()} if transport is None else {"transport": transport}
        self._client = AsyncOAuth2Client(
            registration.client_id,
            registration.client_secret,
            redirect_uri=registration.redirect_uri,
            code_challenge_method="S256",
            timeout=TIMEOUT,
            follow_redirects=False,
            trust_env=False,
            **more,
        )
        if registration.client_key:
            key = RSAKey.import_key(registration.client_key)
            sign = PrivateKeyJWT(registration.issuer)  # aud is the issuer, as one string (RFC 7523bis)
            self._assertion: Any = _Assertion(key, sign)
        else:
            self._assertion = None
        self._metadata: Mapping[str, Any] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._client.aclose()

    async def authorization_url(self, attempt: Attempt, *, prompt: str | None = None) -> str:
        """Where the browser goes to sign in."""
        metadata = await self._known()
        endpoint = str(metadata["authorization_endpoint"])
        url, _ = self._client.create_authorization_url(
            endpoint,
            state=attempt.state,
            code_verifier=attempt.verifier,
            scope=SCOPE,
            nonce=attempt.nonce,
            resource=list(AUDIENCES),
            prompt=prompt,
        )
        pushed_to = metadata.get("pushed_authorization_request_endpoint")
        if not isinstance(pushed_to, str):
            return str(url)
        answer = await self._post(pushed_to, parse_qs(urlsplit(url).query))
        if answer.status_code != 201:
            raise refused("identity refused the pushed authorization request")
        request_uri = answer.json()["request_uri"]
        return f"{endpoint}?{urlencode({'client_id': self._registration.client_id, 'request_uri': request_uri})}"

    async def redeem(self, code: str, attempt: Attempt) -> TokenAnswer:
        """Tokens for a code; the access token is for identity.

        Raises:
            GrantEnded: the code is no good.
        """
        return await self._token(
            grant_type="authorization_code", code=code, code_verifier=attempt.verifier, resource=IDENTITY
        )

    async def refresh(self, refresh_token: str, audience: str) -> TokenAnswer:
        """An access token for `audience`, and the refresh token that follows.

        Raises:
            GrantEnded: the refresh token is no good any more.
        """
        return await self._token(grant_type="refresh_token", refresh_token=refresh_token, resource=audience)

    async def revoke(self, refresh_token: str, *, end_session: bool = False) -> None:
        """Ends the grant of a refresh token (RFC 7009); with `end_session` the login session that it is tied to, so
        the person is signed out there. The token may be spent, and what has ended already is ended: so whoever got no
        answer asks again.
        """
        endpoint = str((await self._known())["revocation_endpoint"])
        form = {"token": [refresh_token], "token_type_hint": ["refresh_token"]}
        answer = await self._post(endpoint, form | ({"rescind_end_session": ["true"]} if end_session else {}))
        if answer.status_code != 200:
            raise refused(f"identity answered {answer.status_code} to a revocation")

    async def profile(self, access_token: str) -> Profile:
        """What userinfo says of the person whose token for identity this is."""
        endpoint = str((await self._known())["userinfo_endpoint"])
        try:
            answer = await self._client.request(
                "GET",
                self._inside(endpoint),
                headers={"authorization": f"Bearer {access_token}", **outgoing()},
                withhold_token=True,
            )
        except httpx2.HTTPError as failure:
            raise unavailable() from failure
        if answer.status_code != 200:
            raise unavailable() if answer.status_code in _ANSWERED_BY_NOBODY else refused("no userinfo")
        said = answer.json()
        return Profile(str(said.get("name", "")), str(said.get("email", "")))

    async def metadata(self) -> Mapping[str, Any]:
        """What identity says of itself (RFC 8414), of identity's own issuer and of no other."""
        return await self._known()

    async def _token(self, **parameters: str) -> TokenAnswer:
        metadata = await self._known()
        try:
            said = await self._client.fetch_token(
                self._inside(str(metadata["token_endpoint"])),
                auth=self._authentication(metadata),
                headers={"accept": "application/json", **outgoing()},
                **parameters,
            )
        except OAuthError as error:
            if error.error == "invalid_grant":
                raise GrantEnded from None
            if error.error in ("temporarily_unavailable", "slow_down", "server_error"):
                raise unavailable() from None
            raise refused(f"identity answered {error.error}") from None
        except (httpx2.HTTPError, ValueError) as failure:  # ValueError: an answer that is no JSON object
            raise unavailable() from failure
        if "access_token" not in said or "refresh_token" not in said:
            raise unavailable()  # problem details of a service in trouble, for instance
        return TokenAnswer(
            access_token=str(said["access_token"]),
            expires_in=int(said["expires_in"]),
            scope=str(said.get("scope", "")),
            refresh_token=str(said["refresh_token"]),
            id_token=str(said.get("id_token", "")),
        )

    async def _post(self, url: str, form: Mapping[str, list[str]]) -> httpx2.Response:
        metadata = await self._known()
        try:
            answer: httpx2.Response = await self._client.post(
                self._inside(url), data=form, auth=self._authentication(metadata), headers=outgoing()
            )
        except httpx2.HTTPError as failure:
            raise unavailable() from failure
        if answer.status_code in _ANSWERED_BY_NOBODY:
            raise unavailable()
        return answer

    def _authentication(self, metadata: Mapping[str, Any]) -> Any:
        """How this client says who it is: with its key where identity takes that, else with its secret."""
        if self._assertion is not None and "private_key_jwt" in metadata["token_endpoint_auth_methods_supported"]:
            return self._client.client_auth(self._assertion)
        return self._client.client_auth("client_secret_basic")

    async def _known(self) -> Mapping[str, Any]:
        if self._monotonic() - self._read_at < METADATA_LIFE:
            return self._metadata
        async with self._reading:
            if self._monotonic() - self._read_at < METADATA_LIFE:
                return self._metadata
            try:
                self._metadata = await self._read()
                self._read_at = self._monotonic()
            except ServiceError:
                if not self._metadata:
                    raise
                self._read_at = self._monotonic() - METADATA_LIFE + 5  # the old will do; look again in 5 s
            return self._metadata

    async def _read(self) -> Mapping[str, Any]:
        url = f"{self._registration.identity_url}/.well-known/openid-configuration"
        try:
            answer = await self._client.request("GET", url, withhold_token=True)
            said = answer.json() if answer.status_code == 200 else None
        except (httpx2.HTTPError, ValueError) as failure:
            raise unavailable() from failure
        if not isinstance(said, dict):
            raise unavailable()
        # RFC 8414 section 3.3: metadata of another issuer must not be used.
        if said.get("issuer") != self._registration.issuer:
            raise refused("the metadata is of another issuer")
        return said

    def _inside(self, url: str) -> str:
        """Where an endpoint is reached from here: identity names its endpoints as the world sees them."""
        issuer = self._registration.issuer
        if url != issuer and not url.startswith(issuer + "/"):
            raise refused("an endpoint is not at the issuer")
        return self._registration.identity_url + url.removeprefix(issuer)


class _Assertion:
    """private_key_jwt as Authlib calls an authentication method, with our key instead of the client's secret."""

    def __init__(self, key: RSAKey, sign: PrivateKeyJWT) -> None:
        self._key = key
        self._sign = sign

    def __call__(self, auth: Any, method: str, uri: str, headers: Any, body: Any) -> Any:
        auth.client_secret = self._key
        text = body.decode() if isinstance(body, bytes) else body
        return self._sign(auth, method, uri, headers, text)


def unavailable() -> ServiceError:
    """Identity does not answer. Nobody is signed out for that."""
    return ServiceError(
        Kind.UNAVAILABLE,
        "IDENTITY_UNAVAILABLE",
        "Identity does not answer. You are still signed in; try again.",
        retry_after=2.0,
    )


def refused(why: str) -> ServiceError:
    """Identity answered, and not as it does to a client that is set up rightly; `why` holds no secret."""
    return ServiceError(Kind.UNAVAILABLE, "IDENTITY_REFUSED", f"Signing in does not work: {why}.", retry_after=30.0)
