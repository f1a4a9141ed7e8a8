"""What each event says to its person, and what no stranger can make it say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.identity.v1 import events_pb2 as security
from contracts.orders.v1 import events_pb2 as orders
from contracts.orders.v1.money_pb2 import Money
from notifications.domain import Category, Kind, Mailing, NotAPerson, Told
from notifications.words import ORDERS, SECURITY, whose

ORDER = {"order_id": "ord_1", "owner": "usr_alice"}
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:147.0) Gecko/20100101 Firefox/147.0"
EDGE = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0"
SAFARI = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/26.0 Safari/605.1.15"


def _say(message) -> Told:
    return {**ORDERS, **SECURITY}[type(message)](message)


def _every_contract():
    for module in (orders, security):
        for descriptor in module.DESCRIPTOR.message_types_by_name.values():
            if descriptor.name != "OrderLine":
                yield getattr(module, descriptor.name)


def test_every_event_of_both_contracts_has_words() -> None:
    assert {*ORDERS, *SECURITY} == set(_every_contract())


@pytest.mark.parametrize("kind", list(_every_contract()), ids=lambda kind: kind.DESCRIPTOR.name)
def test_an_event_that_says_only_whose_it_is_can_be_told(kind) -> None:
    field = "owner" if "owner" in kind.DESCRIPTOR.fields_by_name else "subject"
    told = _say(kind(**{field: "usr_alice"}))
    assert (told.person, told.about) == ("usr_alice", "")
    assert told.title
    assert told.body
    assert told.kind.category is (Category.ORDERS if kind in ORDERS else Category.SECURITY)


@pytest.mark.parametrize("kind", list(_every_contract()), ids=lambda kind: kind.DESCRIPTOR.name)
def test_an_event_about_nobody_is_not_told(kind) -> None:
    field = "owner" if "owner" in kind.DESCRIPTOR.fields_by_name else "subject"
    for subject in ("", "svc_orders", "usr_\n"):
        with pytest.raises(NotAPerson):
            _say(kind(**{field: subject}))
        with pytest.raises(NotAPerson):
            whose(kind(**{field: subject}))


def test_an_order_says_what_it_holds_and_costs() -> None:
    lines = [orders.OrderLine(sku="tea", quantity=2, name="Green\ntea"), orders.OrderLine(sku="cup-1", quantity=1)]
    told = _say(orders.OrderPlaced(**ORDER, lines=lines, total=Money(minor_units=1995, currency="EUR")))
    assert told == Told(
        whose(orders.OrderPlaced(**ORDER)), Kind.ORDER_PLACED, "We have your order",
        "2 × Green tea\n1 × cup-1\nTotal: 19.95 EUR", "ord_1", Mailing.AS_PREFERRED,
    )  # fmt: skip


def test_a_long_order_is_cut_short() -> None:
    lines = [orders.OrderLine(sku=f"sku-{n}", quantity=1) for n in range(9)]
    body = _say(orders.OrderPlaced(**ORDER, lines=lines)).body
    assert body.endswith("1 × sku-4\nand 4 more")


@pytest.mark.parametrize(
    ("amount", "currency", "said"),
    [(5, "EUR", "0.05 EUR"), (-1995, "USD", "-19.95 USD"), (1995, "JPY", "1995 JPY"), (12345, "KWD", "12.345 KWD"),
     (2**63 - 1, "EUR", "92233720368547758.07 EUR")],
)  # fmt: skip
def test_money_is_exact_in_every_currency(amount: int, currency: str, said: str) -> None:
    total = Money(minor_units=amount, currency=currency)
    assert _say(orders.OrderPlaced(**ORDER, total=total)).body == f"Total: {said}"


def test_who_cancelled_makes_a_difference() -> None:
    own = _say(orders.OrderCancelled(**ORDER, cancelled_by="usr_alice"))
    other = _say(orders.OrderCancelled(**ORDER, cancelled_by="usr_admin"))
    assert own.body == "You cancelled it."
    assert own.body != other.body


@pytest.mark.parametrize(
    ("agent", "said"),
    [(FIREFOX, "Firefox on Linux"), (EDGE, "Edge on Windows"), (SAFARI, "Safari on Mac"),
     ("curl/8.5", "an app or an unknown browser"), ("", "an app or an unknown browser")],
)  # fmt: skip
def test_a_sign_in_says_from_where_and_with_what(agent: str, said: str) -> None:
    told = _say(
        security.SignedIn(
            subject="usr_alice", session_id="sid_1", client_id="web", remote_address="192.0.2.7", user_agent=agent
        )
    )
    assert told.body == f"From 192.0.2.7, with {said}. The app “web” asked for it."
    assert (told.kind, told.about, told.mailing) == (Kind.SIGNED_IN, "sid_1", Mailing.AS_PREFERRED)


LURE = "Your account is locked, call +1 555 0100 or open https://evil.example Firefox"


def test_what_a_stranger_writes_is_not_repeated() -> None:
    told = _say(
        security.SignedIn(subject="usr_alice", session_id=LURE, client_id=LURE, remote_address=LURE, user_agent=LURE)
    )
    assert "evil" not in f"{told.title}{told.body}{told.about}"
    assert "Firefox" in told.body
    shipped = _say(orders.OrderShipped(**ORDER, tracking_number=LURE))
    assert "evil" not in shipped.body


@given(text=st.text(max_size=300))
def test_no_event_brings_control_characters_into_a_title_or_a_line(text: str) -> None:
    for message in (
        security.SignedIn(subject="usr_a", client_id=text, remote_address=text, user_agent=text, session_id=text),
        security.GrantGiven(subject="usr_a", client_id=text, scopes=[text]),
        orders.OrderPlaced(**ORDER, lines=[orders.OrderLine(sku=text, quantity=1, name=text)]),
    ):
        told = _say(message)
        assert told.title.isprintable()
        assert all(line.isprintable() or not text.isprintable() for line in told.body.split("\n"))
        assert not any(character in told.body for character in "\r\x00\x1b\u2028")


@pytest.mark.parametrize(
    ("cause", "ended_by", "mailing"),
    [("SIGNED_OUT", "usr_alice", Mailing.NEVER), ("SIGNED_OUT", "usr_admin", Mailing.AS_PREFERRED),
     ("PASSWORD_CHANGED", "usr_alice", Mailing.NEVER), ("ADMINISTRATOR", "usr_admin", Mailing.AS_PREFERRED),
     ("ACCOUNT_DISABLED", "usr_admin", Mailing.NEVER)],
)  # fmt: skip
def test_ones_own_sign_out_is_not_mailed(cause: str, ended_by: str, mailing: Mailing) -> None:
    ended = security.SessionsEnded(subject="usr_alice", session_ids=["sid_1"], cause=cause, ended_by=ended_by)
    told = _say(ended)
    assert (told.mailing, told.about) == (mailing, "sid_1")
    assert ("not done from your account" in told.body) is (ended_by != "usr_alice")


def test_all_sessions_are_told_from_some() -> None:
    everywhere = _say(security.SessionsEnded(subject="usr_alice", cause="SIGNED_OUT", ended_by="usr_alice"))
    assert (everywhere.title, everywhere.mailing) == ("You were signed out everywhere", Mailing.AS_PREFERRED)
    some = _say(security.SessionsEnded(subject="usr_alice", session_ids=["sid_1", "sid_2"]))
    assert (some.title, some.about) == ("You were signed out", "")
    assert some.body.startswith("2 sessions ended.")


@pytest.mark.parametrize("kind", [security.PasswordChanged, security.RefreshTokenReused])
def test_what_an_intruder_would_hide_is_always_mailed(kind) -> None:
    assert _say(kind(subject="usr_alice")).mailing is Mailing.ALWAYS
