"""Token exchange (RFC 8693) through the front door: who may, for what, and what refuses the result."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from devstack.flow import Browser, Refused, Tokens
from devstack.seeds import NOTIFICATIONS, TOKEN_EXCHANGE
from identity.service import NewClient
from support.identity_front import ALICE, IDENTITY, ISSUER, ORDERS, PASSWORD, Front, identity_front

ACCESS = "urn:ietf:params:oauth:token-type:access_token"
SCOPE = "openid offline_access orders:read orders:write notifications:read"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}") as front:
        yield front


async def held_by_the_app(front: Front, browser: Browser | None = None, *, scope: str = SCOPE) -> Tokens:
    """What the phone calls notifications with; its grant holds orders too."""
    client = front.client("mobile")
    started = client.start(scope=scope, resource=[IDENTITY, ORDERS, NOTIFICATIONS])
    code = await client.authorize(browser or front.browser(), started, ALICE, PASSWORD)
    return await client.redeem(started, code, resource=NOTIFICATIONS)


async def exchanged(front: Front, presented: str, client_id: str = "notifications", /, **more: str | None) -> Any:
    asked: dict[str, str | None] = {
        "grant_type": TOKEN_EXCHANGE,
        "subject_token": presented,
        "subject_token_type": ACCESS,
        "resource": ORDERS,
        **more,
    }
    response = await front.client(client_id).post("/token", **{k: v for k, v in asked.items() if v is not None})
    if response.status_code != 200:
        raise Refused(response.json()["error"], status=response.status_code)
    return response.json()


def read(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


async def is_active(front: Front, token: str) -> bool:
    return (await front.client("backoffice").introspect(token))["active"] is True


async def test_what_a_service_gets(front: Front) -> None:
    parent = await held_by_the_app(front)
    answer = await exchanged(front, parent.access_token)
    assert answer["issued_token_type"] == ACCESS
    assert (answer["token_type"], answer["scope"], answer["expires_in"]) == ("Bearer", "orders:read", 900)
    assert "refresh_token" not in answer
    before, claims = read(parent.access_token), read(answer["access_token"])
    assert jwt.get_unverified_header(answer["access_token"])["typ"] == "at+jwt"
    assert claims == {
        "iss": ISSUER,
        "sub": before["sub"],
        "aud": ORDERS,
        "client_id": "notifications",
        "iat": before["iat"],
        "exp": before["exp"],
        "jti": claims["jti"],
        "scope": "orders:read",
        "gid": before["gid"],
        "gen": before["gen"],
        "cgen": 1,
        "auth_time": before["auth_time"],
        "ojti": before["jti"],
        "act": {"sub": "svc_notifications", "act": {"sub": "svc_mobile", "cgen": before["cgen"]}},
    }
    assert claims["jti"] != before["jti"]


async def test_a_token_of_a_login_session_says_so(front: Front) -> None:
    parent = await held_by_the_app(front, scope="openid orders:read notifications:read")
    claims = read((await exchanged(front, parent.access_token))["access_token"])
    assert claims["sid"] == read(parent.access_token)["sid"]


async def test_it_ends_with_its_parent(front: Front) -> None:
    parent = await held_by_the_app(front)
    front.clock.forward(600)
    answer = await exchanged(front, parent.access_token)
    assert answer["expires_in"] == 300
    assert read(answer["access_token"])["exp"] == read(parent.access_token)["exp"]
    front.clock.forward(302)  # verifiers still accept the parent, by leeway
    with pytest.raises(Refused):
        await exchanged(front, parent.access_token)


@pytest.mark.requirement(67)
@pytest.mark.requirement(58)
@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"resource": NOTIFICATIONS}, "invalid_target"),  # where it comes from
        ({"resource": IDENTITY}, "invalid_scope"),  # nothing there is the client's to ask for
        ({"resource": "urn:rescind:session"}, "invalid_target"),  # the person did not authorize it
        ({"resource": "https://elsewhere.example"}, "invalid_target"),
        ({"resource": None}, "invalid_target"),
        ({"audience": NOTIFICATIONS}, "invalid_target"),  # two of them
        ({"scope": "orders:write"}, "invalid_scope"),  # granted by the person, but not to this client
        ({"scope": "orders:read orders:write"}, "invalid_scope"),
        ({"scope": "orders:admin"}, "invalid_scope"),
        ({"scope": "notifications:read"}, "invalid_scope"),  # means nothing there
        ({"scope": "orders:read openid"}, "invalid_scope"),
        ({"subject_token": None}, "invalid_request"),
        ({"subject_token": "nonsense"}, "invalid_request"),
        ({"subject_token_type": None}, "invalid_request"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"}, "invalid_request"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"),
        ({"actor_token": "x"}, "invalid_request"),
        ({"actor_token_type": ACCESS}, "invalid_request"),
    ],
)
async def test_what_is_refused(front: Front, more: dict[str, str | None], error: str) -> None:
    parent = await held_by_the_app(front)
    with pytest.raises(Refused) as refused:
        await exchanged(front, parent.access_token, **more)
    assert (refused.value.error, refused.value.status) == (error, 400)


async def test_the_target_may_be_named_either_way(front: Front) -> None:
    parent = await held_by_the_app(front)
    by_audience = await exchanged(front, parent.access_token, resource=None, audience=ORDERS)
    both = await exchanged(
        front, parent.access_token, audience=ORDERS, scope="orders:read", requested_token_type=ACCESS
    )
    assert read(by_audience["access_token"])["aud"] == read(both["access_token"])["aud"] == ORDERS


@pytest.mark.requirement(58)
async def test_never_more_than_the_person_granted(front: Front) -> None:
    """The client may have orders:read, but this person has not given it to the app."""
    parent = await held_by_the_app(front, scope="openid offline_access notifications:read")
    with pytest.raises(Refused) as refused:
        await exchanged(front, parent.access_token)
    assert refused.value.error == "invalid_scope"


@pytest.mark.requirement(57)
async def test_only_a_registered_client_with_its_secret_exchanges(front: Front) -> None:
    parent = await held_by_the_app(front)
    for client_id, error in (("orders", "unauthorized_client"), ("mobile", "invalid_client")):
        with pytest.raises(Refused) as refused:
            await exchanged(front, parent.access_token, client_id)
        assert refused.value.error == error
    form = {"grant_type": TOKEN_EXCHANGE, "subject_token": parent.access_token, "subject_token_type": ACCESS}
    response = await front.http.post("/token", data=form | {"resource": ORDERS, "client_id": "notifications"})
    assert response.json()["error"] == "invalid_client"


async def test_only_what_a_service_was_called_with_is_its_to_exchange(front: Front) -> None:
    """A token that leaked from elsewhere, another kind of token, or a client's own: all alike, without saying which."""
    parent = await held_by_the_app(front)
    for_orders = await front.client("mobile").refresh(parent, resource=ORDERS)
    own = await front.client("notifications").client_credentials()
    good = parent.access_token
    for token in (for_orders.access_token, own.access_token, parent.id_token or "", parent.refresh_token or ""):
        with pytest.raises(Refused) as refused:
            await exchanged(front, token)
        assert refused.value.error == "invalid_request"
    with pytest.raises(Refused):
        await exchanged(front, good[:-8] + "AAAAAAAA")
    await exchanged(front, good)


async def take_back(front: Front, what: str, parent: Tokens, browser: Browser) -> None:
    if what == "the token itself":
        await front.client("mobile").revoke(parent.access_token)
    elif what == "the refresh token":
        assert parent.refresh_token is not None
        await front.client("mobile").revoke(parent.refresh_token)
    elif what == "the session":
        await browser.sign_out()
    elif what == "the password":
        await browser.change_password(PASSWORD, "quite-another-passphrase")
    elif what == "the roles":
        await front.accounts.change_roles(front.user(ALICE).id, ["admin"])
    else:
        await front.accounts.disable_client(what)


ENDS = ("the token itself", "the refresh token", "the session", "the password", "the roles", "mobile", "notifications")


@pytest.mark.requirement(21)
@pytest.mark.parametrize("what", ENDS)
async def test_whatever_takes_back_the_parent_takes_back_the_exchanged(front: Front, what: str) -> None:
    browser = front.browser()
    scope = SCOPE.replace("offline_access ", "") if what == "the session" else SCOPE
    parent = await held_by_the_app(front, browser, scope=scope)
    other = await held_by_the_app(front, front.browser())  # not touched by what concerns one token, grant or session
    child = await exchanged(front, parent.access_token)
    sibling = await exchanged(front, other.access_token)
    assert await is_active(front, child["access_token"])
    await take_back(front, what, parent, browser)
    assert not await is_active(front, child["access_token"])
    touches_one = what in ("the token itself", "the refresh token", "the session")
    assert await is_active(front, sibling["access_token"]) is touches_one
    with pytest.raises(Refused):
        await exchanged(front, parent.access_token)  # and there is no other to be had


async def test_the_acting_client_gives_its_own_token_back(front: Front) -> None:
    parent = await held_by_the_app(front)
    child, other = [await exchanged(front, parent.access_token) for _ in range(2)]
    with pytest.raises(Refused):
        await front.client("mobile").revoke(child["access_token"])  # not the phone's
    assert await is_active(front, child["access_token"])
    await front.client("notifications").revoke(child["access_token"])
    assert not await is_active(front, child["access_token"])
    assert await is_active(front, other["access_token"])
    assert await is_active(front, parent.access_token)


async def chained(front: Front, rights: dict[str, tuple[str, ...]]) -> None:
    """Services named `rights` that may all exchange, with what each may have."""

    def work(tx: Any) -> None:
        for client_id, scopes in rights.items():
            front.accounts.add_client(
                tx,
                NewClient(
                    client_id,
                    client_id.title(),
                    front.secret_hash(client_id),
                    grant_types=(TOKEN_EXCHANGE,),
                    exchange_scopes=scopes,
                ),
            )

    await front.database.run(work)


async def test_a_chain_of_services_and_each_link_of_it_taken_back(front: Front) -> None:
    await chained(front, {"identity": ("orders:read",)})  # a service behind urn:rescind:identity, for this test
    await front.database.run(lambda tx: front.register_exchange(tx, "notifications", ("openid", "orders:read")))
    for link in range(4):
        parent = await held_by_the_app(front)
        middle = await exchanged(front, parent.access_token, resource=IDENTITY)
        last = await exchanged(front, middle["access_token"], "identity")
        claims = read(last["access_token"])
        assert claims["act"] == {
            "sub": "svc_identity",
            "act": {
                "sub": "svc_notifications",
                "cgen": read(middle["access_token"])["cgen"],
                "ojti": read(parent.access_token)["jti"],
                "act": {"sub": "svc_mobile", "cgen": read(parent.access_token)["cgen"]},
            },
        }
        assert claims["ojti"] == read(middle["access_token"])["jti"]
        assert await is_active(front, last["access_token"])
        if link == 0:
            await front.client("mobile").revoke(parent.access_token)
        elif link == 1:
            await front.client("notifications").revoke(middle["access_token"])
        else:
            client_id = ("notifications", "mobile")[link - 2]
            await front.accounts.disable_client(client_id)
            await front.accounts.enable_client(client_id)
        assert not await is_active(front, last["access_token"])


@pytest.mark.requirement(58)
async def test_nothing_comes_back_by_a_detour(front: Front) -> None:
    """A token narrowed to notifications:read at notifications is not widened there by way of another service."""
    await chained(front, {"identity": ("orders:read", "notifications:read")})
    await front.database.run(lambda tx: front.register_exchange(tx, "notifications", ("openid", "orders:read")))
    parent = await held_by_the_app(front)
    middle = await exchanged(front, parent.access_token, resource=IDENTITY)
    with pytest.raises(Refused) as refused:
        await exchanged(front, middle["access_token"], "identity", resource=NOTIFICATIONS)
    assert refused.value.error == "invalid_target"


async def test_introspection_says_who_acts(front: Front) -> None:
    parent = await held_by_the_app(front)
    child = await exchanged(front, parent.access_token)
    shown = await front.client("backoffice").introspect(child["access_token"])
    assert shown["act"] == {"sub": "svc_notifications", "act": {"sub": "svc_mobile"}}
    assert (shown["client_id"], shown["sub"]) == ("notifications", front.user(ALICE).id)


async def test_the_metadata_names_the_grant_type(front: Front) -> None:
    metadata = (await front.http.get("/.well-known/openid-configuration")).json()
    assert TOKEN_EXCHANGE in metadata["grant_types_supported"]
