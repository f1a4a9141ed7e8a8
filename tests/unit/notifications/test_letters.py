"""The mail about a notification: two forms that say the same, nothing in it that is code."""

import re
from html.parser import HTMLParser

import pytest

from notifications.channels.contacts import Contact
from notifications.channels.letters import Letters
from notifications.domain import Category, Kind, Notification, NotificationId, Person
from servicekit.mail import Mail, MailRefused

APP = "https://app.example.com"
EVIL = '<script>alert(1)</script>"&{{ 7*7 }}'


class _Parsed(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        if data.strip():
            self.words.append(data.strip())


def _written(kind: Kind = Kind.ORDER_SHIPPED, *, title: str = "Your order is on its way", body: str = "One\nTwo",
             name: str = "Alice", email: str = "alice@example.com") -> Mail:  # fmt: skip
    notification = Notification(
        NotificationId("ntf_0123456789abcdefghijkl"), Person("usr_alice"), 7, kind.value, kind.category, title, body,
        "ord_1", created_at=1_795_500_000_123,
    )  # fmt: skip
    return Letters(APP).write(notification, Contact(email, name))


def test_both_forms_say_the_same() -> None:
    mail = _written()
    assert mail.subject == "Your order is on its way"
    assert mail.message_id == "ntf_0123456789abcdefghijkl@notifications.rescind"
    words = _Parsed(mail.html).words
    for said in ("Hello Alice,", "Your order is on its way", "One", "Two", "24 November 2026, 06:00 UTC"):
        assert said in mail.text.splitlines()
        assert said in words
    assert APP in mail.text
    assert {attrs["href"] for tag, attrs in _Parsed(mail.html).tags if tag == "a"} == {APP}


def test_it_can_be_read_as_text() -> None:
    assert _written().text == (
        "Hello Alice,\n\nYour order is on its way\n\nOne\nTwo\n\n24 November 2026, 06:00 UTC\n\n"
        f"Your notifications: {APP}\n\n--\nYou get this mail because of what happened to your order.\n"
        f"What is mailed to you, you choose at {APP}\n"
    )


@pytest.mark.parametrize("kind", list(Kind))
def test_it_says_what_to_do_when_somebody_else_may_have_done_it(kind: Kind) -> None:
    mail = _written(kind)
    suspicious = kind in (Kind.SIGNED_IN, Kind.PASSWORD_CHANGED, Kind.REFRESH_REUSED, Kind.GRANT_GIVEN)
    assert ("Was this not you?" in mail.text) is ("Was this not you?" in mail.html) is suspicious
    assert ("your account." in mail.text) is (kind.category is Category.SECURITY)


def test_nothing_in_it_is_code() -> None:
    mail = _written(title=EVIL, body=EVIL, name=EVIL)
    assert "script" not in {tag for tag, _ in _Parsed(mail.html).tags}
    assert "49" not in mail.html
    assert EVIL in mail.text
    assert mail.subject == EVIL


@pytest.mark.parametrize("name", ["", "  ", "A\r\nBcc: eve@example.com", "x" * 5000, "\x00\x1b[31m"])
def test_a_name_is_one_line_or_left_out(name: str) -> None:
    text = _written(name=name).text
    first = text.splitlines()[0]
    assert len(first) < 80
    assert first.isprintable()
    assert (first == "Your order is on its way") is (not name.strip())


def test_nothing_is_fetched_when_it_is_opened() -> None:
    mail = _written()
    assert not re.search(r"<(img|link|script|iframe|video)\b|url\(|@import", mail.html)


def test_an_address_that_is_none_is_refused_for_good() -> None:
    with pytest.raises(MailRefused, match="ADDRESS_INVALID"):
        _written(email="not an address")
