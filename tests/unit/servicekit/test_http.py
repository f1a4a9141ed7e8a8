"""The edge of HTTP: problem details for everything that is wrong, and never an exception's text."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import BaseModel, ConfigDict

from rescind.errors import InsufficientScope, NotFresh, RevokedToken, UntrustedToken
from rescind.fastapi import MissingToken
from servicekit.errors import Kind, ServiceError
from servicekit.http import StrictRoute, create_app, only_query
from servicekit.metrics import Metrics

FAILURES: dict[str, Exception] = {
    "service": ServiceError(Kind.CONFLICT, "TAKEN", "It is taken.", retry_after=0.2, fields={"name": "taken"}),
    "revoked": RevokedToken("session", "SIGNED_OUT"),
    "missing": MissingToken("no bearer token"),
    "stale": RevokedToken("subject", "ROLES_CHANGED", soft=True),
    "untrusted": UntrustedToken("the inner reason"),
    "scope": InsufficientScope(frozenset({"b", "a"})),
    "not-fresh": NotFresh("the inner reason"),
    "unforeseen": ZeroDivisionError("hunter2"),
}


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    count: int = 0


def _app(metrics: Metrics) -> FastAPI:
    app = create_app("test", metrics, max_body=1000)
    routes = APIRouter(route_class=StrictRoute)

    @routes.post("/bodies")
    async def bodies(body: Body) -> Body:
        return body

    @routes.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    @routes.get("/query", dependencies=[Depends(only_query("page"))])
    async def query(page: int = 0) -> int:
        return page

    @routes.get("/fail/{name}")
    async def fail(name: str) -> None:
        raise FAILURES[name]

    app.include_router(routes)
    return app


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def client(metrics: Metrics) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(_app(metrics))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def _problem(response: httpx2.Response, status: int, reason: str) -> dict[str, object]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    body: dict[str, object] = response.json()
    assert (body["status"], body["reason"]) == (status, reason)
    assert body["instance"] == "urn:rescind:request:" + response.headers["x-request-id"]
    assert {"type", "title", "detail"} <= body.keys()
    return body


JSON = {"content-type": "application/json"}
BAD_BODIES = {
    "broken": (b'{"name": ', JSON, 400, "JSON_MALFORMED"),
    "empty": (b"", JSON, 400, "VALIDATION_FAILED"),
    "not UTF-8": (b'{"name": "\xff"}', JSON, 400, "JSON_MALFORMED"),
    "UTF-16": ('{"name": "x"}'.encode("utf-16"), JSON, 400, "JSON_MALFORMED"),
    "member twice": (b'{"name": "x", "name": "y"}', JSON, 400, "JSON_MALFORMED"),
    "NaN": (b'{"name": "x", "count": NaN}', JSON, 400, "JSON_MALFORMED"),
    "deep": (b"[" * 990, JSON, 400, "JSON_MALFORMED"),
    "no object": (b"[]", JSON, 400, "VALIDATION_FAILED"),
    "null": (b"null", JSON, 400, "VALIDATION_FAILED"),
    "missing": (b"{}", JSON, 400, "VALIDATION_FAILED"),
    "wrong type": (b'{"name": 1}', JSON, 400, "VALIDATION_FAILED"),
    "float": (b'{"name": "x", "count": 1.5}', JSON, 400, "VALIDATION_FAILED"),
    "boolean": (b'{"name": "x", "count": true}', JSON, 400, "VALIDATION_FAILED"),
    "unknown member": (b'{"name": "x", "is_admin": true}', JSON, 400, "UNKNOWN_FIELD"),
    "half a character as a member": (b'{"name": "x", "\\ud800": 1}', JSON, 400, "JSON_MALFORMED"),
    "unprintable member": ('{"name": "x", "n\u00e4m\u2028e": 1}'.encode(), JSON, 400, "UNKNOWN_FIELD"),
    "half a character as a value": (b'{"name": "\\ud800"}', JSON, 400, "JSON_MALFORMED"),
    "form": (b"name=x", {"content-type": "application/x-www-form-urlencoded"}, 415, "CONTENT_TYPE_NOT_SUPPORTED"),
    "text": (b'{"name": "x"}', {"content-type": "text/plain"}, 415, "CONTENT_TYPE_NOT_SUPPORTED"),
    "no type": (b'{"name": "x"}', {}, 415, "CONTENT_TYPE_NOT_SUPPORTED"),
    "too long": (b'{"name": "' + b"x" * 1000 + b'"}', JSON, 413, "BODY_TOO_LARGE"),
}


@pytest.mark.requirement(84)
@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_bad_body_is_a_problem(client: httpx2.AsyncClient, name: str) -> None:
    content, headers, status, reason = BAD_BODIES[name]
    _problem(await client.post("/bodies", content=content, headers=headers), status, reason)


async def test_a_good_body_is_none(client: httpx2.AsyncClient) -> None:
    response = await client.post("/bodies", content='{"name": "Zoë", "count": 2}', headers=JSON)
    assert response.json() == {"name": "Zoë", "count": 2}
    response = await client.post(
        "/bodies", content='{"name": "x"}', headers={"content-type": "application/json; charset=utf-8"}
    )
    assert response.status_code == 200


async def test_a_whole_pair_of_surrogates_is_a_character(client: httpx2.AsyncClient) -> None:
    response = await client.post("/bodies", content=b'{"name": "\\ud83d\\ude00"}', headers=JSON)
    assert response.json()["name"] == "\U0001f600"


async def test_a_body_that_trickles_in_is_cut_at_the_same_size(client: httpx2.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 100
            yield b"x" * 100
            await asyncio.sleep(0)

    async with asyncio.timeout(5):
        _problem(await client.post("/raw", content=endless()), 413, "BODY_TOO_LARGE")
    assert sent < 2000


async def test_a_body_nobody_reads_does_not_matter(client: httpx2.AsyncClient) -> None:
    response = await client.request("GET", "/query", content=b"x" * 5000)
    assert response.status_code == 200


@pytest.mark.parametrize("limit", [999, 1000, 1001])
async def test_the_cap_is_exact(client: httpx2.AsyncClient, limit: int) -> None:
    response = await client.post("/raw", content=b"x" * limit)
    assert response.status_code == (200 if limit <= 1000 else 413)


async def test_no_such_route_and_no_such_method_are_problems(client: httpx2.AsyncClient) -> None:
    _problem(await client.get("/nowhere"), 404, "ROUTE_NOT_FOUND")
    _problem(await client.get("/bodies/"), 404, "ROUTE_NOT_FOUND")
    response = await client.delete("/bodies")
    _problem(response, 405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == "POST"


@pytest.mark.requirement(84)
async def test_api_pages_are_not_there(client: httpx2.AsyncClient) -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/metrics"):
        _problem(await client.get(path), 404, "ROUTE_NOT_FOUND")


@pytest.mark.requirement(84)
@pytest.mark.parametrize(
    ("query", "reason"),
    [("page=1&page=2", "REPEATED_PARAMETER"), ("admin=1", "UNKNOWN_PARAMETER"), ("page=x", "VALIDATION_FAILED"),
     ("access_token=x", "UNKNOWN_PARAMETER")],
)  # fmt: skip
async def test_parameters_are_the_declared_ones_once(client: httpx2.AsyncClient, query: str, reason: str) -> None:
    _problem(await client.get(f"/query?{query}"), 400, reason)
    assert (await client.get("/query?page=3")).json() == 3


async def test_a_field_is_named_where_it_is_wrong(client: httpx2.AsyncClient) -> None:
    body = _problem(await client.post("/bodies", json={"count": "1"}), 400, "VALIDATION_FAILED")
    assert body["fields"] == {"name": "Field required", "count": "Input should be a valid integer"}


@pytest.mark.requirement(70)
@pytest.mark.parametrize(
    ("name", "status", "reason", "header", "value"),
    [
        ("service", 409, "TAKEN", "retry-after", "1"),
        ("revoked", 401, "TOKEN_REVOKED", "www-authenticate", 'Bearer error="invalid_token", '),
        ("missing", 401, "TOKEN_MISSING", "www-authenticate", "Bearer"),
        ("stale", 401, "TOKEN_STALE", "www-authenticate", 'Bearer error="invalid_token", '),
        ("untrusted", 401, "TOKEN_UNTRUSTED", "www-authenticate", 'Bearer error="invalid_token", '),
        ("scope", 403, "INSUFFICIENT_SCOPE", "www-authenticate", 'Bearer error="insufficient_scope", scope="a b"'),
        ("not-fresh", 503, "VERIFIER_NOT_FRESH", "retry-after", "1"),
    ],
)
async def test_the_vocabulary_over_http(
    client: httpx2.AsyncClient, name: str, status: int, reason: str, header: str, value: str
) -> None:
    response = await client.get(f"/fail/{name}")
    _problem(response, status, reason)
    assert response.headers[header].startswith(value)
    assert "the inner reason" not in response.text


@pytest.mark.requirement(81)
async def test_the_unforeseen_is_a_blank_500(client: httpx2.AsyncClient, metrics: Metrics) -> None:
    response = await client.get("/fail/unforeseen")
    body = _problem(response, 500, "INTERNAL")
    assert "hunter2" not in response.text
    assert "ZeroDivisionError" not in response.text
    assert str(body["detail"]).startswith("Something went wrong here. Reference ")
    assert metrics.registry.get_sample_value("unforeseen_errors_total") == 1


@pytest.mark.requirement(40)
async def test_who_asks_does_not_choose_the_request_id(client: httpx2.AsyncClient) -> None:
    headers = {"x-request-id": "chosen", "x-forwarded-for": "1.2.3.4", "x-user-id": "usr_admin"}
    response = await client.get("/query", headers=headers)
    assert response.headers.get_list("x-request-id") != ["chosen"]


async def test_requests_are_counted_by_template(client: httpx2.AsyncClient, metrics: Metrics) -> None:
    await client.get("/fail/service")
    await client.get("/fail/service")
    await client.request("BREW", "/" + "x" * 50)
    count = metrics.registry.get_sample_value
    assert count("http_server_seconds_count", {"method": "GET", "route": "/fail/{name}", "status": "409"}) == 2
    assert count("http_server_seconds_count", {"method": "OTHER", "route": "none", "status": "404"}) == 1


async def test_every_problem_is_json_with_the_agreed_members(client: httpx2.AsyncClient) -> None:
    response = await client.get("/fail/service")
    assert json.loads(response.text) == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "It is taken.",
        "instance": f"urn:rescind:request:{response.headers['x-request-id']}",
        "reason": "TAKEN",
        "fields": {"name": "taken"},
    }
