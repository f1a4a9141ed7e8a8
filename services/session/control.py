"""The control room: what every verifier knows, taking things back, breaking things on purpose, and a thief to watch.

Identity decides who may look and revoke: every call goes there with the person's own token. Faults are for the embedded
run alone, whose control socket belongs to one user of one machine; elsewhere the page is told what to type.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc.aio
import httpx2

from contracts.orders.v1 import orders_pb2, orders_pb2_grpc
from rescind import STRICT
from rescind.keys import tls_context
from servicekit.clients import bearer, channel, told
from servicekit.errors import Kind, ServiceError
from session.domain import ORDERS, Entropy, Held, new_name
from session.token_handler import TokenHandler

PARTS = ("redis", "identity", "orders", "notifications")
FAULTS: Mapping[str, str] = MappingProxyType(
    {"kill": "kill", "start": "start", "freeze": "pause", "thaw": "unpause"}  # and docker compose's words for them
)
EMPTY = "empty"  # Redis alone can be made to forget everything
FAULT_TIMEOUT = 60.0  # seconds: a part that is started must have become ready
STOLEN_LIFE = 900_000  # ms
MOST_STOLEN = 100
THEFT_TIMEOUT = 3.0  # seconds


@dataclass(frozen=True, slots=True)
class FaultCommand:
    """One way to break a part or bring it back, as one would type it under docker compose."""

    part: str
    fault: str
    command: str


class Faults:
    """Breaks the embedded run. `socket` is where `make run` listens; None where there is none."""

    def __init__(self, socket: Path | None) -> None:
        self._socket = socket

    @property
    def available(self) -> bool:
        """Whether faults can be injected from here."""
        return self._socket is not None

    def commands(self) -> Sequence[FaultCommand]:
        """Everything that can be done."""
        listed = []
        for part in PARTS:
            listed += [FaultCommand(part, fault, f"docker compose {word} {part}") for fault, word in FAULTS.items()]
            if part == "redis":
                listed.append(FaultCommand(part, EMPTY, "docker compose exec redis redis-cli flushall"))
        return listed

    async def inject(self, part: str, fault: str) -> None:
        """Has it done; returns when it is.

        Raises:
            ServiceError: FAULTS_UNAVAILABLE, FAULT_UNKNOWN, FAULT_FAILED.
        """
        if self._socket is None:
            raise ServiceError(Kind.UNPROCESSABLE, "FAULTS_UNAVAILABLE", "Type the command; this is no embedded run.")
        if not any((part, fault) == (one.part, one.fault) for one in self.commands()):
            raise ServiceError(Kind.INVALID, "FAULT_UNKNOWN", "There is no such part or fault.")
        try:
            async with asyncio.timeout(FAULT_TIMEOUT):
                said = await self._ask(self._socket, {"part": part, "fault": fault})
        except (OSError, ValueError, TimeoutError) as error:
            raise ServiceError(Kind.UNAVAILABLE, "FAULT_FAILED", "The embedded run does not answer.") from error
        if "error" in said:
            raise ServiceError(Kind.UNPROCESSABLE, "FAULT_FAILED", "The embedded run could not do that.")

    @staticmethod
    async def _ask(socket: Path, command: dict[str, str]) -> dict[str, object]:
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            writer.write(json.dumps(command).encode() + b"\n")
            await writer.drain()
            said: dict[str, object] = json.loads(await reader.readline())
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return said


@dataclass(frozen=True, slots=True)
class Tried:
    """What a thief got: `http` is a status and a reason, `grpc` a code and a reason; empty reasons mean success."""

    accepted: bool
    http_status: int
    http_reason: str
    grpc_code: str
    grpc_reason: str
    ms: float


@dataclass(frozen=True, slots=True)
class _Stolen:
    subject: str
    token: str = field(repr=False)
    until: int


class Thief:
    """Keeps copies of people's own tokens in this process for a quarter of an hour, and uses them as a thief would.

    Past the session, that is the point: straight at the orders service, over both wires, without refreshing anything.
    """

    def __init__(
        self,
        tokens: TokenHandler,
        now: Callable[[], int],
        *,
        orders_url: str,
        orders_grpc: str,
        entropy: Entropy,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._tokens = tokens
        self._now = now
        self._entropy = entropy
        self._stolen: dict[str, _Stolen] = {}
        more = {"verify": tls_context()} if transport is None else {"transport": transport}
        self._http = httpx2.AsyncClient(base_url=orders_url, timeout=THEFT_TIMEOUT, trust_env=False, **more)
        self._channel = channel(orders_grpc)
        self._orders: Any = orders_pb2_grpc.OrdersServiceStub(self._channel)

    async def aclose(self) -> None:
        """Closes its connections, and forgets what it stole."""
        self._stolen.clear()
        await self._http.aclose()
        await self._channel.close()

    async def steal(self, held: Held) -> str:
        """Copies the person's own token for orders; the name of the copy."""
        granted = await self._tokens.token_for(held, ORDERS, staleness=STRICT)
        self._forget_old()
        if len(self._stolen) >= MOST_STOLEN:
            raise ServiceError(Kind.RATE_LIMITED, "TOO_MANY_STOLEN", "Enough was stolen for now.", retry_after=60.0)
        id_ = new_name(self._entropy).replace("ses_", "stolen_")
        self._stolen[id_] = _Stolen(held.session.subject, granted.token, self._now() + STOLEN_LIFE)
        return id_

    async def use(self, held: Held, id_: str) -> Tried:
        """Uses a copy on both wires at once.

        Raises:
            ServiceError: STOLEN_TOKEN_NOT_FOUND, also when it is somebody else's.
        """
        self._forget_old()
        stolen = self._stolen.get(id_)
        if stolen is None or stolen.subject != held.session.subject:
            raise ServiceError(Kind.NOT_FOUND, "STOLEN_TOKEN_NOT_FOUND", "There is no such copy of yours here.")
        began = time.perf_counter()
        (status, http_reason), (code, grpc_reason) = await asyncio.gather(
            self._over_http(stolen.token), self._over_grpc(stolen.token)
        )
        took = (time.perf_counter() - began) * 1000
        return Tried(status == 200 and code == "OK", status, http_reason, code, grpc_reason, round(took, 2))

    def _forget_old(self) -> None:
        now = self._now()
        self._stolen = {id_: stolen for id_, stolen in self._stolen.items() if stolen.until > now}

    async def _over_http(self, token: str) -> tuple[int, str]:
        try:
            answer = await self._http.get("/v1/orders?page_size=1", headers={"authorization": f"Bearer {token}"})
        except httpx2.HTTPError:
            return 0, "NO_ANSWER"
        if answer.status_code == 200:
            return 200, ""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return answer.status_code, str(answer.json()["reason"])
        return answer.status_code, "UNKNOWN"

    async def _over_grpc(self, token: str) -> tuple[str, str]:
        request = orders_pb2.ListOrdersRequest(page_size=1)
        try:
            await self._orders.ListOrders(request, metadata=bearer(token), timeout=THEFT_TIMEOUT)
        except grpc.aio.AioRpcError as failure:
            return failure.code().name, told(failure).reason
        return "OK", ""
