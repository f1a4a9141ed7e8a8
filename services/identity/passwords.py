"""Passwords: what is accepted as one, how it is kept, and how a guess is answered without telling anything.

Kept as Argon2id with OWASP's parameters (19 MiB, 2 passes, 1 lane; some 20 ms of one core). Hashing runs in a few
threads of its own, so that a flood of guesses slows down sign-ins and nothing else, and the queue before them is
bounded: beyond it callers are told to come back.

A password is taken as it was typed: no trimming, no change of case, no truncation. The one change is Unicode
normalization to NFC, because keyboards differ in whether é is one code point or two; NFKC would also make ² a 2, that
is, different passwords equal. Length counts code points after it: at least 8 (the page recommends 15), at most 128.

Refused are the passwords that are tried first: some thirty thousand leaked ones, names and words, those with a digit or
two behind them, repetitions, and rows of keys (ASVS 6.2.4 asks for the 3,000 most frequent).
"""

import unicodedata
from collections.abc import Callable
from functools import partial
from importlib import resources
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


def _common() -> frozenset[str]:
    """The passwords that anybody would try first: data of this package, made by tools/common_passwords.py."""
    lines = (resources.files("identity") / "common_passwords.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))


_COMMON = _common()
_ROWS = ("012345678901234567890", "abcdefghijklmnopqrstuvwxyz", "qwertyuiop", "asdfghjkl")
_ENDINGS = "0123456789!?.*#$@-_ "  # what people add to a common password that was refused


def _is_common(folded: str) -> bool:
    """Whether anybody would try it early: known, known with something short behind it, a pattern, or a row of keys."""
    if folded in _COMMON:
        return True
    if any(folded == folded[:unit] * (len(folded) // unit) for unit in (1, 2, 3, 4, 5) if len(folded) % unit == 0):
        return True
    if any(folded in row or folded in row[::-1] for row in _ROWS):
        return True
    return len(folded) < RECOMMENDED and folded.rstrip(_ENDINGS) in _COMMON


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
    if _is_common(folded):
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
        """Whether `password` is the one that was stored. None stands for no such account,
        and an empty string for one without a password: the same work, and False.

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
        return bool(stored)

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
