"""The issuer, asked about one token when nothing else can tell (RFC 7662)."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from rescind.errors import NotFresh, RescindError, TokenRefused
from rescind.policy import Staleness
from rescind.state import Freshness

MAX_QUESTIONS = 64  # introspections under way at once; more would not help an identity that is already slow


class NobodyAnswered(Exception):
    """The issuer could not be reached, or did not answer in time. Any other failure is an answer, and refuses."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the issuer says of a token. `reason` is UPPER_SNAKE where it is not active, and may be empty."""

    active: bool
    reason: str = ""


class Introspector(Protocol):
    """The issuer, asked about one token (RFC 7662)."""

    async def introspect(self, unverified_token: str) -> Answer:
        """What the issuer says.

        Raises:
            NobodyAnswered: it said nothing.
        """
        ...


class Questions:
    """Asks `introspector`, a bounded number of questions at once, each for `timeout` seconds. None: nobody answers."""

    def __init__(self, introspector: Introspector | None, *, timeout: float) -> None:
        self._introspector = introspector
        self._timeout = timeout
        self._turns = asyncio.Semaphore(MAX_QUESTIONS)

    async def ask(self, unverified_token: str) -> Answer | None:
        """What the issuer says, or None if nobody answers.

        Raises:
            RescindError: it answered with an error, which is an answer too, and not a yes.
        """
        if self._introspector is None:
            return None
        try:
            # Waiting in line counts: whoever gets no turn in time has no answer either.
            async with asyncio.timeout(self._timeout), self._turns:
                return await self._introspector.introspect(unverified_token)
        except (NobodyAnswered, TimeoutError):
            return None
        except RescindError:
            raise
        except Exception as failure:
            raise NotFresh(f"asking the issuer failed: {type(failure).__name__}") from None


def needs_answer(staleness: Staleness, freshness: Freshness) -> bool:
    """Whether the issuer must be asked; if not, the token passes as far as staleness goes.

    Raises:
        NotFresh: nobody needs to be asked to refuse.
    """
    if freshness is Freshness.FRESH:
        return False
    if staleness.kind == "strict":
        raise NotFresh(f"revocations are {freshness.value}, and this is STRICT")
    return staleness.kind != "best_effort" or freshness is Freshness.SYNCING


def settle(answer: Answer | None, staleness: Staleness, freshness: Freshness, stale_for: float) -> None:
    """Returns if a token may pass of which the issuer said `answer`; `stale_for` is infinite while SYNCING.

    Raises:
        TokenRefused: the issuer refuses it.
        NotFresh: nobody answered, and it is too late to do without.
    """
    if answer is None:
        if staleness.kind == "best_effort" or freshness is Freshness.SYNCING or not stale_for <= staleness.seconds:
            raise NotFresh(f"revocations are {freshness.value}, and nobody answers")
    elif not answer.active:
        raise TokenRefused("the issuer refuses it", reason=answer.reason or None)
