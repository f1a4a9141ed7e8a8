"""A real gRPC server of identity's contract for addresses, for tests of who asks."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from contracts.identity.v1 import accounts_pb2 as pb
from contracts.identity.v1 import accounts_pb2_grpc

TOKEN = "a service's own token"


class Accounts(accounts_pb2_grpc.AccountsServiceServicer):
    """Knows everybody as <subject>@example.com, but for `unknown`; `fails` is what it says instead."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.unknown: set[str] = set()
        self.disabled: set[str] = set()
        self.fails: grpc.StatusCode | None = None
        self.hangs = False

    async def GetContact(self, request: pb.GetContactRequest, context: Any) -> pb.Contact:  # noqa: N802
        self.asked.append(request.subject)
        if ("authorization", f"Bearer {TOKEN}") not in tuple(context.invocation_metadata()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "whose are you?")
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails is not None:
            await context.abort(self.fails, "not now")
        if request.subject in self.unknown:
            await context.abort(grpc.StatusCode.NOT_FOUND, "nobody")
        name = request.subject.removeprefix("usr_")
        return pb.Contact(
            subject=request.subject, email=f"{name}@example.com", name=name, disabled=request.subject in self.disabled
        )

    DisableAccount = EnableAccount = DisableClient = EnableClient = SetRoles = GetContact


class OwnToken:
    """What `rescind.client_credentials` is for whoever has one."""

    async def __call__(self) -> str:
        return TOKEN

    def forget(self, refused: str) -> None:
        """It is good for ever."""


@asynccontextmanager
async def accounts_server(accounts: Accounts) -> AsyncIterator[str]:
    """The server on a free port; its address."""
    server = grpc.aio.server()
    accounts_pb2_grpc.add_AccountsServiceServicer_to_server(accounts, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def token_endpoint() -> AsyncIterator[str]:
    """What gives everybody who asks a token for `Accounts`; the URL that its `/token` is below."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            body = json.dumps({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 900}).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            writer.write(f"{head}connection: close\r\n\r\n".encode() + body)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
