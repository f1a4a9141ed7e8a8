"""The whole attack table against orders, on both wires: the right status, the right reason, and not a word more."""

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from rescind.messages import Entry
from support.attacks import ATTACKS, Attack, Forge
from support.orders_wires import OrdersUnderTest, Refused, orders_under_test

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OrdersUnderTest]:
    database = tmp_path_factory.mktemp("orders") / "orders.db"
    async with orders_under_test(f"sqlite:///{database}") as world:
        world.revoke(Entry("token", "taken-back"))
        yield world


def _on(wire: str) -> list[object]:
    """The attacks that `wire` can carry, each with the rows that it proves."""
    return [
        pytest.param(attack, id=attack.name, marks=[pytest.mark.requirement(row) for row in attack.rows])
        for attack in ATTACKS
        if wire in attack.wires
    ]


@pytest.mark.parametrize("attack", _on("http"))
async def test_over_http(world: OrdersUnderTest, attack: Attack) -> None:
    forge = Forge(world.mint)
    with pytest.raises(Refused) as refused:
        await world.http.list_own(attack.forge(forge))
    assert (refused.value.http, refused.value.reason) == (401, attack.reason)
    challenge = refused.value.headers["www-authenticate"]
    assert challenge == f'Bearer error="invalid_token", error_description="{attack.reason}"'


@pytest.mark.parametrize("attack", _on("grpc"))
async def test_over_grpc(world: OrdersUnderTest, attack: Attack) -> None:
    forge = Forge(world.mint)
    with pytest.raises(Refused) as refused:
        await world.grpc.list_own(attack.forge(forge))
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.UNAUTHENTICATED, attack.reason)


async def test_a_good_token_passes_on_both_wires(world: OrdersUnderTest) -> None:
    """So that what was refused above was refused for the one thing that differed."""
    good = Forge(world.mint).good
    assert await world.http.list_own(good) == await world.grpc.list_own(good) == {"orders": [], "next_page_token": ""}


@pytest.mark.requirement(70)
@pytest.mark.parametrize("header", ["Basic dXNlcjpwYXNz", "DPoP {}", "{}", "Bearer", "Bearer ", "bearer", "Token {}"])
async def test_only_a_bearer_token_in_the_header_is_one(world: OrdersUnderTest, header: str) -> None:
    value = header.format(Forge(world.mint).good)
    response = await world.http.client.get("/v1/orders", headers={"authorization": value})
    assert (response.status_code, response.json()["reason"]) == (401, "TOKEN_MISSING")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.requirement(84)
async def test_two_tokens_are_none(world: OrdersUnderTest) -> None:
    good = f"Bearer {Forge(world.mint).good}"
    twice = [("authorization", good), ("authorization", good)]
    response = await world.http.client.get("/v1/orders", headers=twice)
    assert (response.status_code, response.json()["reason"]) == (401, "TOKEN_MALFORMED")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.grpc.channel.unary_unary("/contracts.orders.v1.OrdersService/ListOrders")(
            b"", metadata=tuple(twice)
        )
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.requirement(67)
@pytest.mark.parametrize(
    "method", ["/contracts.orders.v1.OrdersService/DeleteOrder", "/contracts.identity.v1.RevocationsService/Revoke"]
)
async def test_a_method_that_is_not_here_cannot_be_called(world: OrdersUnderTest, method: str) -> None:
    metadata = (("authorization", f"Bearer {world.token()}"),)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.grpc.channel.unary_unary(method)(b"", metadata=metadata)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
