"""Identity over gRPC. A refusal becomes one sentence with its reason."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc.aio

from console.signin import ConsoleError, SignIn
from contracts.identity.v1 import (
    accounts_pb2_grpc,
    administration_pb2_grpc,
    keys_pb2_grpc,
    revocations_pb2_grpc,
    tokens_pb2_grpc,
)
from rescind import StepUpRequired
from rescind.grpc_source import CHANNEL_OPTIONS
from servicekit.clients import bearer, told

DEADLINE = 10.0  # seconds for one call
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Identity:
    """The services of identity, as whoever is signed in."""

    channel: grpc.aio.Channel
    sign_in: SignIn
    sign_in_again: Callable[[int], Awaitable[object]]  # has the person sign in within that many seconds of now

    @property
    def revocations(self) -> Any:
        """RevocationsService."""
        return revocations_pb2_grpc.RevocationsServiceStub(self.channel)

    @property
    def administration(self) -> Any:
        """AdministrationService."""
        return administration_pb2_grpc.AdministrationServiceStub(self.channel)

    @property
    def accounts(self) -> Any:
        """AccountsService."""
        return accounts_pb2_grpc.AccountsServiceStub(self.channel)

    @property
    def keys(self) -> Any:
        """KeysService."""
        return keys_pb2_grpc.KeysServiceStub(self.channel)

    @property
    def tokens(self) -> Any:
        """TokensService."""
        return tokens_pb2_grpc.TokensServiceStub(self.channel)

    async def call(self, method: Any, request: Any, *, deadline: float = DEADLINE) -> Any:
        """The answer of one call; once more with another token if the first was refused.

        Where identity wants a newer sign-in (RFC 9470), the person is asked for it.

        Raises:
            ConsoleError: identity refused, or does not answer.
        """
        for last in (False, True):
            token = await self.sign_in()
            try:
                return await in_words(method(request, metadata=bearer(token), timeout=deadline))
            except TooLongAgo as challenge:
                if last:
                    raise
                await self.sign_in_again(challenge.max_auth_age)
            except Unauthenticated:
                if last:
                    raise
                self.sign_in.forget(token)
        raise AssertionError("unreachable")


class Unauthenticated(ConsoleError):
    """The token was refused."""


class TooLongAgo(Unauthenticated):
    """The token is good, but the person signed in longer than `max_auth_age` seconds ago."""

    def __init__(self, words: str, max_auth_age: int) -> None:
        super().__init__(words)
        self.max_auth_age = max_auth_age


async def in_words(call: Awaitable[T]) -> T:
    """What `call` answers.

    Raises:
        ConsoleError: what it was refused for, in words.
    """
    try:
        return await call
    except grpc.aio.AioRpcError as failure:
        raise refused(failure) from None


def refused(failure: grpc.aio.AioRpcError) -> ConsoleError:
    """A refusal, in words."""
    error = told(failure)
    max_age = error.metadata.get("max_age", "")
    if error.reason == StepUpRequired.reason and max_age.isascii() and max_age.isdigit():
        return TooLongAgo(f"{error.detail} ({error.reason})", int(max_age))
    if failure.code() is grpc.StatusCode.UNAUTHENTICATED:
        return Unauthenticated(f"{error.detail} ({error.reason}) Try: rescind sign-in")
    fields = "".join(f"\n  {name}: {wrong}" for name, wrong in error.fields.items())
    return ConsoleError(f"{error.detail} ({error.reason}){fields}")


@asynccontextmanager
async def opened(
    address: str, sign_in: SignIn, sign_in_again: Callable[[int], Awaitable[object]]
) -> AsyncIterator[Identity]:
    """Identity at `host:port`, until the block is left."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        yield Identity(channel, sign_in, sign_in_again)
