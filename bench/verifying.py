"""One token, one answer, no I/O: the verifier against the libraries that one would take instead.

PyJWT and joserfc do here what a service has them do: signature, `iss`, `aud`, `exp`, `iat`, and the claims that must be
there. They get their key ready made, so nothing is looked up for them. The verifier does all of its checks.
"""

import base64
import secrets
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import jwt
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import RSAKey

from bench.figures import Figure, Say, Scale, Target, counted, duration
from bench.measure import Timings, per_call, take_turns
from rescind import Denylist, Verifier
from rescind.messages import Entry, EntryKind
from rescind.testing import TokenMint, fresh_guard, rsa_key

AUDIENCE = "urn:rescind:orders"
_REQUIRED = ["iss", "sub", "aud", "exp", "iat", "jti", "client_id"]  # RFC 9068 section 2.2
_COLD_TARGET = 1.3  # times PyJWT's decode
_WARM_TARGET = 1 / 20  # of PyJWT's decode
_HELD_TARGET = 1.25  # times the same with no entries
_NOTHING = "no entries"
_FIRST_ONES = "no entries but those"
_BETWEEN = 400  # verifications between two revocations: about a millisecond, so a million in a quarter of an hour
_ONE_KIND: Sequence[EntryKind] = ("token",)
_THREE_KINDS: Sequence[EntryKind] = ("token", "session", "grant")

Verify = Callable[[str], object]


async def verify(scale: Scale, say: Say) -> list[Figure]:
    """Cold and warm verification beside PyJWT, joserfc and a bare RSA verification of the same tokens."""
    say(f"signing {scale.tokens} tokens")
    mint = TokenMint()
    guard = await fresh_guard(mint, AUDIENCE)
    tokens = list(_tokens(mint, scale.tokens))
    warm = guard.verifier

    def cold() -> float:
        verifier = Verifier(mint.issuer, AUDIENCE, mint.keys, guard.feed)
        return per_call(verifier.verify, tokens)

    say("taking turns")
    signed = [_taken_apart(token) for token in tokens]
    timings = take_turns(
        {
            "cold": cold,
            "warm": lambda: per_call(warm.verify, tokens),
            "PyJWT": lambda: per_call(_pyjwt(mint), tokens),
            "joserfc": lambda: per_call(_joserfc(mint), tokens),
            "RSA": lambda: per_call(_bare_rsa(mint), signed),
        },
        scale.rounds,
    )
    return [_cold(timings), *_against(timings, "cold", "verify, cold", ("joserfc", "RSA")), *_warm(timings)]


def _cold(timings: Timings) -> Figure:
    ratio = timings.ratio("cold", "PyJWT")
    target = Target(f"≤ {_COLD_TARGET} ×", ratio <= _COLD_TARGET)
    return Figure("verify, cold", duration(timings.typical("cold")), _beside(timings, "PyJWT"), ratio, target)


def _warm(timings: Timings) -> list[Figure]:
    return _against(timings, "warm", "verify, warm", ("PyJWT", "joserfc", "RSA"))


def _against(timings: Timings, name: str, what: str, peers: Sequence[str]) -> list[Figure]:
    mine = duration(timings.typical(name))
    return [Figure(what, mine, _beside(timings, peer), timings.ratio(name, peer)) for peer in peers]


def _beside(timings: Timings, peer: str) -> str:
    names = {"PyJWT": "PyJWT decode", "joserfc": "joserfc decode and validate", "RSA": "RSA verification alone"}
    return f"{names[peer]}, {duration(timings.typical(peer))}"


async def entries(scale: Scale, say: Say) -> list[Figure]:
    """Warm verification of many different tokens, with more and more entries held, none of which matches.

    First each token is looked up among all that is held. Then as it is in service: each was, a moment ago, and a few
    entries have come since.
    """
    say(f"signing and verifying {scale.working_set} tokens")
    mint = TokenMint()
    guard = await fresh_guard(mint, AUDIENCE, remembered=4 * scale.working_set)
    verifier, knowledge = guard.verifier, guard.feed.knowledge
    tokens = list(_tokens(mint, scale.working_set))
    positions = count(scale.held[-1] + 1)

    def looked_up(denylist: Denylist) -> Callable[[], float]:
        def round_() -> float:
            knowledge.denylist = denylist  # another than a moment ago: what is known of the tokens does not count here
            return per_call(verifier.verify, tokens)

        return round_

    def coming(denylist: Denylist) -> Callable[[], float]:
        first = looked_up(denylist)

        def round_() -> float:
            first()
            seconds = 0.0
            for begin in range(0, len(tokens), _BETWEEN):
                denylist.add(next(positions), Entry("token", secrets.token_urlsafe(16)), "BENCH")
                some = tokens[begin : begin + _BETWEEN]
                seconds += per_call(verifier.verify, some) * len(some)
            return seconds / len(tokens)

        return round_

    most = scale.held[-1]
    of_one_kind = f"{counted(most)} entries held"
    mixed = f"{counted(most)} entries of three kinds held"
    in_service = f"{mixed}, more coming"
    contestants: dict[str, Callable[[], float]] = {
        "PyJWT": lambda: per_call(_pyjwt(mint), tokens[: scale.tokens]),
        _NOTHING: looked_up(Denylist()),
        _FIRST_ONES: coming(Denylist()),
    }
    for held in scale.held:
        say(f"filling a denylist: {counted(held)} entries")
        contestants[f"{counted(held)} entries held"] = looked_up(_filled(held, _ONE_KIND))
    say(f"filling two more: {mixed}")
    contestants[mixed] = looked_up(_filled(most, _THREE_KINDS))
    contestants[in_service] = coming(_filled(most, _THREE_KINDS))
    say("taking turns")
    timings = take_turns(contestants, scale.rounds)

    figures = []
    for name in [f"{counted(held)} entries held" for held in scale.held] + [mixed, in_service]:
        peer = _FIRST_ONES if name == in_service else _NOTHING
        ratio = timings.ratio(name, peer)
        target = Target(f"≤ {_HELD_TARGET} ×", ratio <= _HELD_TARGET) if counted(most) in name else None
        beside = f"the same with {peer}, {duration(timings.typical(peer))}"
        figures.append(Figure(f"verify, warm, {name}", duration(timings.typical(name)), beside, ratio, target))
    for name in (of_one_kind, mixed, in_service):
        ratio = timings.ratio(name, "PyJWT")
        target = Target("≤ 1/20", ratio <= _WARM_TARGET)
        mine = duration(timings.typical(name))
        figures.append(Figure(f"verify, warm, {name}", mine, _beside(timings, "PyJWT"), ratio, target))
    return figures


def _tokens(mint: TokenMint, number: int) -> Iterator[str]:
    """Tokens of as many people, each with a session and a grant of its own and ids as identity makes them."""
    for _ in range(number):
        ids = {name: secrets.token_urlsafe(16) for name in ("sub", "gid", "sid", "jti")}
        yield mint.access_token(
            AUDIENCE,
            scope="orders:read orders:write",
            life=3600,
            sub=f"usr_{ids['sub']}",
            gid=f"gid_{ids['gid']}",
            sid=f"sid_{ids['sid']}",
            jti=ids["jti"],
        )


def _filled(number: int, kinds: Sequence[EntryKind]) -> Denylist:
    denylist = Denylist()
    for pos in range(1, number + 1):
        denylist.add(pos, Entry(kinds[pos % len(kinds)], secrets.token_urlsafe(16)), "BENCH")
    return denylist


def _pyjwt(mint: TokenMint) -> Verify:
    key = rsa_key(mint.kid).public_key()

    def decode(token: str) -> object:
        return jwt.decode(
            token,
            key,
            algorithms=["RS256"],
            audience=AUDIENCE,
            issuer=mint.issuer,
            leeway=5,
            options={"require": _REQUIRED},
        )

    return decode


def _joserfc(mint: TokenMint) -> Verify:
    key = RSAKey.import_key(rsa_key(mint.kid).public_key())
    registry = joserfc_jwt.JWTClaimsRegistry(
        leeway=5,
        iss={"essential": True, "value": mint.issuer},
        aud={"essential": True, "value": AUDIENCE},
        exp={"essential": True},
        iat={"essential": True},
        sub={"essential": True},
        jti={"essential": True},
        client_id={"essential": True},
    )

    def decode(token: str) -> object:
        decoded = joserfc_jwt.decode(token, key, algorithms=["RS256"])
        registry.validate(decoded.claims)
        return decoded

    return decode


def _bare_rsa(mint: TokenMint) -> Callable[[tuple[bytes, bytes]], object]:
    key, padding, sha256 = rsa_key(mint.kid).public_key(), PKCS1v15(), SHA256()
    return lambda signed: key.verify(signed[0], signed[1], padding, sha256)


def _taken_apart(token: str) -> tuple[bytes, bytes]:
    signed, _, signature = token.rpartition(".")
    return base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4)), signed.encode()
