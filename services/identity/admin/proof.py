"""Proving again who it is, before an act that cannot be taken back (ASVS 7.5.1).

Whoever signed in lately (`IDENTITY_ADMIN_AUTH_AGE`) has just proven it. The proof renews the login session under a new
cookie, as signing in again would.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog
from fastapi import Request
from sqlalchemy import Connection, select
from starlette.responses import Response

from identity import signin
from identity.domain import LoginSession, NewSession, SignInOvertaken
from identity.oauth.requests import Parameters
from identity.page_routes import NotFromHere, NotSignedInHere, is_ours, see_other, session_in
from identity.storage import users
from identity.web import SESSION_COOKIE, Web, read_form, start_session
from servicekit.errors import Kind, ServiceError
from servicekit.visitor import counted_as

_PROOF = "admin-proof"
_log = structlog.get_logger("identity.admin")


@dataclass(frozen=True, slots=True)
class Administrator:
    """Somebody with the role, signed in here; `recent` if they have just proven it."""

    user_id: str
    name: str
    email: str
    session: LoginSession
    recent: bool


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets administrators through, and asks them again where it matters."""

    web: Web
    max_auth_age: int  # seconds

    async def administrator(self, request: Request) -> Administrator:
        """Who it is.

        Raises:
            NotSignedInHere: nobody.
            ServiceError: NOT_AN_ADMINISTRATOR.
        """
        return await self.web.database.run(lambda tx: self._administrator(tx, request))

    async def acting(self, request: Request, back: str) -> tuple[Parameters, Administrator] | Response:
        """The form of an act and who does it; or a page that asks for the password, and leads `back` after it.

        Raises:
            NotSignedInHere, NotFromHere, ServiceError: NOT_AN_ADMINISTRATOR.
        """
        form = await read_form(request)
        who = await self.administrator(request)
        if not is_ours(self.web, request, form, f"admin:{request.url.path}", SESSION_COOKIE):
            raise NotFromHere
        if not who.recent:
            return self.asked_again(request, who, back)
        return form, who

    def csrf(self, request: Request, path: str) -> str:
        """The token of a form that posts to `path`."""
        return self.web.forms.csrf(f"admin:{path}", request.cookies[SESSION_COOKIE])

    def asked_again(
        self, request: Request, who: Administrator, back: str, fault: str = "", status: int = 403
    ) -> Response:
        """The page that asks for the password."""
        token = self.web.forms.csrf(_PROOF, request.cookies[SESSION_COOKIE])
        return self.web.views.page(
            "admin/proof.html", status=status, csrf_token=token, back=back, email=who.email, fault=fault
        )

    async def prove(self, request: Request) -> Response:
        """Checks the password, renews the session, and leads back.

        Raises:
            NotSignedInHere, NotFromHere, ServiceError: NOT_AN_ADMINISTRATOR.
        """
        web = self.web
        form = await read_form(request)
        who = await self.administrator(request)
        if not is_ours(web, request, form, _PROOF, SESSION_COOKIE):
            raise NotFromHere
        back = local_path(form.get("back") or "")
        try:
            await web.door.proof(who.user_id, counted_as(web.visitor(request)))
        except ServiceError as error:
            page = self.asked_again(request, who, back, error.detail, status=error.kind.http)
            page.headers["retry-after"] = str(round(error.retry_after or 1))
            return page
        known = await web.database.read(lambda tx: web.accounts.credentials(tx, who.email))
        right = await web.passwords.verify(None if known is None else known.password_hash, form.get("password") or "")
        if known is None or not right or known.user_id != who.user_id:
            _log.warning("proof_refused", user_id=who.user_id)
            return self.asked_again(request, who, back, "The password is not right.")
        proven, cookie = known, request.cookies[SESSION_COOKIE]

        def work(tx: Connection) -> NewSession:
            return signin.open_session(tx, web.issuer, proven, cookie, visitor=web.visitor(request))

        try:
            opened = await web.database.run(work)
        except SignInOvertaken:
            raise NotSignedInHere from None
        response = see_other(back)
        start_session(response, opened)
        return response

    def _administrator(self, tx: Connection, request: Request) -> Administrator:
        session = session_in(self.web, tx, request)
        if session is None:
            raise NotSignedInHere
        row = tx.execute(select(users).where(users.c.id == session.user_id)).one()
        if "admin" not in row.roles:
            raise ServiceError(Kind.FORBIDDEN, "NOT_AN_ADMINISTRATOR", "This is for administrators.")
        recent = self.web.issuer.now(tx) - session.auth_time < self.max_auth_age * 1000
        return Administrator(row.id, row.name, row.email, session, recent)


def local_path(path: str) -> str:
    """`path` if it is a page of the administration, its front page otherwise: no redirect leads away from here."""
    parts = urlsplit(path)
    plain = not parts.scheme and not parts.netloc and not parts.query and path.isascii() and path.isprintable()
    here = path == "/admin" or path.startswith("/admin/")
    return path if plain and here and "\\" not in path and ".." not in path and "//" not in path else "/admin"
