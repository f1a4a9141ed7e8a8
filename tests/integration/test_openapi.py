"""Each HTTP service against its own OpenAPI document: schemathesis calls everything with whatever it can think of.

Nothing may answer 5xx, and every answer must be one that the document promises: status, media type and shape. What is
drawn is the same in every run.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from devstack.seeds import ADMIN
from session.rest.protection import SESSION_COOKIE
from support.identity_front import ALICE, PASSWORD, identity_front
from support.notifications_system import NotificationsSystem, bearer
from support.orders_wires import orders_under_test
from support.redis_servers import embedded_valkey
from support.session_window import BOB
from support.session_world import session_world

EXAMPLES = 25
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
Headers = Mapping[str, str]


@dataclass
class Target:
    """A service, and the headers that its callers send; the first of them are nobody's.

    With a `url` it runs there, in the loop that its connections belong to. What is `anonymous` (for anybody else it
    never ends, say) is called by nobody in particular alone; what ends sessions (`ending`) is called last, and by a
    session that is still there.
    """

    app: FastAPI
    headers: tuple[Headers, ...]
    url: str | None = None
    anonymous: frozenset[str] = frozenset()
    ending: Mapping[str, Headers] = field(default_factory=dict)
    examples: int = EXAMPLES  # of each operation


async def identity_target(folder: Path) -> AsyncIterator[Target]:
    async with identity_front(f"sqlite:///{folder / 'identity.db'}") as front:
        tokens = await front.client("mobile").sign_in(front.browser(), ALICE, PASSWORD, scope="openid profile email")
        basic = base64.b64encode(b"notifications:notifications-secret").decode()
        person, service = f"Bearer {tokens.access_token}", f"Basic {basic}"
        yield Target(front.app, ({}, {"authorization": person}, {"authorization": service}))


async def orders_target(folder: Path) -> AsyncIterator[Target]:
    async with orders_under_test(f"sqlite:///{folder / 'orders.db'}") as orders:
        reader = {"authorization": f"Bearer {orders.token(scope='orders:read')}"}
        both = {"authorization": f"Bearer {orders.token()}"}
        yield Target(orders.service.http, ({}, reader, both))


async def notifications_target(folder: Path) -> AsyncIterator[Target]:
    with embedded_redis(folder) as redis_url:
        system = NotificationsSystem(f"sqlite:///{folder / 'notifications.db'}", redis_url)
        async with system.replica() as replica:
            yield Target(
                replica.service.http,
                ({}, bearer(system.token())),
                url=f"http://127.0.0.1:{replica.ports.http}",
                anonymous=frozenset({"GET /v1/notifications/stream"}),
            )


async def session_target(folder: Path) -> AsyncIterator[Target]:
    with embedded_redis(folder) as redis_url:
        async with session_world(folder, redis_url) as world:
            page = {"sec-fetch-site": "same-origin", "x-rescind-request": "1"}
            signed_in = []
            for email in (ADMIN, BOB):
                window = world.window()
                await window.sign_in(email)
                signed_in.append({**page, "cookie": f"{SESSION_COOKIE}={window.secret}"})
            admin, leaving = signed_in
            yield Target(
                world.session.http,
                ({}, page, admin),
                url=world.origin,
                anonymous=frozenset({"GET /api/live"}),
                examples=6,  # there are many operations, and every call goes over sockets to other services
                ending={"POST /auth/logout": leaving, "POST /api/sessions/end-all": admin},
            )


@contextmanager
def embedded_redis(folder: Path) -> Iterator[str]:
    redis = embedded_valkey(folder / "valkey")
    redis.start()
    try:
        yield f"redis://127.0.0.1:{redis.port}/0"
    finally:
        redis.stop()


TARGETS: dict[str, Callable[[Path], AsyncIterator[Target]]] = {
    "identity": identity_target,
    "notifications": notifications_target,
    "orders": orders_target,
    "session": session_target,
}


@pytest.fixture(params=sorted(TARGETS))
async def target(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Target]:
    async for made in TARGETS[request.param](tmp_path):
        yield made


def operations(target: Target) -> list[Any]:
    """Every operation of the document, those that end a session last."""
    schema = schemathesis.openapi.from_dict(target.app.openapi())
    if target.url is None:
        schema.app = target.app
    else:
        schema.config.update(base_url=target.url)
    listed = [result.ok() for result in schema.get_all_operations()]
    return sorted(listed, key=lambda operation: operation.label in target.ending)


def statuses(operation: Any, senders: tuple[Headers, ...], examples: int) -> set[int]:
    """What an operation answered, whatever was thought of, with each sender's headers; every answer is checked."""
    seen: set[int] = set()

    @seed(9110)
    @settings(
        max_examples=examples,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def call(case: Any) -> None:
        for headers in senders:
            response = case.call(headers=dict(headers))
            seen.add(response.status_code)
            case.validate_response(response, checks=CHECKS)

    call()
    return seen


def called(target: Target) -> dict[str, set[int]]:
    """What every operation answered."""
    answered = {}
    for operation in operations(target):
        senders = target.headers[:1] if operation.label in target.anonymous else target.headers
        if operation.label in target.ending:
            senders = (*target.headers[:-1], target.ending[operation.label])
        answered[operation.label] = statuses(operation, senders, target.examples)
    return answered


@pytest.mark.requirement(81)
@pytest.mark.requirement(84)
# Hypothesis sees that the service, in its own thread, drew from `random` while a case was being made.
@pytest.mark.filterwarnings("ignore:Do not use the .random. module:hypothesis.errors.HypothesisDeprecationWarning")
async def test_every_answer_is_one_that_the_document_promises(target: Target) -> None:
    answered = await asyncio.to_thread(called, target)
    assert len(answered) >= 4
    for label, seen in answered.items():
        assert seen, label
        assert not any(status >= 500 for status in seen), label
    assert any(200 in seen for seen in answered.values())
    for label in target.ending:  # who signs out is let in once
        assert {200, 204} & answered[label], label


def test_the_document_names_refusals_where_it_names_an_answer(target: Target) -> None:
    for path, methods in target.app.openapi()["paths"].items():
        for method, operation in methods.items():
            promised = operation["responses"]
            assert {"4XX", "503"} <= set(promised), f"{method} {path}"
            assert "application/problem+json" in promised["4XX"]["content"]
            assert "422" not in promised
