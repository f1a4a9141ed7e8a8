"""Channels from one service to another: spread over replicas, repeated where that is safe, never without a deadline.

    channel = clients.channel("dns:///identity:9001", Calls(SERVICE, repeatable={"GetAccount"}), access_tokens=tokens)
    stub = accounts_pb2_grpc.AccountsServiceStub(channel)

gRPC itself does the work, by its service config: https://grpc.io/docs/guides/service-config/. What is refused with
UNAVAILABLE is sent again after a pause, to whichever replica is next; a replica that says NOT_SERVING gets nothing; one
that closes its connections for their age (GOAWAY) finishes what it has begun. Every call carries the current trace.
"""

import contextlib
import ipaddress
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from rescind import NobodyAnswered
from rescind.grpc_source import AccessTokens
from servicekit.errors import Kind, ServiceError
from servicekit.rpc import CHANNEL_OPTIONS, DETAILS_KEY
from servicekit.telemetry import outgoing

DEADLINE = 5.0  # seconds: for the worst moment of a busy machine, not for what is usual
# Four pauses of 0.1 to 1 s, a second and a half together: a replica that restarts is outlasted, a caller is not.
_RETRIES = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
# When more than half of a hundred calls failed, nobody retries any more: retries must not be what keeps a server down.
_THROTTLE = {"maxTokens": 100, "tokenRatio": 0.1}
_OPTIONS: tuple[tuple[str, Any], ...] = (
    *CHANNEL_OPTIONS,
    ("grpc.service_config_disable_resolution", 1),  # DNS says where replicas are, not how they are called
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),  # 30 s by default: too long when all replicas have moved
)

Details: TypeAlias = grpc.aio.ClientCallDetails
Continue: TypeAlias = Callable[[Details, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Calls:
    """How the methods of one service are called.

    `service` is its full name, `repeatable` the methods that may be carried out twice without harm. `deadline` is in
    seconds and holds unless the call brings a shorter one; `deadlines` differ by method, None for a live stream.
    """

    service: str
    repeatable: Collection[str] = ()
    deadline: float = DEADLINE
    deadlines: Mapping[str, float | None] = field(default_factory=dict)

    def configs(self) -> list[dict[str, Any]]:
        """The entries of gRPC's service config. A method's entry stands instead of the service's."""
        special = sorted({*self.repeatable, *self.deadlines})
        return [self._config(method) for method in special] + [self._config(None)]

    def _config(self, method: str | None) -> dict[str, Any]:
        name = {"service": self.service} | ({"method": method} if method else {})
        config: dict[str, Any] = {"name": [name]}
        deadline = self.deadlines.get(method, self.deadline) if method else self.deadline
        if deadline is not None:
            config["timeout"] = f"{deadline:.3f}s"
        if method in self.repeatable:
            config["retryPolicy"] = _RETRIES
        return config


def channel(address: str, *calls: Calls, access_tokens: AccessTokens | None = None) -> grpc.aio.Channel:
    """A channel that spreads calls over all replicas at `address`. Connects when first used; close it at the end.

    `address` is `host:port`, `dns:///name:port` (every address of the name is a replica), or several `ip:port` joined
    by commas. With `access_tokens` (`rescind.client_credentials`) each call carries this service's own token, which is
    replaced once when it is refused; without, a caller passes on somebody's with `bearer`.

    Raises:
        ValueError: several names, which gRPC cannot resolve together.
    """
    config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
        "retryThrottling": _THROTTLE,
        "methodConfig": [config for each in calls for config in each.configs()],
    }
    return grpc.aio.insecure_channel(
        target(address),
        options=[*_OPTIONS, ("grpc.service_config", json.dumps(config))],
        interceptors=[_Unary(access_tokens), _Stream(access_tokens)],
    )


def target(address: str) -> str:
    """`address` as gRPC names it (https://github.com/grpc/grpc/blob/master/doc/naming.md).

    Raises:
        ValueError: several names.
    """
    if "," not in address or "://" in address or address.startswith(("ipv4:", "ipv6:")):
        return address
    replicas = [_numeric(replica.strip()) for replica in address.split(",")]
    scheme = "ipv6" if replicas[0].startswith("[") else "ipv4"
    return f"{scheme}:{','.join(replicas)}"


def _numeric(replica: str) -> str:
    host, _, port = replica.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        raise ValueError("several replicas are ip:port each; for a name use dns:///name:port") from None
    return f"{host}:{port}"


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call on behalf of whoever `token` belongs to."""
    return (("authorization", f"Bearer {token}"),)


def told(failure: grpc.aio.AioRpcError) -> ServiceError:
    """What the other service said, in the words that it used: reason, fields, and when to try again.

    A failure without such words, one of the network for instance, gets the kind of its status.
    """
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in _details(failure):
        detail.Unpack(info)
        detail.Unpack(bad)
        detail.Unpack(retry)
    kind = Kind.of_rpc(failure.code(), name=info.metadata.get("kind", ""))
    words = (failure.details() or kind.title) if info.reason else kind.title
    return ServiceError(
        kind,
        info.reason or failure.code().name,
        words,
        retry_after=retry.retry_delay.ToMilliseconds() / 1000 or (1.0 if kind is Kind.UNAVAILABLE else None),
        fields={violation.field: violation.description for violation in bad.field_violations},
        metadata={name: value for name, value in info.metadata.items() if name not in ("kind", "request_id")},
    )


def _details(failure: grpc.aio.AioRpcError) -> Collection[Any]:
    for name, value in failure.trailing_metadata() or ():
        if name == DETAILS_KEY and isinstance(value, bytes):
            with contextlib.suppress(DecodeError):
                return list(status_pb2.Status.FromString(value).details)
    return ()


class _Own:
    """This service's own token, if there is one, and the current trace, on every call."""

    def __init__(self, access_tokens: AccessTokens | None) -> None:
        self._access_tokens = access_tokens

    async def _with_token(self, details: Details) -> tuple[str, Details]:
        token = ""
        added = list(outgoing().items())
        if self._access_tokens is not None:
            try:
                token = await self._access_tokens()
            # Callers know one kind of failure, and grpc.aio lets no other through an interceptor unharmed.
            except NobodyAnswered:
                raise _failure(grpc.StatusCode.UNAVAILABLE, "no token: nobody answers") from None
            except PermissionError:
                raise _failure(grpc.StatusCode.UNAUTHENTICATED, "no token: refused") from None
            added += bearer(token)
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *added)
        return token, grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )

    def _worth_another(self, code: grpc.StatusCode | None, token: str) -> bool:
        if self._access_tokens is None or code is not grpc.StatusCode.UNAUTHENTICATED:
            return False
        self._access_tokens.forget(token)
        return True


class _Unary(_Own, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Continue, client_call_details: Details, request: Any) -> Any:
        """Sends the request, and once more with another token if the first was refused."""
        token, details = await self._with_token(client_call_details)
        call = await continuation(details, request)
        if self._access_tokens is None:
            return call
        try:
            code = await call.code()
        except BaseException:
            call.cancel()
            raise
        if self._worth_another(code, token):
            _, details = await self._with_token(client_call_details)
            return await continuation(details, request)
        return call


class _Stream(_Own, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Continue, client_call_details: Details, request: Any) -> Any:
        """Begins the stream, and once more with another token if the first was refused."""
        token, details = await self._with_token(client_call_details)
        call = await continuation(details, request)
        if self._access_tokens is None:
            return call
        try:
            first = await call.read()
        except grpc.aio.AioRpcError as failure:
            if not self._worth_another(failure.code(), token):
                raise
            _, details = await self._with_token(client_call_details)
            return await continuation(details, request)
        except BaseException:
            call.cancel()
            raise
        return _rest(call, first)


async def _rest(call: Any, first: Any) -> AsyncIterator[Any]:
    response = first
    while response is not grpc.aio.EOF:
        yield response
        response = await call.read()


def _failure(code: grpc.StatusCode, why: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=why)
