"""The guard in front of FastAPI routes: a dependency that yields the principal.

    @app.get("/orders")
    async def list_orders(principal: Annotated[Principal, Depends(bearer(guard, "orders:read"))]): ...

A token is taken from the Authorization header only (RFC 6750 section 2.1): one in the query or the body is no token.
"""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from rescind.claims import Principal
from rescind.errors import (
    CannotTell,
    InsufficientScope,
    MalformedToken,
    MissingToken,
    RescindError,
    StepUpRequired,
    TokenRefused,
)
from rescind.guard import Guard
from rescind.policy import STRICT, Staleness

CurrentGuard = Callable[[], Guard]


def bearer(
    guard: Guard | CurrentGuard, *scopes: str, staleness: Staleness = STRICT, max_auth_age: int | None = None
) -> Callable[[Request], Awaitable[Principal]]:
    """A dependency that lets a request pass whose token is good and holds all of `scopes`.

    `max_auth_age` asks, besides, for a person who signed in so many seconds ago at most (step-up, RFC 9470).
    `guard` may be a function that gives it, for apps that make their guard when they start.
    The dependency raises what `Guard.authenticate` raises, and `MissingToken`; `install_error_handlers` answers them.
    """
    required = frozenset(scopes)

    async def authenticate(request: Request) -> Principal:
        current = guard if isinstance(guard, Guard) else guard()
        return await current.authenticate(
            token_of(request), scopes=required, staleness=staleness, max_auth_age=max_auth_age
        )

    return authenticate


def token_of(request: Request) -> str:
    """The bearer token of a request, not yet verified.

    Raises:
        MissingToken: there is no Authorization header, or one of another scheme.
        MalformedToken: there is more than one.
    """
    headers = request.headers.getlist("authorization")
    if not headers:
        raise MissingToken("no bearer token")
    if len(headers) > 1:
        raise MalformedToken("more than one Authorization header")
    scheme, _, unverified_token = headers[0].partition(" ")
    if scheme.lower() != "bearer" or not unverified_token:
        raise MissingToken("no bearer token")
    return unverified_token


def challenge(error: RescindError) -> str | None:
    """The WWW-Authenticate value for a refusal (RFC 6750 section 3, RFC 9470 section 3), or None where none belongs."""
    if isinstance(error, MissingToken):
        return "Bearer"
    if isinstance(error, TokenRefused):
        return 'Bearer error="invalid_token"'
    if isinstance(error, InsufficientScope):
        return f'Bearer error="insufficient_scope", scope="{" ".join(sorted(error.required))}"'
    if isinstance(error, StepUpRequired):
        return f'Bearer error="insufficient_user_authentication", max_age={error.max_auth_age}'
    return None


def install_error_handlers(app: FastAPI) -> None:
    """Answers the guard's refusals as problem details (RFC 9457): 401, 403, or 503 with Retry-After."""

    async def answer(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RescindError)  # noqa: S101  (registered for nothing else)
        headers = {}
        if (value := challenge(error)) is not None:
            headers["www-authenticate"] = value
        status, title = 401, "Unauthorized"
        if isinstance(error, InsufficientScope):
            status, title = 403, "Forbidden"
        elif isinstance(error, CannotTell):
            status, title = 503, "Service Unavailable"
            headers["retry-after"] = str(error.retry_after)
        body = {"type": "about:blank", "title": title, "status": status, "reason": error.reason}
        return JSONResponse(body, status, headers, media_type="application/problem+json")

    app.add_exception_handler(RescindError, answer)
