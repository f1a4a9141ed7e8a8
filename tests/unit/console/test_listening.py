"""`rescind watch` with a Redis: what is pushed is shown in order, what is lost is asked for, garbage is told."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

from console.following import Follower
from console.listening import InOrder, Listener, Notice
from rescind.messages import Entry, RevocationMessage
from rescind.testing import MemoryLog, TokenMint


class Asked(MemoryLog):
    """Tells when it has been asked."""

    def __init__(self) -> None:
        super().__init__(TokenMint())
        self.asked = asyncio.Event()

    async def replay(self, log: str, after: int, nonce: str) -> AsyncGenerator[bytes, None]:
        try:
            async for message in super().replay(log, after, nonce):
                yield message
        finally:
            self.asked.set()


@asynccontextmanager
async def listening(log: Asked, position: int = 0) -> AsyncIterator[AsyncIterator[RevocationMessage | Notice]]:
    """Somebody who listens from `position` on, has caught up, and hears pushes."""
    mint = log.mint
    begun = Follower(cast("Any", None), mint.log_keys, mint.issuer, log=log.log, position=position)
    async with asyncio.timeout(20), aclosing(Listener(begun, log, log).listen()) as heard:  # type: ignore[type-var]
        first = asyncio.ensure_future(anext(heard))
        await log.asked.wait()
        log.replays = 0

        async def all_of_it() -> AsyncIterator[RevocationMessage | Notice]:
            yield await first
            async for message in heard:
                yield message

        async with aclosing(all_of_it()) as messages:
            yield messages


def shown(message: RevocationMessage | Notice) -> tuple[int, str]:
    assert isinstance(message, RevocationMessage), message
    return message.pos, message.cause


async def test_a_push_is_shown_without_asking_identity_and_nothing_is_shown_twice() -> None:
    log = Asked()
    log.revoke(Entry("token", "seen before"), cause="BEFORE")
    async with listening(log, position=1) as heard:
        log.revoke(Entry("token", "a"), cause="FIRST")
        log.revoke(Entry("token", "b"), cause="SECOND")
        assert [shown(await anext(heard)), shown(await anext(heard))] == [(2, "FIRST"), (3, "SECOND")]
        assert log.replays == 0


async def test_a_lost_push_comes_first_and_from_identity_where_redis_hides_it() -> None:
    log = Asked()
    async with listening(log) as heard:
        log.withhold = True
        log.revoke(Entry("token", "a"), cause="LOST")
        log.withhold, log.hidden = False, {1}
        log.revoke(Entry("token", "b"), cause="PUSHED")
        notice = await anext(heard)  # what Redis gave does not reach what identity signed
        assert isinstance(notice, Notice)
        assert [shown(await anext(heard)), shown(await anext(heard))] == [(1, "LOST"), (2, "PUSHED")]
        assert log.replays


async def test_what_identity_did_not_sign_is_told_and_not_shown() -> None:
    log = Asked()
    async with listening(log) as heard:
        forged = log.mint.message(
            RevocationMessage(log.log, 1, log.head_hash, (Entry("token", "x"),), "FORGED", 1), key="somebody-else"
        )
        log._push(forged)
        notice = await anext(heard)
        assert isinstance(notice, Notice)
        assert notice.kind == "unreadable"
        log.revoke(Entry("token", "a"), cause="REAL")
        assert shown(await anext(heard)) == (1, "REAL")


def test_positions_that_are_dead_are_not_waited_for_and_a_new_log_begins_anew() -> None:
    order = InOrder("log_one", 1)
    for log, pos in (("log_one", 4), ("log_two", 1)):
        order.revoked(RevocationMessage(log, pos, "", (), "TEST", 0))
    assert order.heard.empty()
    order.renewed("log_one", 4)
    assert shown(order.heard.get_nowait()) == (4, "TEST")
    order.began("log_two")
    order.revoked(RevocationMessage("log_two", 1, "", (), "NEW", 0))
    assert order.heard.get_nowait() == Notice("new_log", "log_two")
    assert shown(order.heard.get_nowait()) == (1, "NEW")
