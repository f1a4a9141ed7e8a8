"""What the steps of the story share: real clients of the system, and a stopwatch."""

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import httpx2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from contracts.identity.v1 import revocations_pb2, revocations_pb2_grpc
from contracts.orders.v1 import orders_pb2, orders_pb2_grpc
from devstack.flow import Browser, OAuthClient, Tokens
from devstack.seeds import ALICE, IDENTITY, ORDERS, PASSWORD, client_secret
from devstack.target import Target

REDIRECT = "http://127.0.0.1:53682/callback"
OK = "accepted"
ORDER = {"items": [{"sku": "teapot", "quantity": 1}]}
_DEADLINE = 5.0  # seconds for one call


class Unexpected(Exception):
    """The system did not do what the story says it does."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call came back with: `status` as the wire says it, `reason` UPPER_SNAKE or "accepted"."""

    status: str
    reason: str

    @property
    def accepted(self) -> bool:
        """Whether the call was let through."""
        return self.reason == OK

    @property
    def unauthenticated(self) -> bool:
        """Whether the token was refused, on either wire."""
        return self.status in ("401", "UNAUTHENTICATED")


@dataclass(frozen=True, slots=True)
class Step:
    """A row of the table. `ms` is from the acknowledged revocation to the first refusal on either wire, the slower,
    where `note` says nothing else.
    """

    act: str
    what: str
    http: Answer | None = None
    grpc: Answer | None = None
    ms: float | None = None
    note: str = ""


@dataclass(slots=True)
class Scene:
    """A system under way: clients for its wires, and the steps so far."""

    target: Target
    web: httpx2.AsyncClient
    orders: "orders_pb2_grpc.OrdersServiceAsyncStub"
    revocations: "revocations_pb2_grpc.RevocationsServiceAsyncStub"
    steps: list[Step] = field(default_factory=list)
    on_step: Callable[[Step], None] = lambda _step: None

    # Clients

    def client(self, client_id: str = "mobile") -> OAuthClient:
        """A client of identity; the confidential ones have a seeded secret."""
        secret = None if client_id in ("mobile", "cli") else client_secret(client_id)
        return OAuthClient(self.web, self.target.addresses.issuer, client_id, secret=secret, redirect_uri=REDIRECT)

    def browser(self) -> Browser:
        """A browser without cookies."""
        return Browser(self.web, self.target.addresses.issuer)

    async def signed_in(
        self, email: str = ALICE, *, browser: Browser | None = None, scope: str = "openid orders:read orders:write"
    ) -> Tokens:
        """A person's tokens for orders, got by the phone app through the sign-in page."""
        return await self.client().sign_in(browser or self.browser(), email, PASSWORD, scope=scope, resource=ORDERS)

    async def revoke(self, *, office: str = "", **target: Any) -> revocations_pb2.RevokeResponse:
        """Has the back office revoke something, by the kind that `target` names; returns when it is acknowledged.

        `office` is its token, where it must not be fetched first.
        """
        request = revocations_pb2.RevokeRequest(cause="DEMO", **target)
        metadata = bearer(office or await self.office())
        return await self.revocations.Revoke(request, metadata=metadata, timeout=_DEADLINE)

    async def receipts(self, position: int) -> revocations_pb2.Receipts:
        """Who has applied that position, as the back office is told (`GetStatus`)."""
        request = revocations_pb2.GetStatusRequest(position=position)
        metadata = bearer(await self.office())
        return (await self.revocations.GetStatus(request, metadata=metadata, timeout=_DEADLINE)).receipts

    async def office(self) -> str:
        """The back office's token for identity."""
        tokens = await self.client("backoffice").client_credentials(scope="identity:admin", resource=IDENTITY)
        return tokens.access_token

    # Calls

    async def by_http(self, token: str, *, write: bool = False) -> Answer:
        """Lists orders, or places one, over REST."""
        headers = {"authorization": f"Bearer {token}"}
        url = f"{self.target.addresses.orders}/v1/orders"
        try:
            if write:
                headers["idempotency-key"] = f"demo-{time.monotonic_ns()}"
                response = await self.web.post(url, json=ORDER, headers=headers, timeout=_DEADLINE)
            else:
                response = await self.web.get(url, headers=headers, timeout=_DEADLINE)
        except httpx2.HTTPError as failure:
            return Answer("no answer", type(failure).__name__)
        reason = OK if response.is_success else str(response.json().get("reason", ""))
        return Answer(str(response.status_code), reason)

    async def by_grpc(self, token: str, *, write: bool = False) -> Answer:
        """The same over gRPC."""
        try:
            if write:
                request = orders_pb2.CreateOrderRequest(
                    items=[orders_pb2.Item(sku="teapot", quantity=1)], request_id=f"demo-{time.monotonic_ns()}"
                )
                await self.orders.CreateOrder(request, metadata=bearer(token), timeout=_DEADLINE)
            else:
                await self.orders.ListOrders(orders_pb2.ListOrdersRequest(), metadata=bearer(token), timeout=_DEADLINE)
        except grpc.aio.AioRpcError as failure:
            return Answer(failure.code().name, reason_of(failure))
        return Answer("OK", OK)

    async def order(self, token: str) -> str:
        """Places an order over REST; its id.

        Raises:
            Unexpected: it was refused.
        """
        headers = {"authorization": f"Bearer {token}", "idempotency-key": f"demo-{time.monotonic_ns()}"}
        url = f"{self.target.addresses.orders}/v1/orders"
        response = await self.web.post(url, json=ORDER, headers=headers, timeout=_DEADLINE)
        if response.status_code != 201:
            raise Unexpected(f"an order was refused: {response.status_code}")
        return str(response.json()["id"])

    async def both(self, token: str, *, write: bool = False) -> tuple[Answer, Answer]:
        """Over REST and over gRPC at once."""
        return await asyncio.gather(self.by_http(token, write=write), self.by_grpc(token, write=write))

    # Expectations

    async def accepted(self, token: str) -> None:
        """Both wires let the token through.

        Raises:
            Unexpected: one does not.
        """
        for answer in await self.both(token):
            if not answer.accepted:
                raise Unexpected(f"a good token was refused: {answer.status} {answer.reason}")

    async def refused(self, token: str, *, reasons: tuple[str, ...]) -> tuple[Answer, Answer]:
        """Both wires refuse the token, with one of `reasons`.

        Raises:
            Unexpected: one does not, or with another reason, or with anything but 401 / UNAUTHENTICATED.
        """
        answers = await self.both(token)
        for answer in answers:
            if not answer.unauthenticated or answer.reason not in reasons:
                raise Unexpected(f"should be refused as {' or '.join(reasons)}, was: {answer.status} {answer.reason}")
        return answers

    async def taken_back(
        self, act: str, what: str, token: str, revoke: Callable[[], Awaitable[Any]], *, within: float, note: str = ""
    ) -> Step:
        """Proves that a token is accepted, has it revoked, and calls in a tight loop on both wires until it is not.

        Raises:
            Unexpected: it is accepted for more than `within` seconds after the acknowledgement, or ever again.
        """
        await self.accepted(token)
        await revoke()
        acknowledged = time.perf_counter()

        async def until_refused(call: Callable[[str], Awaitable[Answer]]) -> tuple[Answer, float]:
            while True:
                answer = await call(token)
                elapsed = time.perf_counter() - acknowledged
                if answer.unauthenticated:
                    return answer, elapsed
                if not answer.accepted:
                    raise Unexpected(f"neither accepted nor refused: {answer.status} {answer.reason}")
                if elapsed > within:
                    raise Unexpected(f"still accepted {elapsed:.1f} s after the revocation was acknowledged")

        (http, http_s), (rpc, rpc_s) = await asyncio.gather(until_refused(self.by_http), until_refused(self.by_grpc))
        await self.refused(token, reasons=(http.reason,))
        return self.step(act, what, http=http, grpc=rpc, ms=max(http_s, rpc_s) * 1000, note=note)

    def step(self, act: str, what: str, **shown: Any) -> Step:
        """Notes a step that went as it should."""
        step = Step(act, what, **shown)
        self.steps.append(step)
        self.on_step(step)
        return step


def claims_of(token: str) -> dict[str, Any]:
    """What a token says, unverified: to name what is to be revoked."""
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


def header_of(token: str) -> dict[str, Any]:
    """A token's header, unverified."""
    return claims_of("." + token.split(".")[0])


def bearer(token: str) -> grpc.aio.Metadata:
    """The metadata of a call with `token`."""
    return grpc.aio.Metadata(("authorization", f"Bearer {token}"))


def reason_of(failure: grpc.aio.AioRpcError) -> str:
    """The UPPER_SNAKE reason of a failed call; the status where it has none."""
    status = rpc_status.from_call(failure)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return failure.code().name


@contextlib.asynccontextmanager
async def opened(target: Target) -> AsyncIterator[Scene]:
    """A scene at `target`; its connections are closed at the end."""
    addresses = target.addresses
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 250)]
    async with (
        httpx2.AsyncClient(timeout=10, trust_env=False) as web,
        grpc.aio.insecure_channel(addresses.orders_grpc, options=options) as orders,
        grpc.aio.insecure_channel(addresses.identity_grpc, options=options) as identity,
    ):
        yield Scene(
            target,
            web,
            orders_pb2_grpc.OrdersServiceStub(orders),
            revocations_pb2_grpc.RevocationsServiceStub(identity),
        )
