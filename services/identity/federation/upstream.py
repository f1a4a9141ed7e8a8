"""One conversation with another provider, through Authlib's client: state, nonce and PKCE always.

An ID token is believed when it is signed by a key of the provider's with an algorithm of the list, says the provider
as its issuer and us as its audience, has not expired, and repeats our nonce (OpenID Connect Core section 3.1.3.7). No
token of the provider's is kept: it is used once, here, and forgotten.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx2
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from identity.federation.providers import Provider, is_safe
from servicekit.errors import Kind, ServiceError

ALGORITHMS = ("RS256", "PS256", "ES256")
DEADLINE = 10.0  # seconds for a whole conversation: a person waits
_LEEWAY = 60  # seconds that another provider's clock may be off
_OF_ANOTHER_SHAPE = (LookupError, TypeError, ValueError, AttributeError)  # what was said is not what it should be
_LONGEST_SUBJECT = 255  # characters (OpenID Connect Core section 2)


class NotBelieved(ServiceError):
    """The provider did not answer as it must. `why` is for the log, and holds nothing of what it said."""

    def __init__(self, why: str) -> None:
        detail = "The other provider did not answer as it should. Please try again, or sign in another way."
        super().__init__(Kind.FORBIDDEN, "PROVIDER_NOT_BELIEVED", detail)
        self.why = why


class SignInTooOld(ServiceError):
    """A new sign-in is wanted, and the provider lets people in who are signed in there, or does not say."""

    def __init__(self, provider: Provider) -> None:
        detail = f"A new sign-in is wanted here, and {provider.name} did not ask for one. Sign in with your password."
        super().__init__(Kind.FORBIDDEN, "PROVIDER_SIGN_IN_TOO_OLD", detail)


@dataclass(frozen=True, slots=True)
class Begun:
    """What an answer is checked against; it waits in a sealed cookie of the browser that began."""

    provider: str
    state: str
    nonce: str
    verifier: str
    at: int = 0  # seconds since the epoch
    anew: bool = False  # the person is to sign in there now, whether they are or not
    flow: str = ""  # what waits here, packed; a long request by its name (see `waiting`)
    link_to: str = ""  # usr_…: somebody who is signed in, and has just proven it, wants this provider linked
    hard_gen: int = 0  # of theirs, when they proved it


@dataclass(frozen=True, slots=True)
class Vouched:
    """What a provider says of somebody. `email` is empty unless it says that it has seen to it. `signed_in_for` is
    seconds since they signed in there; None where it does not say.
    """

    provider: str
    subject: str
    email: str
    name: str
    signed_in_for: int | None = None


class Upstream:
    """One provider. `redirect_uri` is ours."""

    def __init__(
        self,
        provider: Provider,
        redirect_uri: str,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.provider = provider
        self._redirect_uri = redirect_uri
        self._transport = transport
        self._now = now
        self._metadata: Mapping[str, Any] = {}

    def now(self) -> int:
        """Seconds since the epoch, by the clock that the provider's is compared with."""
        return int(self._now())

    async def start(self, begun: Begun) -> str:
        """Where to send the person.

        Raises:
            NotBelieved: the provider cannot be reached, or is another.
            SignInTooOld: it knows no way to ask for a new sign-in.
        """
        if begun.anew and self.provider.is_github:
            raise SignInTooOld(self.provider)
        async with self._client(
            "openid email profile" if not self.provider.is_github else "read:user user:email"
        ) as http:
            endpoint = (await self._described(http))["authorization_endpoint"]
            more = {} if self.provider.is_github else {"nonce": begun.nonce}
            if begun.anew:
                more |= {"prompt": "login", "max_age": "0"}  # and it must say `auth_time` (Core section 2)
            url, _ = http.create_authorization_url(endpoint, state=begun.state, code_verifier=begun.verifier, **more)
            return str(url)

    async def finish(self, begun: Begun, code: str, issuer: str | None) -> Vouched:
        """What the provider says of whoever came back with `code`. `issuer` is RFC 9207's `iss`, if there was one.

        Raises:
            NotBelieved: anything about it is wrong.
            SignInTooOld: they did not sign in there since `begun`, as they should have.
        """
        if issuer is not None and issuer != self.provider.issuer:
            raise NotBelieved("another issuer answered")
        try:
            async with asyncio.timeout(DEADLINE), self._client() as http:
                described = await self._described(http)
                if issuer is None and described.get("authorization_response_iss_parameter_supported") is True:
                    raise NotBelieved("nobody says who answered")  # RFC 9207 section 2.4
                token = await http.fetch_token(
                    described["token_endpoint"],
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=begun.verifier,
                    redirect_uri=self._redirect_uri,
                )
                if self.provider.is_github:
                    return await self._github(http)
                id_token = token.get("id_token")
                if not isinstance(id_token, str):
                    raise NotBelieved("there is no ID token")
                claims = await self._claims(http, described["jwks_uri"], id_token, begun.nonce)
                if "email" not in claims and "userinfo_endpoint" in described:
                    claims = await self._with_userinfo(http, described["userinfo_endpoint"], claims)
                return self._vouched(claims, begun)
        except (httpx2.HTTPError, AuthlibBaseError, TimeoutError, *_OF_ANOTHER_SHAPE) as failure:
            raise NotBelieved(type(failure).__name__) from None

    async def _claims(self, http: AsyncOAuth2Client, jwks_uri: str, id_token: str, nonce: str) -> Mapping[str, Any]:
        keys = await self._json(http, jwks_uri)
        try:
            decoded = jwt.decode(id_token, KeySet.import_key_set(keys), algorithms=list(ALGORITHMS))
            jwt.JWTClaimsRegistry(
                now=self.now(),
                leeway=_LEEWAY,
                iss={"essential": True, "value": self.provider.issuer},
                sub={"essential": True},
                aud={"essential": True, "value": self.provider.client_id},
                exp={"essential": True},
                iat={"essential": True},
                nonce={"essential": True, "value": nonce},
            ).validate(decoded.claims)
        except (JoseError, ValueError, TypeError) as error:
            raise NotBelieved(f"the ID token: {type(error).__name__}") from None
        claims: Mapping[str, Any] = decoded.claims
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", self.provider.client_id) != self.provider.client_id or (several and "azp" not in claims):
            raise NotBelieved("the ID token is for another client")
        return claims

    async def _with_userinfo(self, http: AsyncOAuth2Client, url: str, claims: Mapping[str, Any]) -> Mapping[str, Any]:
        """The claims, with name and address from userinfo, which must be about the same person (Core section 5.3.2)."""
        said = await self._json(http, url, with_token=True)
        if not isinstance(said, dict) or said.get("sub") != claims["sub"]:
            raise NotBelieved("userinfo is about somebody else")
        # Of one source: whether an address is verified says who says the address.
        address = {name: said.get(name) for name in ("email", "email_verified")}
        return {"name": said.get("name"), **claims, **address}

    def _vouched(self, claims: Mapping[str, Any], begun: Begun) -> Vouched:
        at = claims.get("auth_time")
        signed_in_at = at if isinstance(at, int) and not isinstance(at, bool) else None
        if begun.anew and (signed_in_at is None or signed_in_at < begun.at - _LEEWAY):
            raise SignInTooOld(self.provider)
        # Exactly true: `"true"` is what some say who have not checked.
        email = claims.get("email") if claims.get("email_verified") is True else ""
        who = self._checked(claims["sub"], email, claims.get("name"))
        return who if signed_in_at is None else replace(who, signed_in_for=max(0, self.now() - signed_in_at))

    async def _github(self, http: AsyncOAuth2Client) -> Vouched:
        api = self.provider.github_api
        user = await self._json(http, f"{api}/user", with_token=True)
        emails = await self._json(http, f"{api}/user/emails", with_token=True)
        primary = [one["email"] for one in emails if one.get("primary") is True and one.get("verified") is True]
        # The number stays when the login changes hands.
        number = user["id"]
        if not isinstance(number, int) or isinstance(number, bool):
            raise NotBelieved("no id")
        return self._checked(str(number), primary[0] if primary else "", user.get("name") or user.get("login"))

    def _checked(self, subject: object, email: object, name: object) -> Vouched:
        if not isinstance(subject, str) or not 1 <= len(subject) <= _LONGEST_SUBJECT or not subject.isprintable():
            raise NotBelieved("no subject")
        return Vouched(
            self.provider.id,
            subject,
            email.strip().lower() if isinstance(email, str) else "",
            " ".join(name.split())[:100] if isinstance(name, str) and name.isprintable() else "",
        )

    async def _described(self, http: AsyncOAuth2Client) -> Mapping[str, Any]:
        """The provider's metadata (RFC 8414), fetched once; of this issuer and no other (section 3.3)."""
        if self._metadata:
            return self._metadata
        if self.provider.is_github:
            base = f"{self.provider.github}/login/oauth"
            self._metadata = {"authorization_endpoint": f"{base}/authorize", "token_endpoint": f"{base}/access_token"}
            return self._metadata
        try:
            async with asyncio.timeout(DEADLINE):
                found = await self._json(http, f"{self.provider.issuer}/.well-known/openid-configuration")
        except (httpx2.HTTPError, TimeoutError) as failure:
            raise NotBelieved(type(failure).__name__) from None
        if not isinstance(found, dict) or found.get("issuer") != self.provider.issuer:
            raise NotBelieved("the metadata is of another issuer")
        used = ["authorization_endpoint", "token_endpoint", "jwks_uri"]
        for name in used + ["userinfo_endpoint"] * ("userinfo_endpoint" in found):
            if not isinstance(found.get(name), str) or not is_safe(found[name]):
                raise NotBelieved(f"no {name}")
        self._metadata = found
        return self._metadata

    async def _json(self, http: AsyncOAuth2Client, url: str, *, with_token: bool = False) -> Any:
        # A provider's token goes to its own API, and nowhere else.
        headers = {"accept": "application/json"}
        response = await http.request("GET", url, headers=headers, withhold_token=not with_token)
        if response.status_code != 200:
            raise NotBelieved(f"status {response.status_code}")
        try:
            return response.json()
        except ValueError:
            raise NotBelieved("no JSON") from None

    def _client(self, scope: str | None = None) -> AsyncOAuth2Client:
        return AsyncOAuth2Client(
            client_id=self.provider.client_id,
            client_secret=self.provider.client_secret.get_secret_value(),
            redirect_uri=self._redirect_uri,
            scope=scope,
            code_challenge_method="S256",
            leeway=0,  # else a token that lives a minute counts as dead
            timeout=DEADLINE,
            follow_redirects=False,
            trust_env=False,
            transport=self._transport,
        )
