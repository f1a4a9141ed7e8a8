"""A service's own access token (RFC 6749 section 4.4), to ask identity with."""

import asyncio
from collections.abc import Callable

import httpx2

from rescind.clock import since_boot
from rescind.introspection import NobodyAnswered
from rescind.keys import tls_context


class ClientCredentials:
    """Gives an access token for `resource`, a new one when the old is about to expire. One request at a time.

    Call the object: `await credentials()`. `early` is how many seconds before its expiry a token is replaced.
    """

    def __init__(
        self,
        token_endpoint: str,
        client_id: str,
        client_secret: str,
        *,
        resource: str,
        timeout: float = 2.0,
        early: float = 60.0,
        monotonic: Callable[[], float] = since_boot,
    ) -> None:
        self._endpoint = token_endpoint
        self._auth = httpx2.BasicAuth(client_id, client_secret)
        self._form = {"grant_type": "client_credentials", "resource": resource}
        self._timeout = timeout
        self._early = early
        self._monotonic = monotonic
        self._token = ""
        self._replace_at = float("-inf")
        self._expires_at = float("-inf")
        self._lock = asyncio.Lock()

    async def __call__(self) -> str:
        """A token that is good for a while.

        Raises:
            NobodyAnswered: there is none, and the token endpoint cannot be reached.
            PermissionError: the token endpoint refused.
        """
        if self._monotonic() < self._replace_at:
            return self._token
        async with self._lock:
            if self._monotonic() < self._replace_at:
                return self._token
            try:
                await self._fetch()
            except NobodyAnswered:
                if self._monotonic() >= self._expires_at:
                    raise
            return self._token

    def forget(self, refused: str) -> None:
        """Fetches a new token at the next call, if this is the one that was refused and not yet another."""
        if refused == self._token:
            self._replace_at = self._expires_at = float("-inf")

    async def _fetch(self) -> None:
        asked_at = self._monotonic()
        try:
            async with httpx2.AsyncClient(timeout=self._timeout, trust_env=False, verify=tls_context()) as client:
                response = await client.post(self._endpoint, data=self._form, auth=self._auth)
        except httpx2.HTTPError as failure:
            raise NobodyAnswered(type(failure).__name__) from None
        if response.status_code in (502, 503, 504):  # somebody in between says that nobody is there
            raise NobodyAnswered(f"the token endpoint answered {response.status_code}")
        if response.status_code != 200:
            raise PermissionError(f"the token endpoint answered {response.status_code}")
        answer = response.json()
        life = float(answer["expires_in"])
        self._token = str(answer["access_token"])
        self._expires_at = asked_at + life
        self._replace_at = asked_at + max(life - self._early, life / 2)
