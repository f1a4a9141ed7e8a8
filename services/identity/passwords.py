"""Passwords: what is accepted as one, how it is kept, and how a guess is answered without telling anything.

Kept as Argon2id with OWASP's parameters (19 MiB, 2 passes, 1 lane; some 20 ms of one core). Hashing runs in a few
threads of its own, so that a flood of guesses slows down sign-ins and nothing else, and the queue before them is
bounded: beyond it callers are told to come back.

A password is taken as it was typed: no trimming, no change of case, no truncation. The one change is Unicode
normalization to NFC, because keyboards differ in whether é is one code point or two; NFKC would also make ² a 2, that
is, different passwords equal. Length counts code points after it: at least 8 (the page recommends 15), at most 128.
"""

import unicodedata
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from identity.domain import Entropy, new_secret
from servicekit.errors import Kind, ServiceError

SHORTEST = 8
RECOMMENDED = 15
LONGEST = 128

T = TypeVar("T")

# Of 8 characters and more, what leads every list of leaked passwords; the shorter ones are refused for their length.
_COMMON = frozenset(
    """
    0123456789 0987654321 1111111111 11111111 111222333 112233445566 1122334455 11223344 12121212 1212312121 123123123
    123123123123 123321123 1234554321 12341234 12344321 123454321 12345678 123456789 1234567890 123456789a 123456789q
    12345678910 1234567891 12345678a 1234abcd 123qweasd 123qwe123 147258369 159357456 159753456 1q2w3e4r 1q2w3e4r5t
    1q2w3e4r5t6y 1qaz2wsx 1qaz2wsx3edc 22222222 33333333 55555555 66666666 741852963 77777777 789456123 87654321
    88888888 963852741 987654321 99999999 a1234567 a12345678 a123456789 aa123456 aa12345678 aaaaaaaa abc12345 abc123456
    abcd1234 abcdefgh abcdefghi administrator alexander alexandra andromeda asdasdasd asdf1234 asdfasdf asdfghjk
    asdfghjkl babygirl1 barcelona baseball basketball benjamin blink182 butterfly california caroline changeme
    changeme123 charlie1 cheesecake chocolate christian christine computer cristina danielle dragon123 einstein
    elephant elizabeth fernando football football1 fortnite123 francesco gabriela garfield godzilla hahahaha hellohello
    hello123 iloveyou iloveyou1 iloveyou2 internet jennifer jessica1 jonathan juventus letmein1 letmein123 liverpool
    lovelove macintosh manchester margaret marlboro maverick mercedes metallica michelle microsoft midnight minecraft
    mustang1 nicholas november p@ssw0rd pa$$w0rd pa55word passw0rd password password! password1 password1! password12
    password123 password1234 passwort1 patricia pokemon1 princess princess1 q1w2e3r4 q1w2e3r4t5 qazwsxedc qwer1234
    qwerasdf qwert123 qwerty12 qwerty123 qwerty1234 qwerty12345 qwertyui qwertyuiop rebecca1 rush2112 samantha
    savannah scorpion security slipknot spiderman spongebob starwars starwars1 stephanie strawberry sunflower sunshine
    sunshine1 superman superman1 sweetheart template testtest trustno1 undertaker valentina valentine veronica victoria
    volleyball welcome1 welcome123 whatever william1 zaq12wsx zxcvbnm1 zxcvbnm123
    """.split()  # noqa: SIM905  (200 quoted words are harder to read)
)


class PasswordRefused(Exception):
    """Not accepted as a new password. `reason` is stable UPPER_SNAKE; the text is for the person who chose it."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(advice)
        self.reason = reason


def check_new(password: str, *, email: str = "") -> None:
    """Returns when `password` may become the password of the account with this e-mail address.

    Raises:
        PasswordRefused: too short, too long, one of the most common, or the account's own name.
    """
    normal = unicodedata.normalize("NFC", password)
    if len(normal) < SHORTEST:
        raise PasswordRefused("PASSWORD_TOO_SHORT", f"Use at least {SHORTEST} characters; {RECOMMENDED} are better.")
    if len(normal) > LONGEST:
        raise PasswordRefused("PASSWORD_TOO_LONG", f"Use at most {LONGEST} characters.")
    folded = normal.casefold()
    if folded in _COMMON or len(set(folded)) == 1:
        raise PasswordRefused("PASSWORD_TOO_COMMON", "This password is one of the first that anybody would try.")
    if email and folded in (email.casefold(), email.casefold().partition("@")[0]):
        raise PasswordRefused("PASSWORD_IS_ACCOUNT", "This password is the name of the account.")


class Passwords:
    """Hashes and checks passwords in a bounded number of threads."""

    def __init__(
        self, *, entropy: Entropy, hasher: PasswordHasher | None = None, threads: int = 2, waiting_limit: int = 32
    ) -> None:
        """`threads` hash at once; `waiting_limit` more may wait. A test may pass a cheaper `hasher`."""
        self._hasher = hasher or PasswordHasher(memory_cost=19 * 1024, time_cost=2, parallelism=1)
        self._threads = CapacityLimiter(threads)
        self._most_inside = threads + waiting_limit
        self._inside = 0
        # Nobody's: a guess at an unknown account is checked against it, so that it costs the same and tells nothing.
        self._nobodys = self._hasher.hash(new_secret(entropy))

    async def hash(self, password: str) -> str:
        """What is stored of a password that `check_new` accepted (PHC string).

        Raises:
            ServiceError: PASSWORD_CHECKS_OVERLOADED.
        """
        return await self._in_thread(partial(self.hash_blocking, password))

    def hash_blocking(self, password: str) -> str:
        """Like `hash`, in the calling thread: for commands, not for requests."""
        return self._hasher.hash(unicodedata.normalize("NFC", password))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether `password` is the one that was stored. None stands for no such account: the same work, and False.

        Raises:
            ServiceError: PASSWORD_CHECKS_OVERLOADED.
        """
        return await self._in_thread(partial(self._verify, stored, password))

    def outdated(self, stored: str) -> bool:
        """Whether a hash was made with other parameters than today's, and is worth making anew at the next sign-in."""
        return self._hasher.check_needs_rehash(stored)

    def _verify(self, stored: str | None, password: str) -> bool:
        normal = unicodedata.normalize("NFC", password)
        if len(normal) > LONGEST:
            # Nobody's password is that long. What goes into the hash stays bounded, and the answer takes as long.
            stored, normal = None, normal[:LONGEST]
        try:
            self._hasher.verify(stored or self._nobodys, normal)
        except (VerificationError, InvalidHashError):
            return False
        return stored is not None

    async def _in_thread(self, call: Callable[[], T]) -> T:
        if self._inside >= self._most_inside:
            raise ServiceError(
                Kind.UNAVAILABLE, "PASSWORD_CHECKS_OVERLOADED", "Too many sign-ins at once.", retry_after=1.0
            )
        self._inside += 1
        try:
            return await anyio.to_thread.run_sync(call, limiter=self._threads)
        finally:
            self._inside -= 1
