"""Identity over gRPC: `Replay` for what Redis does not have, `Introspect` when nothing else can tell, and `Report`.

The messages are generated from identity's contract and carried in `_wire`, so this library needs no package of ours.
"""

from collections.abc import AsyncGenerator
from typing import Any, Protocol

import grpc
import grpc.aio

from rescind._wire import revocations_pb2
from rescind._wire.revocations_pb2 import ReplayRequest, ReplayResponse, ReportRequest, ReportResponse
from rescind._wire.tokens_pb2 import IntrospectRequest, IntrospectResponse
from rescind.introspection import Answer, NobodyAnswered
from rescind.receipts import Report
from rescind.state import Freshness

_REPLAY = "/contracts.identity.v1.RevocationsService/Replay"
_REPORT = "/contracts.identity.v1.RevocationsService/Report"
_INTROSPECT = "/contracts.identity.v1.TokensService/Introspect"

_FRESHNESS = {
    Freshness.SYNCING: revocations_pb2.FRESHNESS_SYNCING,
    Freshness.FRESH: revocations_pb2.FRESHNESS_FRESH,
    Freshness.STALE: revocations_pb2.FRESHNESS_STALE,
}

# After an outage gRPC backs off for up to two minutes by default; a verifier wants to know within a second or so.
CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]


class AccessTokens(Protocol):
    """Where this process's own tokens for identity come from (`rescind.client_credentials`)."""

    async def __call__(self) -> str:
        """A token that is good for a while."""
        ...

    def forget(self, refused: str) -> None:
        """That one was refused: the next call gives another."""
        ...


class GrpcIdentity:
    """A `ReplaySource`, an `Introspector` and a `ReportSink` on one channel to identity.

    `access_tokens` gives the token of this process for identity; one that is refused (its key was revoked, say) is
    replaced, once a call. Deadlines are seconds: `introspect_timeout` for one answer, `replay_timeout` for a whole
    replay.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        access_tokens: AccessTokens,
        *,
        introspect_timeout: float = 1.0,
        replay_timeout: float = 30.0,
    ) -> None:
        self._access_tokens = access_tokens
        self._introspect_timeout = introspect_timeout
        self._replay_timeout = replay_timeout
        self._replay = channel.unary_stream(
            _REPLAY,
            request_serializer=ReplayRequest.SerializeToString,
            response_deserializer=ReplayResponse.FromString,
        )
        self._introspect = channel.unary_unary(
            _INTROSPECT,
            request_serializer=IntrospectRequest.SerializeToString,
            response_deserializer=IntrospectResponse.FromString,
        )
        self._report = channel.unary_unary(
            _REPORT,
            request_serializer=ReportRequest.SerializeToString,
            response_deserializer=ReportResponse.FromString,
        )

    async def replay(self, log: str, after: int, nonce: str) -> AsyncGenerator[bytes, None]:
        """The messages after `after`, then a heartbeat with `nonce`.

        Raises:
            NobodyAnswered: there is no token to ask with, because the token endpoint cannot be reached.
            grpc.aio.AioRpcError: identity did not answer, or refused.
        """
        request = ReplayRequest(log=log, after=after, nonce=nonce)
        for last_try in (False, True):
            token = await self._access_tokens()
            call = self._replay(request, timeout=self._replay_timeout, metadata=_bearer(token))
            try:
                async for response in call:
                    yield response.message
                return
            except grpc.aio.AioRpcError as failure:
                if last_try or not self._was_refused(failure, token):
                    raise
            finally:
                call.cancel()

    async def introspect(self, unverified_token: str) -> Answer:
        """What identity's database says of a token.

        Raises:
            NobodyAnswered: identity is unreachable or too slow.
            grpc.aio.AioRpcError: it answered, with an error.
        """
        request = IntrospectRequest(token=unverified_token)
        token = await self._access_tokens()
        try:
            try:
                response = await self._introspect(request, timeout=self._introspect_timeout, metadata=_bearer(token))
            except grpc.aio.AioRpcError as failure:
                if not self._was_refused(failure, token):
                    raise
                token = await self._access_tokens()
                response = await self._introspect(request, timeout=self._introspect_timeout, metadata=_bearer(token))
        except grpc.aio.AioRpcError as failure:
            if failure.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise NobodyAnswered(failure.code().name) from None
            raise
        return Answer(active=response.active, reason=response.reason)

    async def report(self, report: Report) -> float:
        """Takes a report; seconds until the next is due. The caller sets the deadline.

        Raises:
            NobodyAnswered: there is no token to report with.
            grpc.aio.AioRpcError: identity did not answer, or refused.
        """
        request = ReportRequest(
            verifier=revocations_pb2.Verifier(
                id=report.verifier,
                audience=report.audience,
                instance=report.instance,
                log=report.log,
                position=report.position,
                freshness=_FRESHNESS[report.freshness],
            ),
            applied=[revocations_pb2.Applied(position=one.position, delay_ms=one.delay_ms) for one in report.applied],
            leaving=report.leaving,
        )
        token = await self._access_tokens()
        try:
            response = await self._report(request, metadata=_bearer(token))
        except grpc.aio.AioRpcError as failure:
            self._was_refused(failure, token)  # the next report comes with another
            raise
        return float(response.next_in_ms) / 1000

    def _was_refused(self, failure: grpc.aio.AioRpcError, token: str) -> bool:
        refused = failure.code() is grpc.StatusCode.UNAUTHENTICATED
        if refused:
            self._access_tokens.forget(token)
        return refused


def _bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]
