"""The door: how many guesses somebody has, and how a browser is known again.

Four limits stand before a password is looked at, and all of them count unknown accounts like known ones:

* an account from one network: a few failures. Whoever guesses shuts out themselves, not the owner elsewhere;
* a network: many failures, for a house with one address. One machine with a list of leaked passwords meets that;
* an account from everywhere: then attempts are slowed down, not stopped. A thousand machines that guess at one account
  get a handful of guesses a minute between them;
* a browser that signed in to this account before is not slowed down by those, and has a budget of its own. So strangers
  cannot keep an owner out who uses a browser that is known.

What a known browser holds is a cookie with an id, signed together with the account and its hard generation: a password
change makes every browser a stranger. It lets nobody in; it only tells a browser from a stranger's.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.responses import Response

from identity.domain import Credentials, Entropy, base64url, new_id
from servicekit.throttle import Limit, Throttle, TooMany

DEVICE_COOKIE = "__Host-rescind_device"
DEVICE_LIFE = 180 * 86_400  # seconds
_DEVICE = re.compile(r"(dev_[A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class Limits:
    """How many attempts, in any so many seconds."""

    account_network: Limit = field(default=Limit("signin-account-network", 10, 900))
    network: Limit = field(default=Limit("signin-network", 300, 900))
    account: Limit = field(default=Limit("signin-account", 50, 3600))
    account_slowed: Limit = field(default=Limit("signin-account-slowed", 6, 60))
    device: Limit = field(default=Limit("signin-device", 10, 900))
    mail_address: Limit = field(default=Limit("mail-address", 4, 3600))
    mail_network: Limit = field(default=Limit("mail-network", 30, 3600))
    proof: Limit = field(default=Limit("password-proof", 10, 900))
    # Rows of up to 8 KiB that live ten minutes, and need nobody's password.
    kept: Limit = field(default=Limit("kept-requests", 300, 600))
    client_failures: Limit = field(default=Limit("client-failures", 120, 60))
    client: Limit = field(default=Limit("client", 6000, 60))


class Devices:
    """Signs what a known browser holds with the newest key, accepts any."""

    def __init__(self, keys: Sequence[bytes], entropy: Entropy) -> None:
        self._keys = tuple(keys)
        self._entropy = entropy

    def remember(self, user_id: str, hard_gen: int) -> str:
        """The value of a cookie for a browser that has just signed in."""
        device = new_id("dev", self._entropy)
        return f"{device}.{self._sign(self._keys[0], device, user_id, hard_gen)}"

    def known(self, cookie: str | None, user_id: str, hard_gen: int) -> str | None:
        """The id of the browser, if it signed in to this account since its password was changed last."""
        found = _DEVICE.fullmatch(cookie or "")
        if found is None:
            return None
        signed = (self._sign(key, found[1], user_id, hard_gen) for key in self._keys)
        return found[1] if any(hmac.compare_digest(found[2], one) for one in signed) else None

    def _sign(self, key: bytes, device: str, user_id: str, hard_gen: int) -> str:
        return base64url(hmac.digest(key, f"device\0{device}\0{user_id}\0{hard_gen}".encode(), hashlib.sha256))


@dataclass(frozen=True, slots=True)
class Guess:
    """An attempt to sign in that was let through, and what it was counted under."""

    account: str
    network: str
    device: str | None


@dataclass(frozen=True, slots=True)
class Door:
    """Decides who may try."""

    throttle: Throttle
    devices: Devices
    limits: Limits

    async def admit(self, email: str, network: str, known: Credentials | None, device_cookie: str | None) -> Guess:
        """Counts an attempt at an account before its password is looked at.

        Raises:
            TooMany: whether or not there is such an account.
        """
        account = email.strip().lower()
        device = None if known is None else self.devices.known(device_cookie, known.user_id, known.hard_gen)
        limits, take = self.limits, self.throttle.take
        if device is not None:
            await take(limits.device, account, device)
            return Guess(account, network, device)
        # Checked, and counted when it fails: a house with one address may sign in as often as it likes. What slips in
        # at once is no more than the hashing queue holds.
        await self.throttle.check(limits.network, network)
        await take(limits.account_network, account, network)
        try:
            await self.throttle.check(limits.account, account)
        except TooMany:
            await take(limits.account_slowed, account)
        return Guess(account, network, device)

    async def failed(self, guess: Guess) -> None:
        """The password was wrong: everybody's budget for this account shrinks, and the network's for all accounts."""
        if guess.device is None:
            await self.throttle.count(self.limits.network, guess.network)
        await self.throttle.count(self.limits.account, guess.account)

    async def right(self, guess: Guess) -> None:
        """The password was right: this network's failures at this account are forgiven, as typing errors are."""
        if guess.device is not None:
            await self.throttle.forget(self.limits.device, guess.account, guess.device)
        await self.throttle.forget(self.limits.account_network, guess.account, guess.network)

    async def mail(self, email: str, network: str) -> None:
        """Counts a mail that somebody asks for, so that nobody's mailbox is filled.

        Raises:
            TooMany: whether or not there is an account with this address.
        """
        await self.throttle.take(self.limits.mail_network, network)
        await self.throttle.take(self.limits.mail_address, email.strip().lower())

    async def keeps(self, network: str) -> None:
        """Counts a long authorization request that is kept while its person is elsewhere.

        Raises:
            TooMany: more than a house of people signs in with.
        """
        await self.throttle.take(self.limits.kept, network)

    async def proof(self, user_id: str, network: str) -> None:
        """Counts an attempt to prove again who is signed in.

        Raises:
            TooMany: more than anybody mistypes.
        """
        await self.throttle.take(self.limits.proof, user_id, network)

    async def client(self, client_id: str, network: str) -> None:
        """Counts a request of a client, before it is served.

        Raises:
            TooMany: too many failures lately, or far more requests than a client has a use for.
        """
        await self.throttle.check(self.limits.client_failures, client_id, network)
        await self.throttle.take(self.limits.client, client_id, network)

    async def client_failed(self, client_id: str, network: str) -> None:
        """The request was refused: a wrong secret, a code or token that is no good."""
        await self.throttle.count(self.limits.client_failures, client_id, network)

    def remember(self, response: Response, user_id: str, hard_gen: int) -> None:
        """Lets the browser be known again at this account."""
        value = self.devices.remember(user_id, hard_gen)
        response.set_cookie(
            DEVICE_COOKIE, value, max_age=DEVICE_LIFE, path="/", secure=True, httponly=True, samesite="lax"
        )
