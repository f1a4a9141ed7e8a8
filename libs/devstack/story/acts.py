"""The steps of the story, in their order. Each is a function of the scene that proves what it says, or raises."""

import asyncio
import base64
import json
import time

from devstack.seeds import BOB, IDENTITY, PASSWORD
from devstack.story.scene import Answer, Scene, Unexpected, claims_of, header_of
from devstack.target import WRITE_STALENESS

# Far above what is measured, far below what a person would call "at once": a noisy machine must not fail the story.
AT_ONCE = 1.0
BY_REPLAY = 3.0  # Redis is down: identity is asked about once a second

MAX_STALENESS = 3.0  # how long after the last heartbeat a verifier counts as fresh


async def signing_in(scene: Scene) -> None:
    """A person signs in, and orders lets her through on both wires, asking nobody."""
    tokens = await scene.signed_in()
    http, rpc = await scene.both(tokens.access_token, write=True)
    if not (http.accepted and rpc.accepted):
        raise Unexpected(f"an order was not taken: {http.reason}, {rpc.reason}")
    scene.step("sign in", "alice signs in on the phone; orders are placed", http=http, grpc=rpc)


async def forgeries(scene: Scene) -> None:
    """Three tokens that were never good."""
    tokens = await scene.signed_in()
    header, payload, signature = tokens.access_token.split(".")
    promoted = {**claims_of(tokens.access_token), "scope": "orders:read orders:write orders:admin"}
    tampered = ".".join((header, _segment(promoted), signature))
    http, rpc = await scene.refused(tampered, reasons=("TOKEN_UNTRUSTED",))
    scene.step("forge", "a token whose scope was changed", http=http, grpc=rpc)

    unsigned = ".".join((_segment({**header_of(tokens.access_token), "alg": "none"}), payload, signature))
    http, rpc = await scene.refused(unsigned, reasons=("TOKEN_UNTRUSTED", "TOKEN_MALFORMED"))
    scene.step("forge", 'a token with "alg": "none"', http=http, grpc=rpc)

    client = scene.client()
    elsewhere = await client.sign_in(scene.browser(), BOB, PASSWORD, scope="openid profile", resource=IDENTITY)
    http, rpc = await scene.refused(elsewhere.access_token, reasons=("TOKEN_UNTRUSTED",))
    scene.step("forge", "a good token, for another service", http=http, grpc=rpc)


async def six_kinds(scene: Scene) -> None:
    """Everything that can be taken back, each time while someone else's token goes on working."""
    bob = (await scene.signed_in(BOB)).access_token

    token = (await scene.signed_in()).access_token
    await scene.taken_back(
        "revoke", "token: the app gives one back (/revoke)", token, lambda: scene.client().revoke(token), within=AT_ONCE
    )

    browser = scene.browser()
    token = (await scene.signed_in(browser=browser)).access_token
    await scene.taken_back("revoke", "session: alice signs out", token, browser.sign_out, within=AT_ONCE)

    token = (await scene.signed_in(scope="openid offline_access orders:read")).access_token
    gid = claims_of(token)["gid"]
    await scene.taken_back(
        "revoke", "grant: one app loses access", token, lambda: scene.revoke(grant=gid), within=AT_ONCE
    )

    token = (await scene.signed_in()).access_token
    sub = claims_of(token)["sub"]
    await scene.taken_back(
        "revoke", "subject: everywhere at once", token, lambda: scene.revoke(subject=sub), within=AT_ONCE
    )
    await scene.accepted(bob)

    token = (await scene.signed_in()).access_token
    await scene.taken_back(
        "revoke", "subject, soft: roles changed", token, lambda: scene.revoke(subject=sub, soft=True), within=AT_ONCE,
        note="a refresh heals it",
    )  # fmt: skip
    await scene.accepted(bob)

    await scene.taken_back(
        "revoke", "client: every token of the phone app", bob, lambda: scene.revoke(client="mobile"), within=AT_ONCE
    )

    token = (await scene.signed_in()).access_token
    kid = header_of(token)["kid"]
    await scene.taken_back(
        "revoke", "key: everything signed with it", token, lambda: scene.revoke(key=kid), within=AT_ONCE
    )
    await scene.accepted((await scene.signed_in()).access_token)


async def redis_comes_back_empty(scene: Scene) -> None:
    """Redis crashes and forgets everything; nothing that was refused is accepted."""
    revoked = await _a_revoked_token(scene)
    good = (await scene.signed_in()).access_token
    await scene.target.fault("kill", "redis")
    await scene.target.fault("start", "redis")
    http, rpc = await scene.refused(revoked, reasons=("TOKEN_REVOKED",))
    await scene.accepted(good)
    scene.step("break", "Redis killed, back empty: the revoked token", http=http, grpc=rpc)
    await _pushing_again(scene)
    browser = scene.browser()
    token = (await scene.signed_in(browser=browser)).access_token
    await scene.taken_back("break", "and a new sign-out after it", token, browser.sign_out, within=BY_REPLAY)


async def orders_restarts_without_redis(scene: Scene) -> None:
    """A verifier that starts with nothing, while Redis is down, learns everything from identity."""
    revoked = await _a_revoked_token(scene)
    good = (await scene.signed_in()).access_token
    await scene.target.fault("kill", "redis")
    await scene.target.fault("kill", "orders")
    await scene.target.fault("start", "orders")
    http, rpc = await scene.refused(revoked, reasons=("TOKEN_REVOKED",))
    await scene.accepted(good)
    scene.step("break", "orders restarted, Redis down: the revoked token", http=http, grpc=rpc, note="by Replay")


async def revoking_without_redis(scene: Scene) -> None:
    """Redis is still down; a sign-out reaches orders all the same, a second later."""
    browser = scene.browser()
    token = (await scene.signed_in(browser=browser)).access_token
    await scene.taken_back(
        "break", "sign-out while Redis is down", token, browser.sign_out, within=BY_REPLAY, note="by Replay"
    )
    await scene.target.fault("start", "redis")


async def identity_dies(scene: Scene) -> None:
    """Nobody can be asked: reads go on within their bound, writes stop after theirs, nothing revoked comes back."""
    await _pushing_again(scene)
    revoked = await _a_revoked_token(scene)
    good = (await scene.signed_in()).access_token
    await scene.accepted(good)
    await scene.target.fault("kill", "identity")
    died = time.perf_counter()
    http, rpc = await scene.both(good, write=True)
    if not (http.accepted and rpc.accepted):
        raise Unexpected(f"a write was refused as soon as identity was gone: {http.reason}, {rpc.reason}")
    scene.step("break", "identity killed: a write, at once", http=http, grpc=rpc)

    limit = MAX_STALENESS + WRITE_STALENESS + 10
    while http.accepted or rpc.accepted:
        if time.perf_counter() - died > limit:
            raise Unexpected(f"writes go on {limit:.0f} s after identity died")
        await asyncio.sleep(0.05)
        http, rpc = await scene.both(good, write=True)
    _expect_unavailable(http, rpc)
    note = f"after {time.perf_counter() - died:.1f} s: fresh for {MAX_STALENESS:.0f}, bound {WRITE_STALENESS}"
    scene.step("break", "a write, past its bound", http=http, grpc=rpc, note=note)
    http, rpc = await scene.both(good)
    if not (http.accepted and rpc.accepted):
        raise Unexpected(f"a read was refused within its bound: {http.reason}, {rpc.reason}")
    scene.step("break", "a read, within its bound", http=http, grpc=rpc)
    http, rpc = await scene.refused(revoked, reasons=("TOKEN_REVOKED",))
    scene.step("break", "the revoked token", http=http, grpc=rpc)

    await scene.target.fault("start", "identity")
    started = time.perf_counter()
    while not all(answer.accepted for answer in (http, rpc) if answer.status):
        http, rpc = await scene.both(good, write=True)
        if time.perf_counter() - started > limit:
            raise Unexpected("writes do not come back")
        await asyncio.sleep(0.05)
    scene.step("break", "identity back: a write", http=http, grpc=rpc)


async def _a_revoked_token(scene: Scene) -> str:
    browser = scene.browser()
    token = (await scene.signed_in(browser=browser)).access_token
    await browser.sign_out()
    deadline = time.perf_counter() + BY_REPLAY
    while (await scene.by_http(token)).reason != "TOKEN_REVOKED":
        if time.perf_counter() > deadline:
            raise Unexpected("a signed-out token is not refused")
    return token


async def _pushing_again(scene: Scene) -> None:
    """Waits until a sign-out is refused by the very next call, faster than a replay would be: Redis carries pushes.

    Raises:
        Unexpected: it does not.
    """
    for _ in range(20):
        browser = scene.browser()
        token = (await scene.signed_in(browser=browser)).access_token
        await scene.accepted(token)
        await browser.sign_out()
        if not (await scene.by_http(token)).accepted:
            return
        await asyncio.sleep(0.2)
    raise Unexpected("pushes do not come back")


def _expect_unavailable(http: Answer, rpc: Answer) -> None:
    # Never 401: a client would throw its tokens away.
    if (http.status, rpc.status) != ("503", "UNAVAILABLE"):
        raise Unexpected(f"should be unavailable, was: {http.status} {http.reason}, {rpc.status} {rpc.reason}")


def _segment(value: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
