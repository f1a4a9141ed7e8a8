"""What is mailed to whom, and for how long it is tried."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifications.domain import (
    TRIED_FOR,
    Category,
    Kind,
    Mailing,
    NotAPerson,
    Person,
    Preferences,
    Told,
    delay,
    is_notification_id,
    message_id,
    notification_id,
    person_of,
)

ALICE = Person("usr_alice")


def _told(kind: Kind, mailing: Mailing | None = None) -> Told:
    return Told(ALICE, kind, "T", "B", "", mailing or kind.mailing)


@pytest.mark.parametrize("subject", ["svc_backoffice", "", "usr_", "alice", "usr_a b", "usr_a\n", f"usr_{'a' * 65}"])
def test_only_people_have_an_inbox(subject: str) -> None:
    with pytest.raises(NotAPerson):
        person_of(subject)


def test_a_person_is_named_by_their_subject() -> None:
    assert person_of("usr_Ab-_9") == "usr_Ab-_9"


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_has_a_category(kind: Kind) -> None:
    assert kind.category is (Category.ORDERS if kind.value.startswith("ORDER_") else Category.SECURITY)


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("orders", [True, False])
@pytest.mark.parametrize("security", [True, False])
def test_preferences_decide_but_not_about_what_an_intruder_would_hide(kind: Kind, orders: bool, security: bool) -> None:
    wanted = Preferences(order_emails=orders, security_emails=security).want(_told(kind))
    if kind in (Kind.PASSWORD_CHANGED, Kind.REFRESH_REUSED):
        assert wanted
    elif kind is Kind.ACCOUNT_DISABLED:
        assert not wanted
    else:
        assert wanted is (orders if kind.category is Category.ORDERS else security)


def test_circumstances_may_say_otherwise() -> None:
    assert not Preferences().want(_told(Kind.SESSIONS_ENDED, Mailing.NEVER))


def test_an_event_always_gives_the_same_id_and_message_id() -> None:
    first = notification_id("evt_1")
    assert first == notification_id("evt_1") != notification_id("evt_2")
    assert is_notification_id(first)
    assert message_id(first) == f"{first}@notifications.rescind"


@pytest.mark.parametrize("text", ["", "ntf_", "ntf_short", f"ord_{'a' * 22}", f"ntf_{'a' * 23}", f"ntf_{'é' * 22}"])
def test_other_texts_name_no_notification(text: str) -> None:
    assert not is_notification_id(text)


@given(attempt=st.integers(1, 10_000), chance=st.floats(0, 1))
def test_a_delay_grows_to_five_minutes_and_no_further(attempt: int, chance: float) -> None:
    assert 1_000 <= delay(attempt, chance) <= 300_000
    assert delay(attempt, 0.5) <= delay(attempt + 1, 0.5)


def test_a_mail_is_tried_often_in_its_day() -> None:
    elapsed = attempts = 0
    while elapsed < TRIED_FOR:
        attempts += 1
        elapsed += delay(attempts, 1.0)
    assert 280 < attempts < 320
