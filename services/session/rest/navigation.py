"""What went wrong with a sign-in, said to whoever asked: problem details to programs, and a page to people.

A person who follows a link sees whatever comes, so they are sent back into the app, which says it in a sentence.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import RedirectResponse, Response

from rescind.errors import RescindError
from servicekit.errors import ServiceError, understood

# What the app has a sentence for (web/js/reasons.js); anything else is told as the one word below. The first are what
# identity may say instead of a code.
TOLD = frozenset({"access_denied", "login_required", "consent_required", "temporarily_unavailable", "invalid_scope"})
TOLD |= {"IDENTITY_UNAVAILABLE", "IDENTITY_REFUSED", "SESSIONS_UNAVAILABLE", "TOO_MANY_ATTEMPTS", "SIGN_IN_NOT_BEGUN"}
TOLD |= {"STATE_MISMATCH", "ISSUER_MISMATCH", "CODE_REFUSED", "ID_TOKEN_REFUSED"}
OTHERWISE = "sign_in_failed"
_log = structlog.get_logger("session.navigation")


def told(reason: str) -> Response:
    """Back into the app, which says why nobody was signed in."""
    return RedirectResponse(f"/?sign_in={reason if reason in TOLD else OTHERWISE}", 303)


class NavigatedRoute(APIRoute):
    """A route that people come to by a link: to a navigation (Fetch Metadata) its refusals are told by the app."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with its refusals told to people."""
        handle = super().get_route_handler()

        async def navigated(request: Request) -> Response:
            try:
                return await handle(request)
            except (ServiceError, RescindError) as error:
                refusal = understood(error)
                if refusal is None or request.method != "GET" or request.headers.get("sec-fetch-mode") != "navigate":
                    raise
                _log.info("a sign-in was refused", route=self.path, reason=refusal.reason)
                return told(refusal.reason)

        return navigated
