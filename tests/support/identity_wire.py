"""Identity over gRPC in this process: a real server on a free port, and a channel to it."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from identity.app import build
from servicekit.rpc import DETAILS_KEY
from support.identity_core import Core

Metadata = tuple[tuple[str, str], ...]


@asynccontextmanager
async def channel_to(identity: Core) -> AsyncIterator[grpc.aio.Channel]:
    """Serves what `identity` is made of until the block is left."""
    server, _ = build(identity.parts.settings, parts=identity.parts).grpc_server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """The status and the reason that a call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        details = dict(error.trailing_metadata() or ())[DETAILS_KEY]
        info = error_details_pb2.ErrorInfo()
        status = rpc_status.status_pb2.Status.FromString(details)
        next(detail for detail in status.details if detail.Unpack(info))
        return error.code(), info.reason
    raise AssertionError("the call was answered")
