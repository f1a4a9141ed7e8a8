"""Five hundred live streams of one process, with a real identity and a real Valkey: who is cut off and who is not."""

import asyncio

import grpc
import grpc.aio
import jwt
import pytest
from bench.streams import Stream, streaming

from devstack.seeds import ORDERS, client_secret
from devstack.stack import Stack
from rescind.connect import Addresses
from support.eventually import eventually
from support.system import Verifier

pytestmark = pytest.mark.asyncio(loop_scope="session")

STREAMS = 500
PEOPLE = ("alice@example.com", "bob@example.com")


@pytest.mark.requirement(21)
@pytest.mark.requirement(22)
async def test_five_hundred_streams_and_the_end_of_one_subject_ends_exactly_theirs(
    stack: Stack, verifier: Verifier
) -> None:
    scene = verifier.scene
    addresses = Addresses(
        issuer=stack.addresses.issuer,
        audience=ORDERS,
        identity_url=stack.addresses.issuer,
        identity_grpc=stack.addresses.identity_grpc,
        redis_url=stack.redis_url,
        client_id="orders",
        client_secret=client_secret("orders"),
    )
    tokens = [(person, (await scene.signed_in(person)).access_token) for person in PEOPLE for _ in range(5)]
    async with streaming(addresses) as address, grpc.aio.insecure_channel(address) as channel:
        held = [(*tokens[number % len(tokens)], number) for number in range(STREAMS)]
        streams = {number: (person, token, Stream(channel, token)) for person, token, number in held}
        await asyncio.gather(*(stream.begun() for _, _, stream in streams.values()))

        # One token of Alice's: a tenth of all streams.
        revoked = tokens[0][1]
        await scene.revoke(token=streams[0][2].jti)
        first = [stream for _, token, stream in streams.values() if token == revoked]
        assert len(first) == STREAMS / len(tokens)
        await asyncio.gather(*(stream.ended() for stream in first))
        assert {await stream.code() for stream in first} == {grpc.StatusCode.UNAUTHENTICATED}
        assert sum(stream.is_over for _, _, stream in streams.values()) == len(first)

        # Everything of Alice's: all that are left to her, and none of Bob's.
        await scene.revoke(subject=subject_of(revoked))
        hers = [stream for person, _, stream in streams.values() if person == PEOPLE[0]]
        assert len(hers) == STREAMS / 2
        await asyncio.gather(*(stream.ended() for stream in hers))
        assert {await stream.code() for stream in hers} == {grpc.StatusCode.UNAUTHENTICATED}

        async def told_all() -> bool:
            # A later revocation of Bob's has ended one of his: so all that was to come before it has come.
            return streams[5][2].is_over

        await scene.revoke(token=streams[5][2].jti)
        await eventually(told_all, within=20)
        his = [(token, stream) for person, token, stream in streams.values() if person == PEOPLE[1]]
        await asyncio.gather(*(stream.ended() for token, stream in his if token == tokens[5][1]))
        assert not any(stream.is_over for token, stream in his if token != tokens[5][1])


def subject_of(token: str) -> str:
    """The `sub` claim of a token."""
    return str(jwt.decode(token, options={"verify_signature": False})["sub"])
