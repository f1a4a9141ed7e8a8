"""What another site's page, a forged header or a clever path can get out of the web app: nothing."""

import asyncio
from urllib.parse import urlsplit

import pytest

from session.rest.protection import HEADERS, SESSION_COOKIE
from support.session_window import Window
from support.session_world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")
UNSAFE = [
    ("POST", "/auth/logout"),
    ("DELETE", "/api/sessions/ses_AAAAAAAAAAAAAAAAAAAAAA"),
    ("POST", "/api/sessions/end-others"),
    ("POST", "/api/sessions/end-all"),
    ("DELETE", "/api/apps/gid_x"),
    ("POST", "/api/orders"),
    ("POST", "/api/orders/ord_x/cancel"),
    ("POST", "/api/admin/orders/ord_x/confirm"),
    ("POST", "/api/admin/orders/ord_x/ship"),
    ("POST", "/api/admin/orders/ord_x/deliver"),
    ("POST", "/api/notifications/ntf_x/read"),
    ("PUT", "/api/notification-preferences"),
    ("POST", "/api/control/revoke"),
    ("POST", "/api/control/faults"),
    ("POST", "/api/control/stolen"),
    ("POST", "/api/control/stolen/x/use"),
]


async def _signed_in(world: World) -> Window:
    window = world.window()
    await window.sign_in()
    return window


@pytest.mark.requirement(34)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-rescind-request": "1"},
        {"origin": "OWN"},
        {"sec-fetch-site": "same-origin"},
        {"origin": "OWN", "x-rescind-request": "0"},
        {"origin": "https://evil.example", "x-rescind-request": "1"},
        {"origin": "null", "x-rescind-request": "1"},
        {"origin": "OWN", "x-rescind-request": "1", "sec-fetch-site": "same-site"},
        {"origin": "OWN", "x-rescind-request": "1", "sec-fetch-site": "cross-site"},
        {"x-rescind-request": "1", "sec-fetch-site": "none"},
    ],
    ids=str,
)
async def test_what_changes_something_comes_from_the_apps_own_pages_only(world: World, headers: dict[str, str]) -> None:
    window = await _signed_in(world)
    sent = {name: value.replace("OWN", world.origin) for name, value in headers.items()}
    for method, path in UNSAFE:
        refused = await window.request(method, path, body={}, headers=dict(sent), own=False)
        assert refused.status_code == 403, (method, path, refused.text)
        assert refused.json()["reason"] in ("CROSS_ORIGIN", "REQUEST_HEADER_MISSING")
    assert (await window.get("/api/me")).status_code == 200


@pytest.mark.requirement(34)
async def test_the_list_above_is_every_route_that_changes_something(world: World) -> None:
    """All but identity's own call, which no browser's cookie is good for. And no GET is among them."""
    declared = {
        (method.upper(), path)
        for path, methods in world.session.http.openapi()["paths"].items()
        for method in methods
        if method != "get"
    }
    listed = {(method, _template(path)) for method, path in UNSAFE}
    assert {(method, _template(path)) for method, path in declared} == {*listed, ("POST", "/auth/backchannel-logout")}


def _template(path: str) -> str:
    known = {"/api/sessions/end-others", "/api/sessions/end-all", "/auth/logout"}
    if path in known:
        return path
    parts = path.split("/")
    return "/".join("*" if "{" in part or "_" in part or part == "x" else part for part in parts)


@pytest.mark.requirement(41)
@pytest.mark.parametrize("path", ["/api/me", "/api/live", "/api/orders", "/api/lab"])
@pytest.mark.parametrize("headers", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}], ids=str)
async def test_another_sites_page_reads_nothing(world: World, path: str, headers: dict[str, str]) -> None:
    window = await _signed_in(world)
    refused = await window.request("GET", path, headers=dict(headers), own=False)
    assert (refused.status_code, refused.json()["reason"]) == (403, "CROSS_ORIGIN")


@pytest.mark.requirement(36)
async def test_no_other_origin_is_given_leave(world: World) -> None:
    window = await _signed_in(world)
    headers = {
        "origin": "https://evil.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-rescind-request",
    }
    for path in ("/api/orders", "/auth/logout", "/"):
        answer = await window.request("OPTIONS", path, headers=dict(headers), own=False)
        assert answer.status_code in (403, 405)
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.requirement(35)
@pytest.mark.requirement(64)
@pytest.mark.parametrize(
    "path", ["/", "/static/none.js", "/api/me", "/auth/login", "/auth/callback", "/nowhere", "/livez"]
)
async def test_every_answer_carries_the_strict_headers(world: World, path: str) -> None:
    answer = await world.window().get(path)
    assert {name: answer.headers[name] for name in HEADERS} == dict(HEADERS)
    policy = answer.headers["content-security-policy"]
    for directive in ("object-src 'none'", "base-uri 'none'", "frame-ancestors 'none'", "default-src 'none'"):
        assert directive in policy
    assert "unsafe" not in policy


@pytest.mark.requirement(25)
async def test_the_cookie_alone_decides_and_only_as_the_server_knows_it(world: World) -> None:
    window = world.window()
    for value in ("", "x", "A" * 43, "A" * 4000, "usr_alice", "../../etc", '{"sub":"usr_alice"}'):
        window.cookies = {SESSION_COOKIE: value}
        assert (await window.get("/api/me")).status_code == 401


@pytest.mark.requirement(40)
async def test_forged_headers_change_nothing(world: World) -> None:
    window = await _signed_in(world)
    me = (await window.get("/api/me")).json()
    forged = {
        "x-user-id": "usr_admin",
        "x-forwarded-for": "203.0.113.9",
        "x-forwarded-host": "evil.example",
        "x-forwarded-proto": "https",
        "forwarded": "for=203.0.113.9;host=evil.example",
        "authorization": "Bearer eyJhbGciOiJub25lIn0.e30.",
        "x-original-url": "/api/control/status",
        "x-http-method-override": "DELETE",
    }
    again = await window.get("/api/me", **forged)
    assert again.json() | {"idle_expires_at": ""} == me | {"idle_expires_at": ""}
    await window.get("/api/orders", **forged)
    sent = world.orders.metadata[-1]
    assert not {"x-user-id", "x-forwarded-for", "cookie", "x-forwarded-host"} & sent.keys()
    sessions = (await window.get("/api/sessions")).json()["sessions"]
    assert all(not session["address"].startswith("203.") for session in sessions)


@pytest.mark.requirement(38)
@pytest.mark.parametrize(
    "path",
    [
        "/api/orders/../control/status",
        "/api/orders/..%2fcontrol%2fstatus",
        "/api/orders/%2e%2e/me",
        "/api/orders/ord_1%00",
        "/api/orders/ord_1%0d%0aHost:%20evil",
        "/api/orders//evil.example/",
        "/api//orders",
        "/api/orders/http:%2f%2fevil.example",
        "/api/identity.v1.AccountsService/DisableAccount",
        "/api/v1/orders",
        "/contracts.orders.v1.OrdersService/ListOrders",
        "/static/..%2f..%2fsettings.py",
        "/static/%2e%2e/app.py",
        "/static/....//settings.py",
    ],
)
async def test_path_tricks_reach_nothing(world: World, path: str) -> None:
    """Sent as they are: a client would tidy them up."""
    window = await _signed_in(world)
    calls = len(world.orders.calls)
    status = await _raw(world, window, path)
    assert status in (400, 404, 405), path
    assert {method for method, _ in world.orders.calls[calls:]} <= {"GetOrder"}


@pytest.mark.requirement(38)
async def test_there_is_no_generic_forwarding(world: World) -> None:
    """Every route of the proxy names its own path; none takes the rest of one."""
    paths = list(world.session.http.openapi()["paths"])
    assert len(paths) > 20
    assert not [path for path in paths if ":path" in path]


@pytest.mark.requirement(84)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/orders", {"items": [{"sku": "tea", "quantity": 1, "unit_price": {"minor_units": 1}}]}),
        ("/api/orders", {"items": [], "owner": "usr_bob"}),
        ("/api/notification-preferences", {"order_emails": True, "security_emails": True, "subject": "usr_bob"}),
    ],
)
async def test_members_that_are_not_the_persons_to_set_are_refused(world: World, path: str, body: object) -> None:
    window = await _signed_in(world)
    method = "PUT" if path.endswith("preferences") else "POST"
    refused = await window.request(method, path, body=body)
    assert (refused.status_code, refused.json()["reason"]) == (400, "UNKNOWN_FIELD")


@pytest.mark.requirement(84)
@pytest.mark.parametrize(
    "path", ["/api/orders?page_size=1&page_size=2", "/api/me?subject=usr_bob", "/auth/login?return_to=/&return_to=/x"]
)
async def test_parameters_that_repeat_or_do_not_exist_are_refused(world: World, path: str) -> None:
    window = await _signed_in(world)
    assert (await window.get(path)).status_code == 400


@pytest.mark.requirement(84)
async def test_api_pages_are_not_public(world: World) -> None:
    for path in ("/docs", "/openapi.json", "/redoc", "/metrics"):
        assert (await world.window().get(path)).status_code == 404


async def test_who_comes_by_another_name_is_sent_to_the_one_that_cookies_are_for(world: World) -> None:
    answer = await world.http.get(f"http://127.0.0.1:{urlsplit(world.origin).port}/")
    assert (answer.status_code, answer.headers["location"]) == (307, f"{world.origin}/")


async def _raw(world: World, window: Window, path: str) -> int:
    host = urlsplit(world.origin)
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {host.netloc}",
        f"Cookie: {SESSION_COOKIE}={window.secret}",
        "Sec-Fetch-Site: same-origin",
        "Connection: close",
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[1])
