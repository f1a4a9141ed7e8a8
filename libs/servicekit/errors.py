"""One vocabulary of failure for every wire.

A use case raises `ServiceError(Kind.NOT_FOUND, "ORDER_NOT_FOUND", ...)` and knows no protocol. HTTP says it as problem
details (RFC 9457), gRPC as a status with `google.rpc.ErrorInfo`; both carry the same stable UPPER_SNAKE `reason`. What
nobody foresaw becomes a blank INTERNAL with an id that is also in the log, and never the text of an exception.
"""

import math
from collections.abc import Mapping
from enum import Enum

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from rescind import errors as verification

PROBLEM_TYPE = "application/problem+json"
ERROR_DOMAIN = "rescind"  # ErrorInfo.domain


class Kind(Enum):
    """What sort of failure it is: the HTTP status, the gRPC status, and a title that never changes."""

    INVALID = (400, grpc.StatusCode.INVALID_ARGUMENT, "Bad request")
    UNAUTHENTICATED = (401, grpc.StatusCode.UNAUTHENTICATED, "Unauthenticated")
    FORBIDDEN = (403, grpc.StatusCode.PERMISSION_DENIED, "Forbidden")
    NOT_FOUND = (404, grpc.StatusCode.NOT_FOUND, "Not found")
    METHOD_NOT_ALLOWED = (405, grpc.StatusCode.UNIMPLEMENTED, "Method not allowed")
    NOT_ACCEPTABLE = (406, grpc.StatusCode.INVALID_ARGUMENT, "Not acceptable")
    CONFLICT = (409, grpc.StatusCode.ABORTED, "Conflict")
    GONE = (410, grpc.StatusCode.NOT_FOUND, "Gone")
    PRECONDITION = (412, grpc.StatusCode.ABORTED, "Precondition failed")  # of an etag: https://google.aip.dev/154
    TOO_LARGE = (413, grpc.StatusCode.RESOURCE_EXHAUSTED, "Content too large")
    UNSUPPORTED_MEDIA = (415, grpc.StatusCode.INVALID_ARGUMENT, "Unsupported media type")
    UNPROCESSABLE = (422, grpc.StatusCode.FAILED_PRECONDITION, "Unprocessable content")
    RATE_LIMITED = (429, grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many requests")
    INTERNAL = (500, grpc.StatusCode.INTERNAL, "Internal error")
    UNAVAILABLE = (503, grpc.StatusCode.UNAVAILABLE, "Unavailable")
    DEADLINE = (504, grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded")

    def __init__(self, http: int, rpc: grpc.StatusCode, title: str) -> None:
        self.http = http
        self.rpc = rpc
        self.title = title

    @classmethod
    def of_http(cls, status: int) -> "Kind":
        """The kind that an HTTP status stands for; an unlisted 4xx is INVALID, anything else INTERNAL."""
        for kind in cls:
            if kind.http == status:
                return kind
        return cls.INVALID if 400 <= status < 500 else cls.INTERNAL

    @classmethod
    def of_rpc(cls, code: grpc.StatusCode, *, name: str = "") -> "Kind":
        """The kind that a gRPC status stands for: the one of that `name` (`ErrorInfo.metadata["kind"]`) if it is among
        those with this status, otherwise the first; a status that none has is INTERNAL.
        """
        kinds = [kind for kind in cls if kind.rpc is code]
        return next((kind for kind in kinds if kind.name == name), kinds[0] if kinds else cls.INTERNAL)


class ServiceError(Exception):
    """A failure that a caller is meant to understand.

    `reason` is stable and for machines, `detail` one sentence for people that holds no secret. `retry_after` (seconds)
    goes into Retry-After and `google.rpc.RetryInfo`. `headers` are for HTTP alone (WWW-Authenticate), `metadata` for
    `google.rpc.ErrorInfo`. `fields` names what was wrong where: `{"items.0.quantity": "must be at least 1"}`.
    """

    def __init__(
        self,
        kind: Kind,
        reason: str,
        detail: str,
        *,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.reason = reason
        self.detail = detail
        self.retry_after = retry_after
        self.headers = dict(headers or {})
        self.fields = dict(fields or {})
        self.metadata = dict(metadata or {})


def understood(error: BaseException) -> ServiceError | None:
    """`error` in the vocabulary, or None when nobody foresaw it."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, verification.InsufficientScope):
        scope = " ".join(sorted(error.required))
        return ServiceError(
            Kind.FORBIDDEN,
            error.reason,
            f"The access token does not permit this: it needs scope {scope}.",
            headers={"www-authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
        )
    if isinstance(error, verification.StepUpRequired):
        challenge = f'Bearer error="insufficient_user_authentication", max_age={error.max_auth_age}'
        return ServiceError(
            Kind.UNAUTHENTICATED,
            error.reason,
            f"This needs a sign-in within the last {error.max_auth_age} seconds: sign in again with max_age.",
            headers={"www-authenticate": challenge},
            metadata={"max_age": str(error.max_auth_age)},
        )
    if isinstance(error, verification.TokenRefused) and error.reason == "TOKEN_MISSING":
        # RFC 6750 section 3.1: who sent no token made no error yet, so the challenge names none.
        return ServiceError(
            Kind.UNAUTHENTICATED, error.reason, "An access token is needed.", headers={"www-authenticate": "Bearer"}
        )
    if isinstance(error, verification.RevokedToken):
        return _refused(error, "The access token was taken back.")
    if isinstance(error, verification.TokenRefused):
        return _refused(error, "The access token is not accepted.")
    if isinstance(error, verification.CannotTell):
        return ServiceError(
            Kind.UNAVAILABLE,
            error.reason,
            "The access token cannot be judged right now. Keep it and try again.",
            retry_after=error.retry_after,
        )
    return None


def _refused(error: verification.TokenRefused, detail: str) -> ServiceError:
    return ServiceError(
        Kind.UNAUTHENTICATED,
        error.reason,
        detail,
        headers={"www-authenticate": f'Bearer error="invalid_token", error_description="{error.reason}"'},
    )


def internal(error_id: str) -> ServiceError:
    """The blank answer to the unforeseen; `error_id` finds the cause in the log."""
    return ServiceError(Kind.INTERNAL, "INTERNAL", f"Something went wrong here. Reference {error_id}.")


def problem(error: ServiceError, *, instance: str) -> dict[str, object]:
    """The body of an RFC 9457 problem; `instance` identifies this occurrence."""
    body: dict[str, object] = {
        "type": "about:blank",
        "title": error.kind.title,
        "status": error.kind.http,
        "detail": error.detail,
        "instance": instance,
        "reason": error.reason,
    }
    if error.fields:
        body["fields"] = error.fields
    return body


def problem_headers(error: ServiceError) -> dict[str, str]:
    """The headers that go with `problem`: never cached, Retry-After in whole seconds."""
    headers = {"cache-control": "no-store", **error.headers}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    return headers


def rpc_status(error: ServiceError, *, request_id: str) -> status_pb2.Status:
    """The `google.rpc.Status` that says `error`: ErrorInfo always, RetryInfo and BadRequest where they apply."""
    code: int = error.kind.rpc.value[0]
    status = status_pb2.Status(code=code, message=error.detail)
    # The kind tells a gateway which of the HTTP statuses that share this code was meant.
    metadata = {"kind": error.kind.name, **error.metadata, **({"request_id": request_id} if request_id else {})}
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=metadata)
    _add(status, info)
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after * 1000))
        _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
    if error.fields:
        violation = error_details_pb2.BadRequest.FieldViolation
        _add(
            status,
            error_details_pb2.BadRequest(
                field_violations=[violation(field=name, description=text) for name, text in error.fields.items()]
            ),
        )
    return status


def _add(
    status: status_pb2.Status,
    detail: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo | error_details_pb2.BadRequest,
) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)
