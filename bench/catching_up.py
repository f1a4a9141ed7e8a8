"""How long a new verifier takes until it is FRESH, with few and with many live entries."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from functools import partial
from statistics import median

import grpc.aio
from sqlalchemy import Connection, insert, select, update

from bench.figures import Figure, Say, Scale, counted, duration
from bench.system import System
from bench.waiting import until, until_fresh
from devstack.stack import free_port
from identity.app import Parts, assemble
from identity.settings import Settings
from identity.storage import exclusive, log_state, revocations
from rescind.client_credentials import ClientCredentials
from rescind.connect import IDENTITY_AUDIENCE, Addresses, connected
from rescind.feed import PAGE
from rescind.grpc_source import CHANNEL_OPTIONS, GrpcIdentity
from rescind.messages import MESSAGE_TYPE, Entry, RevocationMessage, claims_of, digest
from rescind.redis_source import RedisSource

_BATCH = 250  # revocations in one transaction: it holds identity's database for some 100 ms
_PATIENCE = 60.0  # seconds


async def catchup(system: System, scale: Scale, say: Say) -> list[Figure]:
    """From creating a guard until it is FRESH, from the log in Redis and by Replay."""
    figures = []
    for entries in scale.to_catch_up:
        await _reach(system, entries, say)
        status = await system.status()
        live = status.head - status.floor + 1
        if live < entries:
            raise RuntimeError("entries died while this was measured: give it less to do")
        without_redis = replace(system.verifier, redis_url=f"redis://127.0.0.1:{free_port()}/0")
        for name, addresses, read in (
            ("from Redis", system.verifier, partial(_read_log, system, status.log, status.floor - 1)),
            ("by Replay", without_redis, partial(_read_replay, system)),
        ):
            say(f"catching up with {live} entries {name}")
            fresh, bare = [], []
            for _ in range(scale.catch_ups):
                bare.append(await _timed(read, live))
                fresh.append(await _until_fresh(addresses, live))
            ratio = median(mine / theirs for mine, theirs in zip(fresh, bare, strict=True))
            beside = f"reading {live} messages, {duration(median(bare))}"
            figures.append(
                Figure(f"until FRESH {name}, {counted(entries)} live entries", duration(median(fresh)), beside, ratio)
            )
    return figures


async def _until_fresh(addresses: Addresses, live: int) -> float:
    started = time.monotonic()
    async with asyncio.timeout(_PATIENCE), connected(addresses) as guard:
        await until_fresh(guard)
        took = time.monotonic() - started
        if len(guard.feed.knowledge.denylist) < live:
            raise RuntimeError("FRESH without holding everything")
    return took


async def _timed(read: Callable[[], Awaitable[int]], live: int) -> float:
    started = time.monotonic()
    if await read() < live:
        raise RuntimeError("the source gave less than lives")
    return time.monotonic() - started


async def _read_log(system: System, log: str, after: int) -> int:
    redis, messages = RedisSource(system.redis_url), 0
    try:
        while page := await redis.read(log, after + messages, PAGE):
            messages += len(page)
    finally:
        await redis.aclose()
    return messages


async def _read_replay(system: System) -> int:
    at = system.verifier
    credentials = ClientCredentials(
        f"{at.identity_url}/token", at.client_id, at.client_secret, resource=IDENTITY_AUDIENCE
    )
    async with grpc.aio.insecure_channel(at.identity_grpc, options=CHANNEL_OPTIONS) as channel:
        replay = GrpcIdentity(channel, credentials).replay("", 0, "")
        return sum([1 async for _ in replay]) - 1  # the last one is a heartbeat


async def _reach(system: System, entries: int, say: Say) -> None:
    """Revokes tokens until that many entries live, and waits until Redis has them.

    A second identity does it, on the same database: signed, chained and numbered like all others.
    """
    status = await system.status()
    missing = entries - (status.head - status.floor + 1)
    if missing > 0:
        say(f"revoking {missing} tokens")
        settings = Settings(
            issuer=system.verifier.issuer,
            redis_url=system.redis_url,  # type: ignore[arg-type]  # pydantic makes the secret, as in the next two
            database_url=f"sqlite:///{system.folder / 'identity.db'}",  # type: ignore[arg-type]
            secret_keys=(system.folder / "secret-keys").read_text(),  # type: ignore[arg-type]
        )
        parts = assemble(settings)
        try:
            for done in range(0, missing, _BATCH):
                await parts.database.run(partial(_append, parts, number=min(_BATCH, missing - done)))
                await asyncio.sleep(0.02)  # identity's heartbeat wants its turn at the database
        finally:
            await parts.close()
    head = (await system.status()).head
    async with asyncio.timeout(_PATIENCE), connected(system.verifier) as guard:
        await until(lambda: guard.feed.knowledge.position >= head, look=0.05)
        log = guard.feed.knowledge.log
    while await _read_log(system, log, head - 1) < 1:  # noqa: ASYNC110  (Redis tells nobody what it was given)
        await asyncio.sleep(0.05)


def _append(parts: Parts, tx: Connection, *, number: int) -> None:
    """Appends revocations as identity does, but writes them in bulk: one by one, tens of thousands take minutes."""
    key = parts.keyring.signing_key(tx, "log")
    state = tx.execute(exclusive(select(log_state))).one()
    at, prev, rows = time.time_ns() // 1_000_000, state.head_hash, []
    for pos in range(state.head + 1, state.head + 1 + number):
        entry = Entry("token", secrets.token_urlsafe(16))
        message = RevocationMessage(state.log, pos, prev, (entry,), "BENCH", at)
        signed = key.sign(MESSAGE_TYPE, claims_of(message, parts.settings.issuer, f"{state.log}:{pos}")).encode()
        prev = digest(signed)
        rows.append(
            {
                "log": state.log,
                "pos": pos,
                "message": signed,
                "hash": prev,
                "entries": [asdict(entry)],
                "cause": message.cause,
                "at": at,
                "dead_at": at + state.longest_life,
            }
        )
    tx.execute(insert(revocations), rows)
    tx.execute(update(log_state).values(head=rows[-1]["pos"], head_hash=prev))
