"""What orders writes down: who was let in and who was not, when, and under which id; no token, whatever is sent."""

import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from rescind.messages import Entry
from servicekit.telemetry import set_up_logging
from support.eventually import eventually
from support.orders_wires import OrdersUnderTest, Refused, Wire, orders_under_test


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    out = io.StringIO()
    set_up_logging("orders", out=out)
    yield out
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
async def world(log: io.StringIO, tmp_path: Path) -> AsyncIterator[OrdersUnderTest]:
    async with orders_under_test(f"sqlite:///{tmp_path / 'orders.db'}") as world:
        yield world


async def _calls(log: io.StringIO, number: int) -> list[dict[str, Any]]:
    """The lines of so many calls: gRPC's is written once its caller has the answer."""

    async def written() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in log.getvalue().splitlines()]
        calls = [line for line in lines if line["event"] in ("request", "rpc")]
        return calls if len(calls) >= number else []

    return await eventually(written, within=10)


@pytest.mark.requirement(82)
@pytest.mark.parametrize("wire_name", ["http", "grpc"])
async def test_every_decision_is_written_with_its_reason_time_and_id(
    world: OrdersUnderTest, log: io.StringIO, wire_name: Any
) -> None:
    wire: Wire = world.wire(wire_name)
    good, revoked, weak = world.token(), world.token(jti="gone"), world.token(scope="")
    world.revoke(Entry("token", "gone"))
    await wire.list_own(good)
    for token in (revoked, weak, "", "a.b.c"):
        with pytest.raises(Refused):
            await wire.list_own(token)
    lines = await _calls(log, 5)
    assert [line.get("reason") for line in lines] == [
        None, "TOKEN_REVOKED", "INSUFFICIENT_SCOPE", "TOKEN_MISSING", "TOKEN_MALFORMED"
    ]  # fmt: skip
    for line in lines:
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)
        assert len(line["request_id"]) == 16
        assert len(line["trace_id"]) == 32
        assert line["service"] == "orders"
    assert len({line["request_id"] for line in lines}) == 5


@pytest.mark.requirement(81)
@pytest.mark.parametrize("wire_name", ["http", "grpc"])
async def test_no_token_is_written_whatever_happens_to_the_call(
    world: OrdersUnderTest, log: io.StringIO, wire_name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire: Wire = world.wire(wire_name)
    token = world.token()

    async def breaks(*_: object, **__: object) -> None:
        raise RuntimeError(f"broken while holding {token}")

    monkeypatch.setattr("orders.service.Orders.list_own", breaks)
    with pytest.raises(Refused) as refused:
        await wire.list_own(token)
    assert refused.value.reason == "INTERNAL"
    await _calls(log, 1)
    written = log.getvalue()
    assert "unforeseen error" in written
    assert "RuntimeError" in written
    for part in token.split("."):
        assert part not in written
        assert part[:40] not in written
