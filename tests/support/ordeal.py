"""An ordeal: people place orders while parts of the system are killed, and afterwards the books are compared.

`planned` draws from a seed when what is killed, `Ordeal.run` does it and keeps a history, `complaints` is the checker:
it reads the history, the two databases and the mails, and says in words what does not agree.
"""

import asyncio
import contextlib
import random
import re
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx2
from sqlalchemy import Connection, create_engine, text

from contracts.orders.v1 import orders_pb2
from devstack.flow import Refused, Tokens
from devstack.seeds import ADMIN, ALICE, BOB, ORDERS, PASSWORD
from devstack.story import Scene
from devstack.story.scene import claims_of
from devstack.target import Fault
from support.eventually import eventually

AT_ONCE = 12  # orders under way
ONE_ORDER = 90.0  # seconds that a customer goes on asking, always with the same key
AGAIN = 10  # every tenth order is asked for once more after its answer, as by a customer who did not hear it
LONGEST_DEATH = 0.8  # seconds between a kill and the start
NEW_PASSWORD = "a-horse-of-another-colour"
SECURITY = ("SIGNED_IN", "PASSWORD_CHANGED", "REFRESH_REUSED")
# What a customer may see while things die. Anything else, a 500 above all, ends the ordeal.
_TRY_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

Strike = Callable[[Fault, Any], Awaitable[None]]
Pause = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Blow:
    """Once `mark` orders are placed, `parts` are killed at the same time, and started `down` seconds later."""

    mark: int
    parts: tuple[str, ...]
    down: float


def planned(seed: str, orders: int, parts: Sequence[str], each: int) -> list[Blow]:
    """Blows at random moments: every part is killed at least `each` times, and sometimes another with it.

    What others need comes first in `parts`: it is started first.
    """
    chance = random.Random(seed)
    victims = [part for part in parts for _ in range(each)]
    chance.shuffle(victims)
    last = orders - 2 * AT_ONCE  # some orders are placed after the last blow
    marks = sorted(chance.sample(range(orders // 20, last), len(victims)))
    blows = []
    for mark, victim in zip(marks, victims, strict=True):
        together = {victim} | ({chance.choice(parts)} if chance.random() < 0.4 else set())
        blows.append(Blow(mark, tuple(sorted(together, key=parts.index)), chance.random() * LONGEST_DEATH))
    return blows


@dataclass(slots=True)
class History:
    """What was done and answered. `placed`: the order's id by the key of the request."""

    placed: dict[str, str] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)  # who placed it, by the order's id
    security: Counter[tuple[str, str]] = field(default_factory=Counter)  # person, kind
    struck: list[Blow] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Books:
    """What the databases and the mail folder hold in the end."""

    orders: Sequence[tuple[str, str]]  # id, owner
    told: Sequence[tuple[str, str, str, str]]  # id, person, kind, about
    gaps: Sequence[str]  # people whose inbox is not numbered 1, 2, 3 ...
    mailed: Sequence[str]  # the notification in each mail's Message-ID
    unsent: Sequence[tuple[str, str]]  # a mail's notification, and its state


class Ordeal:
    """Customers, a person whose account is in trouble, and somebody who kills. `pause` lets seconds pass."""

    def __init__(self, scene: Scene, seed: str, orders: int, strike: Strike, pause: Pause) -> None:
        self._scene = scene
        self._orders = orders
        self._strike = strike
        self._pause = pause
        # Not what decides when something dies, and so not the plan's: how long a customer waits, and by which wire.
        self._chance = random.Random(f"customers of {seed}")
        self._limit = 0  # only orders of a lower number are placed
        self._limit_raised = asyncio.Condition()
        self.history = History()

    async def run(self, plan: Sequence[Blow]) -> History:
        """Places all orders while the plan is carried out; returns once everything runs again.

        No customer runs past a blow that has not fallen yet: orders are under way when it falls, and others come after.
        """
        customers = [await self._signed_in(email) for email in (ALICE, BOB)]
        numbers = iter(range(self._orders))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(self._buy(customers, numbers))
            tasks.create_task(self._break(plan))
            tasks.create_task(self._trouble())
        return self.history

    async def _placed(self, mark: int) -> None:
        async def so_many() -> bool:
            return len(self.history.placed) >= mark

        await eventually(so_many, within=2 * ONE_ORDER)

    async def _signed_in(self, email: str, password: str = PASSWORD, **more: Any) -> Tokens:
        scope = "openid orders:read orders:write offline_access"
        browser = more.get("browser") or self._scene.browser()
        tokens = await self._scene.client().sign_in(browser, email, password, scope=scope, resource=ORDERS)
        self.history.security[claims_of(tokens.access_token)["sub"], "SIGNED_IN"] += 1
        return tokens

    async def _buy(self, customers: Sequence[Tokens], numbers: Any) -> None:
        for number in numbers:
            async with self._limit_raised:
                await self._limit_raised.wait_for(lambda number=number: number < self._limit)
            token = customers[number % len(customers)].access_token
            key = str(uuid.UUID(int=self._chance.getrandbits(128), version=4))
            by_grpc = self._chance.random() < 0.5
            order = await self._order(token, key, by_grpc)
            self.history.placed[key] = order
            self.history.owners[order] = claims_of(token)["sub"]
            if number % AGAIN == 0:
                assert await self._order(token, key, not by_grpc) == order, "one key, two orders"

    async def _order(self, token: str, key: str, by_grpc: bool) -> str:
        ask = self._by_grpc if by_grpc else self._by_http
        return await eventually(lambda: ask(token, key), within=ONE_ORDER)

    async def _by_grpc(self, token: str, key: str) -> str:
        request = orders_pb2.CreateOrderRequest(items=[orders_pb2.Item(sku="cup", quantity=1)], request_id=key)
        metadata = grpc.aio.Metadata(("authorization", f"Bearer {token}"))
        try:
            return str((await self._scene.orders.CreateOrder(request, metadata=metadata, timeout=5)).id)
        except grpc.aio.AioRpcError as failure:
            if failure.code() not in _TRY_AGAIN:
                raise
            self.history.refusals[failure.code().name] += 1
            return ""

    async def _by_http(self, token: str, key: str) -> str:
        headers = {"authorization": f"Bearer {token}", "idempotency-key": key}
        body = {"items": [{"sku": "cup", "quantity": 1}]}
        url = f"{self._scene.target.addresses.orders}/v1/orders"
        try:
            response = await self._scene.web.post(url, json=body, headers=headers, timeout=5)
        except httpx2.TransportError as failure:
            self.history.refusals[type(failure).__name__] += 1
            return ""
        assert response.status_code in (201, 503), response.text
        if response.status_code == 503:
            self.history.refusals["503"] += 1
            return ""
        return str(response.json()["id"])

    async def _break(self, plan: Sequence[Blow]) -> None:
        limits = [*(blow.mark + AT_ONCE for blow in plan), self._orders]
        await self._allow(limits[0])
        for blow, limit in zip(plan, limits[1:], strict=True):
            await self._placed(blow.mark)
            self.history.struck.append(blow)
            await asyncio.gather(*(self._strike("kill", part) for part in blow.parts))
            await self._allow(limit)
            await self._pause(blow.down)
            for part in blow.parts:
                await self._strike("start", part)

    async def _allow(self, limit: int) -> None:
        async with self._limit_raised:
            self._limit = limit
            self._limit_raised.notify_all()

    async def _trouble(self) -> None:
        """A copied refresh token, a changed password, a sign-in with the new one: each is told while things die."""
        await self._placed(self._orders // 4)
        browser = self._scene.browser()
        tokens = await self._signed_in(ADMIN, browser=browser)
        person = claims_of(tokens.access_token)["sub"]
        mobile = self._scene.client()
        await mobile.refresh(await mobile.refresh(tokens))  # the successor is used, so this one is no retry any more
        with contextlib.suppress(Refused):
            await mobile.refresh(tokens)
            raise AssertionError("a refresh token was accepted whose successor had been used")
        self.history.security[person, "REFRESH_REUSED"] += 1
        await self._placed(self._orders // 2)
        await browser.change_password(PASSWORD, NEW_PASSWORD)
        self.history.security[person, "PASSWORD_CHANGED"] += 1
        await self._placed(self._orders * 3 // 4)
        await self._signed_in(ADMIN, NEW_PASSWORD)


def complaints(history: History, books: Books) -> list[str]:
    """What does not agree; empty when every order and every event was told once, and mailed."""
    found = []
    committed = dict(books.orders)
    if len(history.placed) != len(set(history.placed.values())):
        found.append("two requests were answered with one order")
    found += [f"{order} was answered, and is not there" for order in history.owners if order not in committed]
    found += [f"{order} is there, and nobody placed it" for order in committed if order not in history.owners]

    times = Counter(about for _, _, kind, about in books.told if kind == "ORDER_PLACED")
    found += [f"{order} was told {times[order]} times" for order in committed if times[order] != 1]
    found += [f"{about} was told, and is no order" for about in times if about not in committed]
    for _, person, kind, about in books.told:
        if kind == "ORDER_PLACED" and committed.get(about, person) != person:
            found.append(f"{about} was told to somebody else")

    security = Counter((person, kind) for _, person, kind, _ in books.told if kind in SECURITY)
    for event in sorted(security.keys() | history.security.keys()):
        if security[event] != history.security[event]:
            found.append(f"{event} happened {history.security[event]} times, and was told {security[event]} times")

    known = {notification for notification, *_ in books.told}
    # Identity writes to the same folder, of new devices: its mails are about no notification.
    mailed = {notification for notification in books.mailed if not notification.startswith("mail_")}
    to_mail = {notification for notification, _, kind, _ in books.told if kind in ("ORDER_PLACED", *SECURITY)}
    found += [f"{notification} was not mailed" for notification in to_mail - mailed]
    found += [f"a mail is about {notification}, which is not there" for notification in mailed - known]
    found += [f"the mail about {notification} is {state}" for notification, state in books.unsent]
    found += [f"the inbox of {person} has a gap" for person in books.gaps]
    return found


async def settled(history: History, orders_url: str, notifications_url: str, mail: Path, *, within: float) -> Books:
    """The books, once everything has been told and no mail waits; or as they are after `within` seconds."""
    expected = len(history.placed) + sum(history.security.values())

    async def quiet() -> bool:
        def look() -> tuple[int, int]:
            (told,) = _rows(
                notifications_url, f"SELECT count(*) FROM notifications WHERE kind IN ('ORDER_PLACED', {_listed})"
            )
            (queued,) = _rows(notifications_url, "SELECT count(*) FROM mails WHERE state = 'queued'")
            return told[0], queued[0]

        told, queued = await asyncio.to_thread(look)
        return told >= expected and queued == 0

    with contextlib.suppress(AssertionError):  # what is missing, the checker says
        await eventually(quiet, within=within)
    return await asyncio.to_thread(_books, orders_url, notifications_url, mail)


_listed = ", ".join(f"'{kind}'" for kind in SECURITY)


def _books(orders_url: str, notifications_url: str, mail: Path) -> Books:
    gaps = "SELECT person FROM notifications GROUP BY person HAVING count(*) <> max(sequence)"
    return Books(
        orders=_rows(orders_url, "SELECT id, owner FROM orders"),
        told=_rows(notifications_url, "SELECT id, person, kind, about FROM notifications"),
        gaps=[row[0] for row in _rows(notifications_url, gaps)],
        mailed=[_about(file) for file in mail.glob("*.eml")],
        unsent=_rows(notifications_url, "SELECT notification, state FROM mails WHERE state <> 'sent'"),
    )


def _rows(url: str, query: str) -> list[Any]:
    engine = create_engine(url)

    def work(tx: Connection) -> list[Any]:
        return [tuple(row) for row in tx.execute(text(query))]

    try:
        with engine.connect() as tx:
            return work(tx)
    finally:
        engine.dispose()


def _about(file: Path) -> str:
    with file.open("rb") as opened:
        name = str(BytesHeaderParser().parse(opened)["Message-ID"])
    found = re.fullmatch(r"<([^@]+)@[^>]+>", name)
    assert found is not None, f"{file.name} has no Message-ID of ours"
    return found[1]
