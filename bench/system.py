"""The real system under the bench: Valkey, identity and orders as processes, and clients of theirs."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc.aio
import httpx2

from contracts.identity.v1 import revocations_pb2, revocations_pb2_grpc
from devstack.flow import OAuthClient
from devstack.seeds import IDENTITY, ORDERS, client_secret
from devstack.stack import Ports, Stack
from rescind.connect import Addresses

VERIFYING = 3  # services of the system that hold the denylist: orders, notifications, session
_DEADLINE = 5.0  # seconds for one call


@dataclass(frozen=True, slots=True)
class System:
    """A running system. `folder` is where its data lies."""

    stack: Stack
    folder: Path
    http: httpx2.AsyncClient
    backoffice: OAuthClient
    revocations: "revocations_pb2_grpc.RevocationsServiceAsyncStub"
    administrator: str  # an access token

    @property
    def redis_url(self) -> str:
        """Its Valkey."""
        return self.stack.redis_url

    @property
    def verifier(self) -> Addresses:
        """What a verifier for orders is connected with."""
        addresses = self.stack.addresses
        return Addresses(
            issuer=addresses.issuer,
            audience=ORDERS,
            identity_url=addresses.issuer,
            identity_grpc=addresses.identity_grpc,
            redis_url=self.redis_url,
            client_id="orders",
            client_secret=client_secret("orders"),
        )

    async def tokens(self, number: int) -> list[str]:
        """Access tokens for orders, each issued by identity."""
        issued = [await self.backoffice.client_credentials(scope="orders:read", resource=ORDERS) for _ in range(number)]
        return [tokens.access_token for tokens in issued]

    async def revoke(
        self, jti: str, *, wait: "revocations_pb2.Wait.ValueType" = revocations_pb2.WAIT_COMMITTED
    ) -> revocations_pb2.RevokeResponse:
        """Takes one token back; returns when that is acknowledged."""
        return await self.revocations.Revoke(
            revocations_pb2.RevokeRequest(token=jti, cause="BENCH", wait=wait),
            metadata=[("authorization", f"Bearer {self.administrator}")],
            timeout=_DEADLINE,
        )

    async def status(self) -> revocations_pb2.GetStatusResponse:
        """Where the log stands."""
        return await self.revocations.GetStatus(
            revocations_pb2.GetStatusRequest(),
            metadata=[("authorization", f"Bearer {self.administrator}")],
            timeout=_DEADLINE,
        )


@contextlib.asynccontextmanager
async def running_system() -> AsyncIterator[System]:
    """A fresh system on free ports, gone at the end of the block."""
    async with contextlib.AsyncExitStack() as held:
        folder = Path(held.enter_context(TemporaryDirectory(prefix="rescind-bench-")))
        stack = await held.enter_async_context(Stack(folder, Ports.free(), lambda _name, _line: None))
        http = await held.enter_async_context(httpx2.AsyncClient(timeout=_DEADLINE, trust_env=False))
        channel = await held.enter_async_context(grpc.aio.insecure_channel(stack.addresses.identity_grpc))
        backoffice = OAuthClient(http, stack.addresses.issuer, "backoffice", secret=client_secret("backoffice"))
        administrator = await backoffice.client_credentials(scope="identity:admin", resource=IDENTITY)
        stub = revocations_pb2_grpc.RevocationsServiceStub(channel)
        yield System(stack, folder, http, backoffice, stub, administrator.access_token)
