"""Exchanged tokens (RFC 8693) at a verifier: who acts, for whom, and whose revocation refuses them."""

from typing import Any

import pytest

from rescind import MalformedToken, PriorActor, RevokedToken, UntrustedToken
from rescind.messages import Entry
from rescind.testing import MemoryLog, TokenMint, fresh_guard, principal_of

AUDIENCE = "urn:rescind:orders"
MOBILE = {"sub": "svc_mobile", "cgen": 2}
ACT = {"sub": "svc_notifications", "act": MOBILE}
EXCHANGED: dict[str, Any] = {"client_id": "notifications", "cgen": 5, "ojti": "jti-of-the-app", "act": ACT}
PASSED_ON: dict[str, Any] = {
    "client_id": "reports",
    "cgen": 7,
    "ojti": "jti-of-notifications",
    "act": {
        "sub": "svc_reports",
        "act": {"sub": "svc_notifications", "cgen": 5, "ojti": "jti-of-the-app", "act": MOBILE},
    },
}


def test_the_principal_tells_who_acts_and_who_did_before() -> None:
    mint = TokenMint()
    principal = principal_of(mint, EXCHANGED)
    assert (principal.subject, principal.actor, principal.is_user) == ("usr_alice", "svc_notifications", True)
    assert principal.prior_actors == (PriorActor("mobile", 2, None),)
    passed_on = principal_of(mint, PASSED_ON)
    assert passed_on.actor == "svc_reports"
    assert passed_on.prior_actors == (PriorActor("notifications", 5, "jti-of-the-app"), PriorActor("mobile", 2, None))
    plain = principal_of(mint, {})
    assert (plain.actor, plain.prior_actors) == (None, ())


def nested(depth: int) -> dict[str, Any]:
    link: dict[str, Any] = MOBILE
    for _ in range(depth - 1):
        link = {**MOBILE, "act": link}
    return {"sub": "svc_notifications", "act": link}


BAD: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"act": "svc_notifications"}, MalformedToken),
    ({"act": None, "ojti": "x"}, MalformedToken),
    ({"act": []}, MalformedToken),
    ({"act": {}}, MalformedToken),
    ({"act": {"sub": "svc_notifications"}}, MalformedToken),  # acts for nobody
    ({"act": {"sub": "svc_notifications", "act": None}}, MalformedToken),
    ({"act": {"sub": "svc_other", "act": MOBILE}}, UntrustedToken),  # not whose token it is
    ({"act": {"sub": "usr_bob", "act": MOBILE}}, UntrustedToken),
    ({"act": {"sub": "svc_notifications", "act": {"sub": "usr_bob", "cgen": 1}}}, UntrustedToken),
    ({"act": {"sub": "svc_notifications", "act": {"sub": "svc_mobile"}}}, MalformedToken),
    ({"act": {"sub": "svc_notifications", "act": {"sub": "svc_mobile", "cgen": True}}}, MalformedToken),
    ({"act": {"sub": "svc_notifications", "act": {"sub": "svc_mobile", "cgen": 1, "ojti": 7}}}, MalformedToken),
    ({"act": nested(5)}, UntrustedToken),
    ({"act": nested(500)}, UntrustedToken),
]


@pytest.mark.parametrize(("changes", "refusal"), BAD)
def test_a_chain_that_identity_would_not_write_is_refused(changes: dict[str, Any], refusal: type[Exception]) -> None:
    claims = TokenMint().claims("urn:rescind:test") | EXCHANGED | changes
    from rescind.claims import Expectations, principal_from

    with pytest.raises(refusal):
        principal_from(claims, Expectations(claims["iss"], claims["aud"], leeway=5, max_life=3600), claims["iat"])


def test_the_longest_chain_that_is_allowed_is_read() -> None:
    assert len(principal_of(TokenMint(), {**EXCHANGED, "act": nested(4)}).prior_actors) == 4


def test_nobody_acts_without_an_exchange_or_for_a_service() -> None:
    with pytest.raises(UntrustedToken):
        principal_of(TokenMint(), {**EXCHANGED, "ojti": None})
    person = dict.fromkeys(("gid", "gen", "sid", "auth_time"))
    with pytest.raises(UntrustedToken):
        principal_of(TokenMint(), {**EXCHANGED, **person, "sub": "svc_notifications"})


@pytest.mark.requirement(21)
@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (Entry("token", "jti-of-notifications"), "token"),
        (Entry("token", "jti-of-the-app"), "token"),
        (Entry("session", "sid_1"), "session"),
        (Entry("grant", "gid_1"), "grant"),
        (Entry("subject", "usr_alice", gen=2), "subject"),
        (Entry("client", "reports", gen=8), "client"),
        (Entry("client", "notifications", gen=6), "client"),
        (Entry("client", "mobile", gen=3), "client"),
    ],
)
async def test_it_dies_with_whatever_it_came_from(entry: Entry, kind: str) -> None:
    mint = TokenMint()
    log = MemoryLog(mint)
    guard = await fresh_guard(mint, AUDIENCE, log)
    token, other = (
        mint.access_token(AUDIENCE, **PASSED_ON),
        mint.access_token(AUDIENCE, sub="usr_bob", sid="s", gid="g"),
    )
    assert (await guard.authenticate(token)).actor == "svc_reports"
    log.revoke(entry)
    await guard.feed.catch_up()
    with pytest.raises(RevokedToken) as refused:
        await guard.authenticate(token)
    assert refused.value.kind == kind
    if entry.id != "mobile":
        await guard.authenticate(other)


@pytest.mark.parametrize("client", ["reports", "notifications", "mobile"])
async def test_an_older_generation_of_any_of_its_clients_does_not_touch_it(client: str) -> None:
    mint = TokenMint()
    log = MemoryLog(mint)
    guard = await fresh_guard(mint, AUDIENCE, log)
    token = mint.access_token(AUDIENCE, **PASSED_ON)
    log.revoke(Entry("client", client, gen={"reports": 7, "notifications": 5, "mobile": 2}[client]))
    await guard.feed.catch_up()
    await guard.authenticate(token)
    log.revoke(Entry("client", client, gen=9, soft=True))
    await guard.feed.catch_up()
    with pytest.raises(RevokedToken) as refused:
        await guard.authenticate(token)
    assert refused.value.reason == "TOKEN_STALE"
