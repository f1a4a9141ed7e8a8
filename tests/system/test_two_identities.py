"""Two identity processes on one database, many revocations through both at once, three verifiers watched throughout."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc.aio
import pytest

from contracts.identity.v1 import revocations_pb2
from devstack.flow import OAuthClient
from devstack.seeds import IDENTITY, ORDERS, client_secret
from devstack.stack import Stack
from devstack.story import Scene, opened
from devstack.story.scene import claims_of
from support.eventually import eventually
from support.system import CATCH_UP, Elsewhere, Verifier, a_stack, another_orders, running

REVOCATIONS = 200
TOKEN_LIFE = 20  # seconds: time to mint them all, use them all and take them all back
LEEWAY = 5
AT_ONCE = 20
PROPAGATION = 1.0  # seconds after an acknowledgement; the bench measures milliseconds, this machine has other work


@dataclass(frozen=True, slots=True)
class Call:
    """One call with one token: when it began, and what came of it."""

    verifier: int
    token: int
    began: float
    accepted: bool


@dataclass(slots=True)
class History:
    """What happened, to be judged afterwards."""

    calls: list[Call] = field(default_factory=list)
    acknowledged: dict[int, float] = field(default_factory=dict)

    def late(self) -> list[Call]:
        """Acceptances of calls that began too long after the revocation was acknowledged."""
        never = float("inf")
        return [
            call
            for call in self.calls
            if call.accepted and call.began > self.acknowledged.get(call.token, never) + PROPAGATION
        ]

    def undone(self) -> list[Call]:
        """Acceptances by a verifier that had refused the token before."""
        refused: set[tuple[int, int]] = set()
        found = []
        for call in sorted(self.calls, key=lambda call: call.began):
            if not call.accepted:
                refused.add((call.verifier, call.token))
            elif (call.verifier, call.token) in refused:
                found.append(call)
        return found


@asynccontextmanager
async def two_identities(folder: Path, database_url: str) -> AsyncIterator[tuple[Stack, list[Scene]]]:
    """A stack, a second identity on the same database and the same Redis, and a scene at each."""
    life = {"IDENTITY_ACCESS_TOKEN_LIFE": str(TOKEN_LIFE), "IDENTITY_LEEWAY": str(LEEWAY)}
    async with a_stack(folder, IDENTITY_DATABASE_URL=database_url, **life) as stack, AsyncExitStack() as held:
        started = await held.enter_async_context(running("identity", stack.environment("identity"), []))
        second = replace(
            stack.addresses,
            issuer=f"http://localhost:{started['http']}",
            identity_grpc=f"127.0.0.1:{started['grpc']}",
        )
        yield stack, [await held.enter_async_context(opened(at)) for at in (stack, Elsewhere(second))]


@pytest.mark.requirement(21)
@pytest.mark.docker
@pytest.mark.timeout(240)
async def test_revocations_through_both_have_no_gap_and_reach_every_verifier(postgres_url: str, tmp_path: Path) -> None:
    # On SQLite: tests/integration/test_revocations.py.
    async with two_identities(tmp_path, postgres_url) as (stack, identities), AsyncExitStack() as held:
        second = identities[1].target.addresses
        verifiers = [Verifier(identities[0])]
        for number, changes in enumerate(
            ({}, {"RESCIND_IDENTITY_URL": second.issuer, "RESCIND_IDENTITY_GRPC": second.identity_grpc})
        ):
            (folder := tmp_path / f"orders-{number}").mkdir()
            verifiers.append(await held.enter_async_context(another_orders(stack, folder, **changes)))
        for verifier in verifiers:
            await eventually(verifier.fresh, within=CATCH_UP)

        backoffices = [
            OAuthClient(scene.web, scene.target.addresses.issuer, "backoffice", secret=client_secret("backoffice"))
            for scene in identities
        ]
        admin = (await backoffices[0].client_credentials(scope="identity:admin", resource=IDENTITY)).access_token
        turns = asyncio.Semaphore(AT_ONCE)
        history = History()

        async def mint(number: int) -> str:
            async with turns:
                return (await backoffices[number % 2].client_credentials(resource=ORDERS)).access_token

        async def call(verifier: int, number: int) -> None:
            began = time.monotonic()
            scene = verifiers[verifier].scene
            answer = await (scene.by_http if number % 2 else scene.by_grpc)(tokens[number])
            assert answer.accepted or answer.unauthenticated, answer
            history.calls.append(Call(verifier, number, began, answer.accepted))

        async def take_back(number: int) -> revocations_pb2.RevokeResponse:
            async with turns:
                request = revocations_pb2.RevokeRequest(token=claims_of(tokens[number])["jti"], cause="TEST")
                metadata = grpc.aio.Metadata(("authorization", f"Bearer {admin}"))
                done = await identities[number % 2].revocations.Revoke(request, metadata=metadata, timeout=10)
            history.acknowledged[number] = time.monotonic()
            return done

        async def use_each(verifier: int) -> None:
            for number in range(REVOCATIONS):
                await call(verifier, number)

        async def watch(verifier: int) -> None:
            while True:
                await use_each(verifier)
                if len(history.acknowledged) == REVOCATIONS:  # all is said; what follows is to see that it stays so
                    await asyncio.sleep(1)

        tokens = await asyncio.gather(*(mint(number) for number in range(REVOCATIONS)))
        everyone = range(len(verifiers))
        await asyncio.gather(*(use_each(each) for each in everyone))
        assert all(call.accepted for call in history.calls)

        watching = [asyncio.create_task(watch(each)) for each in everyone]
        done = await asyncio.gather(*(take_back(number) for number in range(REVOCATIONS)))

        positions = sorted(one.position for one in done)
        assert positions == list(range(positions[0], positions[0] + REVOCATIONS))
        assert len({one.log for one in done}) == 1
        for scene in identities:
            metadata = grpc.aio.Metadata(("authorization", f"Bearer {admin}"))
            status = await scene.revocations.GetStatus(
                revocations_pb2.GetStatusRequest(), metadata=metadata, timeout=10
            )
            assert (status.log, status.head) == (done[0].log, positions[-1])

        for verifier in verifiers:

            async def holds_all(verifier: Verifier = verifier) -> bool:
                said = await verifier.fresh()
                return bool(said) and (said["log"], said["position"]) == (done[0].log, positions[-1])

            await eventually(holds_all, within=CATCH_UP)

        dead = max(claims_of(token)["exp"] for token in tokens) + LEEWAY + 1
        await asyncio.sleep(max(0.0, dead - time.time()))
        for task in watching:
            task.cancel()
        for ended in await asyncio.gather(*watching, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended
        assert history.late() == []
        assert history.undone() == []
        assert {(call.verifier, call.token) for call in history.calls if not call.accepted} == {
            (verifier, number) for verifier in everyone for number in range(REVOCATIONS)
        }
