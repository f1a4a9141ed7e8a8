"""Getting a token for identity: by the device grant (RFC 8628), by refresh, or as a client for itself.

`SignIn` is the `AccessTokens` of a channel: call it for a token. It asks nobody to sign in by itself; `device` does.
"""

import asyncio
import base64
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote_plus, urlsplit

import httpx2

from console.tokens import Kept, TokenFile

IDENTITY = "urn:rescind:identity"
SCOPE = "openid offline_access identity:admin"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_DEADLINE = 10.0  # seconds for one request
_EARLY = 30.0  # seconds before its expiry that a token is replaced


class ConsoleError(Exception):
    """Why a command ended without doing what it should: one sentence for whoever typed it."""


class SignIn:
    """One client at one issuer."""

    def __init__(
        self,
        issuer: str,
        client_id: str,
        secret: str,
        kept: TokenFile,
        *,
        now: Callable[[], float] = time.time,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Without a `secret` the client is a public one, and a person signs in with it."""
        self.issuer = issuer.rstrip("/")
        self.client_id = client_id
        self._secret = secret
        self._file = kept
        self._now = now
        self._pause = pause
        self._own: Kept | None = None  # a client's own token is not kept on disk
        self._endpoints: Mapping[str, Any] = {}

    async def __call__(self) -> str:
        """An access token for identity that is good for a while.

        Raises:
            ConsoleError: nobody is signed in, or the client's secret is wrong, or identity does not answer.
        """
        kept = self._own if self._secret else self._file.read()
        if kept is not None and kept.expires_at - _EARLY > self._now():
            return kept.access_token
        if self._secret:
            self._own = await self._token(grant_type="client_credentials", resource=IDENTITY)
            return self._own.access_token
        if kept is None or not kept.refresh_token:
            raise ConsoleError("Nobody is signed in here. Try: rescind sign-in")
        renewed = await self._token(grant_type="refresh_token", refresh_token=kept.refresh_token, resource=IDENTITY)
        self._file.write(renewed)
        return renewed.access_token

    def forget(self, refused: str) -> None:
        """That one was refused: the next call gives another, if a refresh can."""
        kept = self._own if self._secret else self._file.read()
        if kept is None or kept.access_token != refused:
            return
        if self._secret:
            self._own = None
        else:
            self._file.write(Kept("", 0, kept.refresh_token, kept.scope))

    async def device(self, show: Callable[[str, str, str], None], *, max_auth_age: int | None = None) -> Kept:
        """Waits for a person to let this device in. `show(uri, user code, uri with the code)` tells them how.

        With `max_auth_age` it must be somebody who signed in so many seconds ago at most. What was kept before is
        given back.

        Raises:
            ConsoleError: they refused, or took too long.
        """
        asked = {"scope": SCOPE, "resource": IDENTITY}
        if max_auth_age is not None:
            asked["max_age"] = str(max_auth_age)
        before = self._file.read()
        begun = await self._post(await self._endpoint("device_authorization_endpoint"), asked)
        show(
            str(begun["verification_uri"]),
            str(begun["user_code"]),
            str(begun.get("verification_uri_complete") or begun["verification_uri"]),
        )
        interval = float(begun.get("interval", 5))
        until = self._now() + float(begun["expires_in"])
        while self._now() < until:
            await self._pause(interval)
            try:
                kept = await self._token(grant_type=DEVICE_GRANT, device_code=str(begun["device_code"]))
            except Pending as pending:
                interval += 5 if pending.slower else 0  # RFC 8628 section 3.5
            else:
                self._file.write(kept)
                with contextlib.suppress(ConsoleError):  # the new ones are good whatever becomes of the old
                    await self._give_back(before)
                return kept
        raise ConsoleError("Nobody let this device in, in time. Try again.")

    async def end(self) -> bool:
        """Gives the refresh token back, which takes what it gave along, and forgets; tells whether there was any."""
        await self._give_back(self._file.read())
        return self._file.forget()

    async def _give_back(self, kept: Kept | None) -> None:
        if kept is not None and kept.refresh_token:
            await self._post(await self._endpoint("revocation_endpoint"), {"token": kept.refresh_token})

    async def _token(self, **asked: str) -> Kept:
        answer = await self._post(await self._endpoint("token_endpoint"), asked)
        return Kept(
            access_token=str(answer["access_token"]),
            expires_at=self._now() + float(answer["expires_in"]),
            refresh_token=str(answer.get("refresh_token", "")),
            scope=str(answer.get("scope", "")),
        )

    async def _endpoint(self, name: str) -> str:
        if not self._endpoints:
            found = await self._request("GET", f"{self.issuer}/.well-known/oauth-authorization-server")
            if found.get("issuer") != self.issuer:  # RFC 8414 section 3.3
                raise ConsoleError("What answers there says that it is another issuer.")
            self._endpoints = found
        endpoint = self._endpoints.get(name)
        if not isinstance(endpoint, str) or urlsplit(endpoint)[:2] != urlsplit(self.issuer)[:2]:
            raise ConsoleError(f"This identity has no {name.replace('_', ' ')}.")
        return endpoint

    async def _post(self, url: str, asked: Mapping[str, str]) -> Mapping[str, Any]:
        headers, form = {}, dict(asked)
        if self._secret:
            pair = f"{quote_plus(self.client_id)}:{quote_plus(self._secret)}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form["client_id"] = self.client_id
        return await self._request("POST", url, data=form, headers=headers)

    async def _request(self, method: str, url: str, **sent: Any) -> Mapping[str, Any]:
        try:
            async with httpx2.AsyncClient(timeout=_DEADLINE, follow_redirects=False, trust_env=False) as http:
                response = await http.request(method, url, **sent)
        except (httpx2.HTTPError, httpx2.InvalidURL) as failure:
            raise ConsoleError(f"Identity does not answer at {self.issuer} ({type(failure).__name__}).") from None
        try:
            answer = response.json()
        except ValueError:
            answer = {}
        if not isinstance(answer, dict):
            answer = {}
        if response.status_code == 200:
            return answer
        error = str(answer.get("error") or answer.get("reason") or response.status_code)
        if error in ("authorization_pending", "slow_down"):
            raise Pending(slower=error == "slow_down")
        raise ConsoleError(_WORDS.get(error, f"Identity refused: {error}."))


class Pending(Exception):
    """The person has not decided yet."""

    def __init__(self, *, slower: bool) -> None:
        super().__init__()
        self.slower = slower


_WORDS = {
    "access_denied": "The sign-in was refused.",
    "expired_token": "Nobody let this device in, in time. Try again.",
    "invalid_grant": "The sign-in has ended. Try: rescind sign-in",
    "invalid_client": "Identity does not know this client, or its secret is wrong.",
    "unauthorized_client": "This client may not sign in like this.",
}
