"""The edge of every HTTP app: ids, a cap on bodies, problem details, metrics, one access line, no text of exceptions.

`create_app` is the only way an app is made, so none forgets any of it.
"""

import http
import json
import re
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NoReturn

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rescind.errors import RescindError
from servicekit.errors import PROBLEM_TYPE, Kind, ServiceError, internal, problem, problem_headers, understood
from servicekit.metrics import Metrics
from servicekit.openapi import REFUSALS
from servicekit.telemetry import request_context, request_id

MAX_BODY = 64 * 1024  # bytes
_REASON = "servicekit.reason"  # in the scope: why a request was refused, for the access line
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_.-]")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REASONS = {
    400: "BAD_REQUEST",
    404: "ROUTE_NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "BODY_TOO_LARGE",
    415: "CONTENT_TYPE_NOT_SUPPORTED",
}
_log = structlog.get_logger("servicekit.http")


def create_app(name: str, metrics: Metrics, *, development: bool = False, max_body: int = MAX_BODY) -> FastAPI:
    """An app behind `Edge`. Its API pages exist in development only."""
    app = FastAPI(
        title=name,
        docs_url="/docs" if development else None,
        redoc_url=None,
        openapi_url="/openapi.json" if development else None,
        redirect_slashes=False,
        responses=REFUSALS,
    )
    for error in (ServiceError, RescindError):
        app.add_exception_handler(error, _answer_understood)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_middleware(Edge, metrics=metrics, max_body=max_body)
    return app


def problem_response(error: ServiceError) -> JSONResponse:
    """`error` as an RFC 9457 response. `instance` is the id of the request being served."""
    return JSONResponse(
        problem(error, instance=f"urn:rescind:request:{request_id()}"),
        status_code=error.kind.http,
        headers=problem_headers(error),
        media_type=PROBLEM_TYPE,
    )


class BodyTooLarge(HTTPException):
    """Raised out of `receive`; an HTTPException because FastAPI hides every other kind behind a 400."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"The body may have {limit} bytes.")


class StrictRoute(APIRoute):
    """A route whose JSON bodies mean one thing: no member twice, no NaN (RFC 8259 leaves both to the parser)."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, given a request that parses strictly."""
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        """The body.

        Raises:
            json.JSONDecodeError: it is not JSON, not Unicode, too deep, or says one thing twice.
        """
        body = await self.body()
        try:
            value = json.loads(body.decode(), object_pairs_hook=_members, parse_constant=_no_constant)
            if b"\\ud" in body.lower():
                json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no character
            return value
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:  # a bad byte, a number of thousands of digits, a deep nest
            raise json.JSONDecodeError("not readable", "", 0) from error


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member comes twice")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def only_query(*names: str) -> Callable[[Request], None]:
    """A dependency that refuses parameters in the URL other than `names`, and any that comes twice.

    That also keeps tokens out of URLs (RFC 6750 section 2.3).
    """
    allowed = frozenset(names)

    def check(request: Request) -> None:
        given = [name for name, _ in request.query_params.multi_items()]
        if not allowed.issuperset(given):
            raise ServiceError(Kind.INVALID, "UNKNOWN_PARAMETER", "The URL has a parameter that does not exist.")
        if len(set(given)) != len(given):
            raise ServiceError(Kind.INVALID, "REPEATED_PARAMETER", "The URL has the same parameter twice.")

    return check


class Edge:
    """Middleware around everything else, the framework's own error pages included."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, max_body: int = MAX_BODY) -> None:
        self._app = app
        self._metrics = metrics
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        with request_context(headers) as id_:
            answer = _Answer(send, id_)
            began = time.perf_counter()
            try:
                await self._app(scope, _Capped(receive, headers, self._max_body), answer)
            except Exception:
                self._metrics.unforeseen.inc()
                error_id = secrets.token_hex(8)
                _log.exception("unforeseen error", error_id=error_id, route=_route(scope))
                if answer.status:
                    raise  # too late for another answer: the server must cut the connection
                await problem_response(internal(error_id))(scope, receive, answer)
            finally:
                self._account(scope, answer.status or 499, time.perf_counter() - began)

    def _account(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        route = _route(scope)
        self._metrics.http_seconds.labels(method, route, str(status)).observe(seconds)
        if scope["path"] not in ("/livez", "/readyz"):
            reason = {"reason": scope[_REASON]} if _REASON in scope else {}
            _log.info("request", method=method, route=route, status=status, ms=round(seconds * 1000, 2), **reason)


class _Answer:
    """Sends on, with the request's id, and remembers the status (0: nothing sent yet)."""

    def __init__(self, send: Send, id_: str) -> None:
        self._send = send
        self._id = id_
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            added = [(b"x-request-id", self._id.encode()), (b"x-content-type-options", b"nosniff")]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await self._send(message)


class _Capped:
    """Receives on, until the body has more bytes than it may; a declared length that is too large counts at once."""

    def __init__(self, receive: Receive, headers: Mapping[str, str], limit: int) -> None:
        self._receive = receive
        declared = headers.get("content-length", "0")
        self._declared = int(declared) if declared.isascii() and declared.isdigit() else 0
        self._limit = limit
        self._seen = 0

    async def __call__(self) -> Message:
        if self._declared > self._limit:
            raise BodyTooLarge(self._limit)
        message = await self._receive()
        if message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            if self._seen > self._limit:
                raise BodyTooLarge(self._limit)
        return message


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", None) or "none"


def _answer(request: Request, error: ServiceError) -> JSONResponse:
    request.scope[_REASON] = error.reason
    return problem_response(error)


async def _answer_understood(request: Request, error: Exception) -> JSONResponse:
    foreseen = understood(error)
    if foreseen is None:
        raise error
    return _answer(request, foreseen)


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    """The framework's own refusals: no such route, wrong method, unreadable body."""
    if not isinstance(error, HTTPException):
        raise error
    reason = _REASONS.get(error.status_code) or http.HTTPStatus(error.status_code).name
    answer = ServiceError(Kind.of_http(error.status_code), reason, error.detail, headers=error.headers)
    return _answer(request, answer)


async def _answer_invalid(request: Request, error: Exception) -> JSONResponse:
    """What pydantic refused: 415 for another kind of body, otherwise 400, by field where there is one."""
    if not isinstance(error, RequestValidationError):
        raise error
    faults = error.errors()
    if any(fault["type"] == "json_invalid" for fault in faults):
        return _answer(request, ServiceError(Kind.INVALID, "JSON_MALFORMED", "The body is not JSON."))
    if isinstance(error.body, bytes):
        # FastAPI leaves a body of another type unparsed, and then finds that bytes are no object.
        return _answer(
            request,
            ServiceError(
                Kind.UNSUPPORTED_MEDIA, "CONTENT_TYPE_NOT_SUPPORTED", "The body must be sent as application/json."
            ),
        )
    unknown = all(fault["type"] == "extra_forbidden" for fault in faults)
    return _answer(
        request,
        ServiceError(
            Kind.INVALID,
            "UNKNOWN_FIELD" if unknown else "VALIDATION_FAILED",
            "The request does not have the shape it must have.",
            fields={_field(fault): str(fault["msg"]) for fault in faults[:20]},
        ),
    )


def _field(fault: Mapping[str, Any]) -> str:
    """`items.0.quantity`. The name of an unknown field is the caller's own text: cut short, and plain ASCII."""
    where = [str(part) for part in fault["loc"]]
    return _NOT_PLAIN.sub("?", ".".join(where[1:] or where)[:100])
