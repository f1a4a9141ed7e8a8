"""`python -m eventlog dead-letters`: what whoever is on duty sees and does."""

import asyncio
import json
from collections.abc import Callable

import pytest
from click.testing import Result
from typer.testing import CliRunner

from contracts.orders.v1.events_pb2 import OrderPlaced
from eventlog.__main__ import app
from eventlog.event import Event, EventId
from eventlog.redis_stream import RedisStream
from eventlog.stream import Delivery

STREAM, GROUP = "orders.events", "notifications"


def event(number: int, type_: str = "contracts.orders.v1.OrderPlaced", data: bytes | None = None) -> bytes:
    content = OrderPlaced(order_id=f"ord_{number}", owner="usr_1").SerializeToString() if data is None else data
    return Event(EventId(f"evt_{number}"), type_, 1, f"ord_{number}", 1, 1_000, "", content).encoded()


async def buried(url: str) -> None:
    stream = RedisStream(url, STREAM)
    group = stream.group(GROUP)
    await group.join()
    payloads = [event(1), event(2, "os.path.Join"), b"\xff", event(4, data=b"\xff")]
    await stream.append(0, list(enumerate(payloads, 1)))
    for delivery in await group.read("me", 9, 0):
        await group.bury(delivery, "POISON", f"number {delivery.position}", limit=9)
    await stream.aclose()


async def read(url: str) -> list[Delivery]:
    stream = RedisStream(url, STREAM)
    deliveries = list(await stream.group(GROUP).read("me", 9, 0))
    await stream.aclose()
    return deliveries


@pytest.fixture
def command(redis_url: str) -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["dead-letters", *arguments], env={"RESCIND_REDIS_URL": redis_url})

    return run


@pytest.fixture
def ids(redis_url: str, command: Callable[..., Result]) -> list[str]:
    """Four dead letters: a good one, one of a type that is no contract, one unreadable, one with broken content."""
    asyncio.run(buried(redis_url))
    return [line.split()[0] for line in command("list").stdout.splitlines()]


def test_a_url_that_is_none_is_told_without_it() -> None:
    result = CliRunner().invoke(app, ["dead-letters", "list", "--redis-url", "redis://:hunter2/3@redis"])
    assert (result.exit_code, "hunter2" in result.output) == (2, False)
    assert "not a URL of a Redis" in result.output


def test_the_list_says_what_and_why(command: Callable[..., Result], ids: list[str]) -> None:
    result = command("list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(ids) == len(lines) == 4
    assert "POISON  after 1  contracts.orders.v1.OrderPlaced of ord_1  number 1" in lines[0]
    assert "unreadable" in lines[2]
    assert "4 dead letters of notifications on orders.events" in result.stderr


def test_one_is_shown_with_its_content(command: Callable[..., Result], ids: list[str]) -> None:
    shown = json.loads(command("show", ids[0]).stdout)
    assert shown["content"] == {"order_id": "ord_1", "owner": "usr_1"}
    assert shown["event"]["id"] == "evt_1"
    assert (shown["reason"], shown["position"], shown["bytes"]) == ("POISON", 1, None)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_what_cannot_be_read_is_shown_as_bytes(command: Callable[..., Result], ids: list[str], number: int) -> None:
    shown = json.loads(command("show", ids[number]).stdout)
    assert shown["content"] is None
    assert bytes.fromhex(shown["bytes"])


def test_one_is_redriven(redis_url: str, command: Callable[..., Result], ids: list[str]) -> None:
    result = command("redrive", ids[1])
    assert (result.exit_code, result.stdout) == (0, "1 delivered again\n")
    assert [d.position for d in asyncio.run(read(redis_url))] == [2]
    assert len(command("list").stdout.splitlines()) == 3


def test_all_are_redriven_by_one_command(redis_url: str, command: Callable[..., Result], ids: list[str]) -> None:
    assert command("redrive", "--all").stdout == "4 delivered again\n"
    assert [d.position for d in asyncio.run(read(redis_url))] == [1, 2, 3, 4]
    assert command("list").stdout == ""


def test_one_is_dropped_after_a_question(command: Callable[..., Result], ids: list[str]) -> None:
    assert command("discard", ids[0]).exit_code == 1  # nobody said yes
    assert command("discard", ids[0], "--yes").stdout == "1 dropped\n"
    assert len(command("list").stdout.splitlines()) == 3


def test_what_is_not_there_is_said(command: Callable[..., Result], ids: list[str]) -> None:
    for arguments in (["redrive", "1-1"], ["discard", "1-1", "--yes"], ["show", "1-1"]):
        result = command(*arguments)
        assert result.exit_code == 1
        assert "no dead letter" in result.stderr
    assert command("redrive").exit_code == 2
    assert command("redrive", ids[0], "--all").exit_code == 2


def test_an_id_that_is_none_is_said(command: Callable[..., Result], ids: list[str]) -> None:
    result = command("redrive", "rubbish")
    assert result.exit_code == 1
    assert "Traceback" not in result.output


def test_no_redis_is_one_line() -> None:
    result = CliRunner().invoke(app, ["dead-letters", "list", "--redis-url", "redis://127.0.0.1:1/0"])
    assert result.exit_code == 1
    assert result.stderr.startswith("no stream: Redis does not answer")
    assert len(result.stderr.splitlines()) == 1
