"""The pages under /admin. Every act is a form of its own, for an administrator who has just proven who it is."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request
from starlette.responses import Response

from identity.admin import directory
from identity.admin.proof import Administrator, Gate, local_path
from identity.admin.registry import DEVICE, GRANT_TYPES, RESOURCES, SCOPES, Registry, as_new_client
from identity.administration import Administration
from identity.audit import AuditTrail
from identity.my_account import MyAccount
from identity.oauth.consent import in_plain_words
from identity.page_routes import page_router, see_other
from identity.people.browsers import named
from identity.web import Web
from servicekit.errors import Kind, ServiceError

_NOTICES = {
    "disabled": "It is switched off, and everything it held is refused from now on.",
    "enabled": "It is switched on again. What was ended stays ended.",
    "ended": "Everything this person held has ended, everywhere.",
    "session-ended": "That session has ended, and what hung on it is refused from now on.",
    "roles": "The roles are changed. Tokens that were issued before are refreshed before they are accepted again.",
    "withdrawn": "The app has no access to this account any more.",
    "rotated": "Another key signs from now on.",
    "revoked": "Whatever that key signed is refused from now on.",
    "everything": "A new log has begun. Everybody has to sign in again.",
}


def router(
    web: Web, gate: Gate, administration: Administration, registry: Registry, holdings: MyAccount, audit: AuditTrail
) -> APIRouter:
    """The pages and the forms on them."""
    pages = page_router(web.views)
    accounts, read = web.accounts, web.database.read

    @pages.get("/admin")
    async def front() -> Response:
        return see_other("/admin/users")

    @pages.post("/admin/proof")
    async def prove(request: Request) -> Response:
        return await gate.prove(request)

    @pages.get("/admin/users")
    async def list_users(request: Request) -> Response:
        who = await gate.administrator(request)
        search, token = request.query_params.get("search") or "", request.query_params.get("page") or ""
        users, behind = await read(lambda tx: directory.find_users(tx, search=search, token=token))
        further = f"?{urlencode({'search': search, 'page': behind})}" if behind else ""
        return shown(request, who, "users", users=users, search=search, further=further)

    @pages.get("/admin/users/{user_id}")
    async def show_user(request: Request, user_id: str) -> Response:
        who = await gate.administrator(request)
        user = await read(lambda tx: directory.get_user(tx, user_id))
        held = await holdings.held(user.id)
        records, _ = await read(lambda tx: audit.read(tx, about=user.id, size=10))
        here = f"/admin/users/{user.id}"
        acts = ("disable", "enable", "end", "end-session", "make-admin", "unmake-admin", "withdraw")
        tied = [grant for place in held.sessions for grant in place.grants]
        return shown(
            request,
            who,
            "user",
            user=user,
            places=[(place, named(place.user_agent)) for place in held.sessions],
            apps=[(grant, in_plain_words(grant.scopes)) for grant in [*held.offline, *tied]],
            records=records,
            csrf={act.replace("-", "_"): gate.csrf(request, f"{here}/{act}") for act in acts},
            oneself=user.id == who.user_id,
        )

    @pages.post("/admin/users/{user_id}/{act}")
    async def act_on_user(request: Request, user_id: str, act: str) -> Response:
        back = local_path(f"/admin/users/{user_id}")
        acting = await gate.acting(request, back)
        if isinstance(acting, Response):
            return acting
        form, who = acting
        user = await read(lambda tx: directory.get_user(tx, user_id))
        if user.id == who.user_id and act in ("disable", "unmake-admin"):
            raise ServiceError(Kind.CONFLICT, "NOT_YOURSELF", "Another administrator has to do that to you.")
        match act:
            case "disable":
                await accounts.disable_account(user.id, by=who.user_id)
                return see_other(f"{back}?notice=disabled")
            case "enable":
                await accounts.enable_account(user.id, by=who.user_id)
                return see_other(f"{back}?notice=enabled")
            case "end":
                await administration.revoke("subject", user.id, cause="", by=who.user_id)
                return see_other(f"{back}?notice=ended")
            case "end-session":
                sid = form.get("sid") or ""
                await holdings.require_session(user.id, sid)
                await administration.revoke("session", sid, cause="", by=who.user_id)
                # It may have been the session of whoever did it: then this leads on to the sign-in page.
                return see_other(f"{back}?notice=session-ended")
            case "make-admin" | "unmake-admin":
                changed = set(user.roles) | {"admin"} if act == "make-admin" else set(user.roles) - {"admin"}
                await accounts.change_roles(user.id, sorted(changed), by=who.user_id)
                return see_other(f"{back}?notice=roles")
            case "withdraw":
                gid = form.get("gid") or ""
                await holdings.require_grant(user.id, gid)
                await administration.revoke("grant", gid, cause="", by=who.user_id)
                return see_other(f"{back}?notice=withdrawn")
        raise _nothing()

    @pages.get("/admin/clients")
    async def list_clients(request: Request) -> Response:
        who = await gate.administrator(request)
        return shown(request, who, "clients", clients=await read(directory.list_clients))

    @pages.get("/admin/new-client")
    async def show_new_client(request: Request) -> Response:
        return new_client(request, await gate.administrator(request))

    @pages.post("/admin/new-client")
    async def create_client(request: Request) -> Response:
        acting = await gate.acting(request, "/admin/new-client")
        if isinstance(acting, Response):
            return acting
        form, who = acting
        # Each box on the form is a parameter of its own: no parameter comes twice.
        boxes = {
            f"{group}s": " ".join(value for value in values if form.get(f"{group}.{value}") == "yes")
            for group, values in (("grant_type", GRANT_TYPES), ("scope", SCOPES), ("resource", RESOURCES))
        }
        given = {name: values[0] for name, values in form.datalist.items()} | boxes
        try:
            made = await registry.create(
                as_new_client(given.items()), confidential=given.get("confidential") == "yes", by=who.user_id
            )
        except ServiceError as error:
            if error.kind not in (Kind.UNPROCESSABLE, Kind.CONFLICT):
                raise
            faults = error.fields or {"client_id": error.detail}
            return new_client(request, who, given=given, faults=faults, status=error.kind.http)
        return one_client(request, who, made.client, secret=made.secret)

    @pages.get("/admin/clients/{client_id}")
    async def show_client(request: Request, client_id: str) -> Response:
        who = await gate.administrator(request)
        return one_client(request, who, await read(lambda tx: directory.get_client(tx, client_id)))

    @pages.post("/admin/clients/{client_id}/{act}")
    async def act_on_client(request: Request, client_id: str, act: str) -> Response:
        back = local_path(f"/admin/clients/{client_id}")
        acting = await gate.acting(request, back)
        if isinstance(acting, Response):
            return acting
        _, who = acting
        client = await read(lambda tx: directory.get_client(tx, client_id))
        match act:
            case "disable":
                await accounts.disable_client(client.id, by=who.user_id)
                return see_other(f"{back}?notice=disabled")
            case "enable":
                await accounts.enable_client(client.id, by=who.user_id)
                return see_other(f"{back}?notice=enabled")
            case "rotate-secret":
                return one_client(request, who, client, secret=await registry.rotate_secret(client.id, by=who.user_id))
        raise _nothing()

    @pages.get("/admin/keys")
    async def list_keys(request: Request) -> Response:
        who = await gate.administrator(request)
        keys = [(key, quote(key.kid)) for key in reversed(await administration.keys())]
        csrf = {key.kid: gate.csrf(request, f"/admin/keys/{key.kid}/revoke") for key, _ in keys}
        rotate, everything = (gate.csrf(request, f"/admin/{path}") for path in ("rotate-keys", "end-everything"))
        return shown(request, who, "keys", keys=keys, csrf=csrf, csrf_rotate=rotate, csrf_everything=everything)

    @pages.post("/admin/rotate-keys")
    async def rotate_keys(request: Request) -> Response:
        acting = await gate.acting(request, "/admin/keys")
        if isinstance(acting, Response):
            return acting
        await administration.rotate_keys(by=acting[1].user_id)
        return see_other("/admin/keys?notice=rotated")

    @pages.post("/admin/keys/{kid}/revoke")
    async def revoke_key(request: Request, kid: str) -> Response:
        acting = await gate.acting(request, "/admin/keys")
        if isinstance(acting, Response):
            return acting
        await administration.revoke("key", kid, cause="", by=acting[1].user_id)
        return see_other("/admin/keys?notice=revoked")

    @pages.post("/admin/end-everything")
    async def end_everything(request: Request) -> Response:
        acting = await gate.acting(request, "/admin/keys")
        if isinstance(acting, Response):
            return acting
        await administration.end_everything(by=acting[1].user_id)
        return see_other("/login")

    @pages.get("/admin/audit")
    async def show_audit(request: Request) -> Response:
        who = await gate.administrator(request)
        about, token = request.query_params.get("about") or "", request.query_params.get("page") or ""
        records, behind = await read(lambda tx: audit.read(tx, about=about, token=token))
        further = f"?{urlencode({'about': about, 'page': behind})}" if behind else ""
        return shown(request, who, "audit", records=records, about=about, further=further)

    def one_client(
        request: Request, who: Administrator, client: directory.ClientRecord, *, secret: str = ""
    ) -> Response:
        here = f"/admin/clients/{client.id}"
        csrf = {
            act.replace("-", "_"): gate.csrf(request, f"{here}/{act}") for act in ("disable", "enable", "rotate-secret")
        }
        return shown(request, who, "client", client=client, csrf=csrf, secret=secret)

    def new_client(
        request: Request,
        who: Administrator,
        *,
        given: Mapping[str, str] | None = None,
        faults: Mapping[str, str] | None = None,
        status: int = 200,
    ) -> Response:
        return shown(
            request,
            who,
            "new_client",
            status,
            csrf_token=gate.csrf(request, "/admin/new-client"),
            given=given
            or {"confidential": "yes", "grant_types": "authorization_code refresh_token", "scopes": "openid"},
            faults=faults or {},
            grant_types=[(name, name.rpartition(":")[2] if name != DEVICE else "device") for name in GRANT_TYPES],
            scopes=list(zip(SCOPES, in_plain_words(SCOPES), strict=True)),
            resources=RESOURCES,
        )

    def shown(request: Request, who: Administrator, name: str, status: int = 200, **more: Any) -> Response:
        notice = _NOTICES.get(request.query_params.get("notice") or "", "")
        return web.views.page(f"admin/{name}.html", status=status, who=who, notice=notice, **more)

    return pages


def _nothing() -> ServiceError:
    return ServiceError(Kind.NOT_FOUND, "NO_SUCH_ACT", "There is no such thing to do.")
