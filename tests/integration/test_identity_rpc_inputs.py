"""Every RPC of identity against input that makes no sense: a typed refusal or a plain answer, never an accident."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from sqlalchemy import update

from contracts.identity.v1 import (
    accounts_pb2,
    administration_pb2,
    keys_pb2,
    my_account_pb2,
    revocations_pb2,
    tokens_pb2,
)
from identity.storage import clients
from support.identity_core import ADMIN, IDENTITY, Core, core
from support.identity_wire import bearer, channel_to, refusal

METHODS = [
    method
    for module in (administration_pb2, accounts_pb2, keys_pb2, revocations_pb2, tokens_pb2, my_account_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
TEXTS = (
    "",
    "unknown",
    "usr_unknown",
    "x" * 5000,
    "a\0b",
    "'; DROP TABLE users; --",
    "%_\\",
    "\U0001f4a9\u202e",
    "=",
    "9" * 18,
)
NUMBERS = (-1, 2**31 - 1)
_FORESEEN = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
)


class Answered(Exception):
    """It made sense after all."""


@pytest.fixture
async def identity(database_url: str) -> AsyncIterator[Core]:
    async with core(database_url) as identity:
        yield identity


def filled(message: Message, text: str, number: int, which: int) -> Message:
    """With every field set; of a oneof, the one of that turn."""
    for field in message.DESCRIPTOR.fields:
        if (
            field.containing_oneof is not None
            and field.containing_oneof.fields[which % len(field.containing_oneof.fields)] is not field
        ):
            continue
        value = _value(field, text, number, which)
        if field.is_repeated:
            getattr(message, field.name).extend([value])
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(value)
        else:
            setattr(message, field.name, value)
    return message


def _value(field: Any, text: str, number: int, which: int) -> Any:
    if field.message_type is not None:
        return filled(GetMessageClass(field.message_type)(), text, number, which)
    by_type: dict[int, Callable[[], Any]] = {
        FieldDescriptor.CPPTYPE_STRING: lambda: text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text,
        FieldDescriptor.CPPTYPE_BOOL: lambda: number > 0,
        FieldDescriptor.CPPTYPE_DOUBLE: lambda: float("nan"),
        FieldDescriptor.CPPTYPE_ENUM: lambda: 77,
    }
    return by_type.get(field.cpp_type, lambda: number)()


def requests(method: MethodDescriptor) -> Iterator[Message]:
    make = GetMessageClass(method.input_type)
    turns = max((len(oneof.fields) for oneof in method.input_type.oneofs), default=1)
    yield make()
    for which in range(turns):
        for text in TEXTS:
            yield filled(make(), text, NUMBERS[which % 2], which)
        yield filled(make(), "unknown", 0, which)


async def test_no_input_is_an_accident(identity: Core) -> None:
    """Each is called by somebody who may, so that the input is what decides."""
    permissions = {"permissions": ["introspect", "replay", "contacts"]}
    identity.tx(lambda tx: tx.execute(update(clients).where(clients.c.id == "orders").values(permissions)))
    callers = {
        "person": identity.access(identity.grant(), IDENTITY).token,
        "admin": identity.access(
            identity.grant(identity.sign_in(ADMIN), scope="openid identity:admin"), IDENTITY
        ).token,
        "verifier": identity.of_client("orders").token,
    }
    tried = 0
    async with channel_to(identity) as channel:
        for method in METHODS:
            service = method.containing_service.full_name
            by = "person" if "MyAccount" in service else "verifier" if method.name in _VERIFIERS else "admin"
            for request in requests(method):
                if method.name in ("EndAllSessions", "RotateKeys") or getattr(request, "everywhere", False):
                    continue  # nothing in them can be wrong, and the callers would be gone
                tried += 1
                with contextlib.suppress(Answered):
                    code, reason = await refusal(_called(channel, method, request, bearer(callers[by])))
                    assert code in _FORESEEN, (method.name, request, reason)
    assert tried > 200


_VERIFIERS = ("Introspect", "Report", "Replay", "GetContact")


async def _called(channel: grpc.aio.Channel, method: MethodDescriptor, request: Message, metadata: Any) -> None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    answer = GetMessageClass(method.output_type)
    make: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = make(path, request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString)(
        request, metadata=metadata, timeout=20
    )
    if method.server_streaming:
        async for _ in call:
            pass
    else:
        await call
    raise Answered
