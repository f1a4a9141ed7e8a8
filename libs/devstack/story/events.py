"""Acts about what is told: notifications as they happen, live streams that end, receipts, an event nobody can read."""

import asyncio
import time
from typing import Any

from contracts.identity.v1 import revocations_pb2
from devstack.seeds import ALICE, NOTIFICATIONS, ORDERS, PASSWORD
from devstack.story.acts import AT_ONCE
from devstack.story.live import PATIENCE, Stream, every_wire
from devstack.story.scene import OK, Answer, Scene, Unexpected, claims_of
from eventlog.event import Event, new_event_id

EVERYWHERE = frozenset({"urn:rescind:orders", "urn:rescind:notifications", "urn:rescind:session"})
_SCOPE = "openid offline_access orders:read orders:write notifications:read"


async def live_streams(scene: Scene) -> None:
    """An order is told live on every wire, and one sign-out of everything ends each of them, saying why."""
    notified, ordering = await _two_tokens(scene)
    async with every_wire(scene, notified, ordering) as streams:
        sent = time.perf_counter()
        order = await scene.order(ordering)
        for stream in streams:
            ms = (await stream.told(order) - sent) * 1000
            scene.step("live", f"an order is told: {stream.name}", ms=ms, note="from sending it", **_on(stream, "200"))
        sub = claims_of(ordering)["sub"]
        await scene.revoke(subject=sub)
        acknowledged = time.perf_counter()
        for stream in streams:
            answer, at = await stream.ended()
            if answer.reason != "TOKEN_REVOKED" or at - acknowledged > AT_ONCE:
                late = at - acknowledged
                raise Unexpected(f"{stream.name} ended as {answer.status} {answer.reason}, {late:.2f} s later")
            shown = {"grpc" if stream.on_grpc else "http": answer}
            scene.step("live", f"everything revoked: {stream.name}", **shown, **since(acknowledged, at))


async def receipts(scene: Scene) -> None:
    """A revocation is answered once every verifier has applied it; who did, and after how long."""
    token = (await scene.signed_in()).access_token
    await scene.accepted(token)
    office = await scene.office()
    began = time.perf_counter()
    answer = await scene.revoke(office=office, session=claims_of(token)["sid"], wait=revocations_pb2.WAIT_APPLIED)
    took = (time.perf_counter() - began) * 1000
    http, rpc = await scene.refused(token, reasons=("TOKEN_REVOKED",))
    held = answer.receipts
    # A process that was killed lately is a member until its word is too old: only that one may be outstanding.
    while held.outstanding:
        if time.perf_counter() - began > 3 * PATIENCE:
            missing = ", ".join(verifier.instance for verifier in held.outstanding)
            raise Unexpected(f"not applied by {missing}")
        await asyncio.sleep(0.2)
        held = await scene.receipts(answer.position)
    _expect_everybody(held)
    known = await scene.receipts(answer.position)
    _expect_everybody(known)
    slowest = max(receipt.delay_ms for receipt in known.applied if receipt.HasField("delay_ms"))
    note = (
        f"by {len(known.applied)} of {len(known.applied) + len(known.outstanding)}, the slowest after {slowest:.1f} ms"
    )
    scene.step("live", "revoke, wait=APPLIED: answered", http=http, grpc=rpc, ms=took, note=note)


async def poison(scene: Scene) -> None:
    """An event that nobody can read is put aside with its reason, holds up nothing, and is dropped by a command."""
    notified, ordering = await _two_tokens(scene)
    event = _unreadable()
    async with every_wire(scene, notified, ordering) as streams:
        told = streams[0]
        await told.told(await scene.order(ordering))  # nothing is on its way any more
        await scene.target.poison(event.encoded())
        sent = time.perf_counter()
        order = await scene.order(ordering)
        ms = (await told.told(order) - sent) * 1000
        scene.step("poison", "the order behind an unreadable event", ms=ms, note="from sending it", **_on(told, "200"))
    number = await _buried(scene, event)
    scene.step("poison", "it is a dead letter", note=f"{number} UNREADABLE")
    again = await scene.target.dead_letters("redrive", number)
    if "1 delivered again" not in again:
        raise Unexpected(f"redrive said: {again}")
    number = await _buried(scene, event)
    scene.step("poison", "redrive: delivered, and no better", note=f"{number} UNREADABLE")
    dropped = await scene.target.dead_letters("discard", number, "--yes")
    if "1 dropped" not in dropped:
        raise Unexpected(f"discard said: {dropped}")
    scene.step("poison", "discard: dropped for good")


def since(acknowledged: float, at: float) -> dict[str, Any]:
    """A step's `ms`. What is pushed may well be there before the answer to whoever revoked."""
    if at < acknowledged:
        return {"ms": 0.0, "note": f"{(acknowledged - at) * 1000:.1f} ms before the answer"}
    return {"ms": (at - acknowledged) * 1000}


def _on(stream: Stream, status: str) -> dict[str, Answer]:
    return {"grpc": Answer("OK", OK)} if stream.on_grpc else {"http": Answer(status, OK)}


def _expect_everybody(held: revocations_pb2.Receipts) -> None:
    applied = {receipt.verifier.audience for receipt in held.applied}
    if not applied >= EVERYWHERE:
        raise Unexpected(f"no receipt from {', '.join(EVERYWHERE - applied)}")


async def _two_tokens(scene: Scene) -> tuple[str, str]:
    """Alice's tokens for notifications and for orders, of one sign-in on the phone."""
    client, browser = scene.client(), scene.browser()
    started = client.start(scope=_SCOPE, resource=[NOTIFICATIONS, ORDERS])
    code = await client.authorize(browser, started, ALICE, PASSWORD)
    notified = await client.redeem(started, code, resource=NOTIFICATIONS)
    return notified.access_token, (await client.refresh(notified, resource=ORDERS)).access_token


def _unreadable() -> Event:
    """It says that it is an order, and its data is none."""
    placed, order = "contracts.orders.v1.OrderPlaced", f"ord_demo{time.time_ns()}"
    return Event(new_event_id(), placed, 1, order, 1, time.time_ns() // 1_000_000, "", b"\xff\xff")


async def _buried(scene: Scene, event: Event) -> str:
    """The id of the dead letter that `event` has become.

    Raises:
        Unexpected: it is none, or for another reason.
    """
    deadline = time.perf_counter() + 3 * PATIENCE
    while time.perf_counter() < deadline:
        for line in (await scene.target.dead_letters("list")).splitlines():
            number, *told = line.split("  ")
            if f"{event.type} of {event.aggregate}" in told:
                if "UNREADABLE" not in told:
                    raise Unexpected(f"the unreadable event was given up otherwise: {line}")
                return number
    raise Unexpected("the unreadable event is no dead letter")
