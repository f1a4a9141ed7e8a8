"""Each HTTP service against its own OpenAPI document: schemathesis calls everything with whatever it can think of.

Nothing may answer 5xx, and every answer must be one that the document promises: status, media type and shape. What is
drawn is the same in every run.
"""

import base64
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
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

from support.identity_front import ALICE, PASSWORD, identity_front
from support.orders_wires import orders_under_test

EXAMPLES = 25  # of each operation
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
Headers = Mapping[str, str]


@dataclass
class Target:
    """A service, and the headers that its callers send."""

    app: FastAPI
    headers: tuple[Headers, ...]


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


TARGETS: dict[str, Callable[[Path], AsyncIterator[Target]]] = {"identity": identity_target, "orders": orders_target}


@pytest.fixture(params=sorted(TARGETS))
async def target(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Target]:
    async for made in TARGETS[request.param](tmp_path):
        yield made


def operations(app: FastAPI) -> Iterator[Any]:
    """Every operation of the document."""
    schema = schemathesis.openapi.from_dict(app.openapi())
    schema.app = app
    for result in schema.get_all_operations():
        yield result.ok()


def statuses(operation: Any, senders: tuple[Headers, ...]) -> set[int]:
    """What an operation answered, whatever was thought of, with each sender's headers; every answer is checked."""
    seen: set[int] = set()

    @seed(9110)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
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


@pytest.mark.requirement(81)
@pytest.mark.requirement(84)
def test_every_answer_is_one_that_the_document_promises(target: Target) -> None:
    answered = {operation.label: statuses(operation, target.headers) for operation in operations(target.app)}
    assert len(answered) >= 4
    for label, seen in answered.items():
        assert seen, label
        assert not any(status >= 500 for status in seen), label
    assert any(200 in seen for seen in answered.values())


def test_the_document_names_refusals_where_it_names_an_answer(target: Target) -> None:
    for path, methods in target.app.openapi()["paths"].items():
        for method, operation in methods.items():
            promised = operation["responses"]
            assert {"4XX", "503"} <= set(promised), f"{method} {path}"
            assert "application/problem+json" in promised["4XX"]["content"]
            assert "422" not in promised
