"""What every mailer must do, and what a real SMTP server that misbehaves makes of ours."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import cast
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from servicekit.mail import (
    FolderMailer,
    Mail,
    Mailer,
    MailRefused,
    MailSettings,
    MailUnavailable,
    SmtpMailer,
    mailer_at,
)
from support.smtp_server import PASSWORD, USER, Postbox, certificate, smtp_server

SENDER = "Rescind <no-reply@example.com>"
MAIL = Mail(
    to="alice@example.com",
    subject="Your order is on its way: déjà vu",
    text="Hello Alice,\n\n.a line that begins with a dot\nFrom here on — it's ☃.\n",
    html="<p>Hello <b>Alice</b> ☃</p>",
    message_id="ntf_0123456789abcdefghijkl@notifications.rescind",
)
AT = datetime(2026, 11, 24, 6, 30, 15, 123456, tzinfo=UTC)


@dataclass
class Taken:
    """A mailer, and what it has delivered."""

    mailer: Mailer
    mails: Callable[[], list[EmailMessage]]


@pytest.fixture(params=["smtp", "folder"])
async def taken(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Taken]:
    if request.param == "folder":
        yield Taken(FolderMailer(tmp_path / "outbox", SENDER, now=lambda: AT), lambda: _written(tmp_path / "outbox"))
        return
    postbox = Postbox()
    async with smtp_server(postbox) as port:
        yield Taken(SmtpMailer(f"smtp://127.0.0.1:{port}", SENDER, now=lambda: AT), lambda: postbox.mails)


def _written(folder: Path) -> list[EmailMessage]:
    files = sorted(folder.glob("*.eml"))
    return [cast("EmailMessage", message_from_bytes(file.read_bytes(), policy=default)) for file in files]


async def test_what_was_written_arrives(taken: Taken) -> None:
    await taken.mailer.send(MAIL)
    [mail] = taken.mails()
    assert mail["From"] == SENDER
    assert mail["To"] == "alice@example.com"
    assert mail["Subject"] == MAIL.subject
    assert mail["Message-ID"] == f"<{MAIL.message_id}>"
    assert mail["Date"].datetime == AT.replace(microsecond=0)
    assert mail["Auto-Submitted"] == "auto-generated"
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().replace("\r\n", "\n") == MAIL.text
    assert html.get_content().strip() == MAIL.html


async def test_a_repeat_has_the_same_message_id(taken: Taken) -> None:
    for _ in range(2):
        await taken.mailer.send(MAIL)
    assert {mail["Message-ID"] for mail in taken.mails()} == {f"<{MAIL.message_id}>"}


async def test_many_at_once_arrive_each_whole(taken: Taken) -> None:
    await asyncio.gather(*(taken.mailer.send(replace(MAIL, message_id=f"m{n}@x")) for n in range(20)))
    assert {mail["Message-ID"] for mail in taken.mails()} == {f"<m{n}@x>" for n in range(20)}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"to": "alice@example.com\r\nBcc: eve@example.com"}, "ADDRESS_INVALID"),
        ({"to": "alice@example.com\nX: y"}, "ADDRESS_INVALID"),
        ({"to": "alice@example.com, eve@example.com"}, "ADDRESS_INVALID"),
        ({"to": "Alice <alice@example.com>"}, "ADDRESS_INVALID"),
        ({"to": "alice..b@example.com"}, "ADDRESS_INVALID"),
        ({"to": "álice@example.com"}, "ADDRESS_INVALID"),
        ({"to": f"alice@{'a' * 250}.com"}, "ADDRESS_INVALID"),
        ({"to": ""}, "ADDRESS_INVALID"),
        ({"subject": "Hello\r\nBcc: eve@example.com"}, "SUBJECT_INVALID"),
        ({"subject": "Hello\x0bBcc: eve@example.com"}, "SUBJECT_INVALID"),
        ({"subject": "Hello\u2028Bcc: eve@example.com"}, "SUBJECT_INVALID"),
        ({"subject": ""}, "SUBJECT_INVALID"),
        ({"message_id": "a@b>\r\nBcc: eve@example.com"}, "MESSAGE_ID_INVALID"),
        ({"message_id": "none"}, "MESSAGE_ID_INVALID"),
    ],
)
def test_no_header_can_begin_another(changed: dict[str, str], reason: str) -> None:
    with pytest.raises(MailRefused, match=reason) as refused:
        replace(MAIL, **changed)
    assert "eve" not in str(refused.value)


@given(to=st.text(max_size=60), subject=st.text(max_size=60))
def test_whatever_is_accepted_has_the_headers_it_should_have_and_no_other(to: str, subject: str) -> None:
    from servicekit.mail import composed

    for address in (to, f"{to}@example.com"):
        try:
            mail = replace(MAIL, to=address, subject=subject)
        except MailRefused:
            continue
        read = message_from_bytes(composed(mail, SENDER, AT).as_bytes(), policy=default)
        assert read["To"] == address
        assert sorted(read.keys()) == [
            "Auto-Submitted", "Content-Type", "Date", "From", "MIME-Version", "Message-ID", "Subject", "To",
        ]  # fmt: skip


def test_a_mail_shows_no_address() -> None:
    assert "alice" not in repr(MAIL)


@pytest.mark.parametrize(
    ("command", "said", "error", "reason", "code"),
    [
        ("RCPT", "550 5.1.1 <alice@example.com> no such person", MailRefused, "RECIPIENT_REFUSED", 550),
        ("RCPT", "450 4.2.0 alice@example.com greylisted", MailUnavailable, "RECIPIENT_REFUSED", 450),
        ("RCPT", "452 4.2.2 mailbox full", MailUnavailable, "RECIPIENT_REFUSED", 452),
        ("DATA", "554 5.7.1 looks like spam from alice@example.com", MailRefused, "CONTENT_REFUSED", 554),
        ("DATA", "451 4.3.0 try again", MailUnavailable, "CONTENT_REFUSED", 451),
        ("MAIL", "550 5.7.1 no-reply@example.com may not send", MailUnavailable, "SENDER_REFUSED", 550),
        ("MAIL", "421 4.3.2 closing", MailUnavailable, "SENDER_REFUSED", 421),
    ],
)
async def test_a_refusal_steers_and_repeats_no_address(
    command: str, said: str, error: type[MailRefused | MailUnavailable], reason: str, code: int
) -> None:
    postbox = Postbox()
    async with smtp_server(postbox) as port:
        postbox.say[command] = said
        with pytest.raises(error) as refused:
            await SmtpMailer(f"smtp://127.0.0.1:{port}", SENDER).send(MAIL)
    assert (refused.value.reason, refused.value.code) == (reason, code)
    assert "@" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert postbox.mails == []


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("how", ["hang", "drop"])
async def test_a_server_that_hangs_or_drops_is_for_later(command: str, how: str) -> None:
    postbox = Postbox()
    async with smtp_server(postbox) as port:
        postbox.say[command] = how
        with pytest.raises(MailUnavailable, match="NO_ANSWER_IN_TIME" if how == "hang" else "NOT_CONNECTED"):
            await SmtpMailer(f"smtp://127.0.0.1:{port}", SENDER, deadline=0.5).send(MAIL)


async def test_a_server_that_took_it_and_dropped_is_asked_again_with_the_same_message_id() -> None:
    postbox = Postbox()
    async with smtp_server(postbox) as port:
        mailer = SmtpMailer(f"smtp://127.0.0.1:{port}", SENDER)
        postbox.say["DATA"] = "drop after taking"
        with pytest.raises(MailUnavailable, match="NOT_CONNECTED"):
            await mailer.send(MAIL)
        postbox.say.clear()
        await mailer.send(MAIL)
    assert [mail["Message-ID"] for mail in postbox.mails] == [f"<{MAIL.message_id}>"] * 2


async def test_a_server_that_is_not_there_or_says_nothing_is_for_later() -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)

    opened: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    with pytest.raises(MailUnavailable, match="NO_ANSWER_IN_TIME"):
        await SmtpMailer(f"smtp://127.0.0.1:{port}", SENDER, deadline=0.3).send(MAIL)
    for writer in opened:
        writer.close()
    listener.close()
    await listener.wait_closed()
    with pytest.raises(MailUnavailable, match="NOT_CONNECTED"):
        await SmtpMailer(f"smtp://127.0.0.1:{port}", SENDER).send(MAIL)


@pytest.mark.parametrize("scheme", ["smtps", "smtp"])
async def test_a_password_travels_under_tls_only(scheme: str, tmp_path: Path) -> None:
    server, client = certificate(tmp_path)
    postbox = Postbox()
    serving = {"tls": server} if scheme == "smtps" else {"starttls": server}
    async with smtp_server(postbox, **serving, auth_require_tls=scheme == "smtp") as port:
        url = f"{scheme}://{USER}:{quote(PASSWORD, safe='')}@localhost:{port}"
        await SmtpMailer(url, SENDER, tls=client).send(MAIL)
    assert len(postbox.mails) == 1
    assert postbox.logins == [USER.encode()]


async def test_without_starttls_no_password_is_sent() -> None:
    postbox = Postbox()
    async with smtp_server(postbox, auth_require_tls=False) as port:
        with pytest.raises(MailUnavailable, match="SERVER_UNSUITABLE"):
            await SmtpMailer(f"smtp://{USER}:secret@localhost:{port}", SENDER).send(MAIL)
    assert postbox.logins == []
    assert postbox.mails == []


@pytest.mark.parametrize("scheme", ["smtps", "smtp"])
async def test_a_certificate_that_nobody_vouches_for_is_not_believed(scheme: str, tmp_path: Path) -> None:
    server, _ = certificate(tmp_path)
    postbox = Postbox()
    serving = {"tls": server} if scheme == "smtps" else {"starttls": server}
    async with smtp_server(postbox, **serving) as port:
        with pytest.raises(MailUnavailable):
            await SmtpMailer(f"{scheme}://localhost:{port}", SENDER, tls=ssl.create_default_context()).send(MAIL)
    assert postbox.mails == []


async def test_a_wrong_password_is_our_trouble_and_not_the_mails(tmp_path: Path) -> None:
    server, client = certificate(tmp_path)
    postbox = Postbox()
    async with smtp_server(postbox, starttls=server, auth_required=True) as port:
        with pytest.raises(MailUnavailable, match="LOGIN_REFUSED 535") as refused:
            await SmtpMailer(f"smtp://{USER}:hunter2@localhost:{port}", SENDER, tls=client).send(MAIL)
    assert "hunter2" not in str(refused.value)


async def test_a_folder_shows_whole_files_only_and_to_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "outbox"
    await FolderMailer(folder, SENDER, now=lambda: AT).send(MAIL)
    [file] = folder.iterdir()
    assert file.name.startswith("20261124T063015123-")
    assert file.suffix == ".eml"
    assert file.stat().st_mode & 0o777 == 0o600


async def test_a_repeat_replaces_its_file(tmp_path: Path) -> None:
    for _ in range(2):
        await FolderMailer(tmp_path, SENDER).send(MAIL)
    assert len(_written(tmp_path)) == 1


async def test_a_folder_that_cannot_be_written_is_for_later(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(MailUnavailable, match="FOLDER_"):
        await FolderMailer(tmp_path / "file", SENDER).send(MAIL)


def test_the_url_decides_which(tmp_path: Path) -> None:
    assert isinstance(mailer_at(f"file://{tmp_path}", SENDER), FolderMailer)
    assert isinstance(mailer_at("smtps://mail.example.com", SENDER), SmtpMailer)


@pytest.mark.parametrize(
    "url",
    ["smtp://", "mail.example.com", "http://mail", "smtp://host:0", "smtp://host:99999", "smtp://user@host",
     "smtp://host/path", "file://", "file://host/folder", "file:///"],
)  # fmt: skip
def test_other_urls_are_refused_at_the_start_without_being_repeated(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESCIND_MAIL_URL", url)
    with pytest.raises(ValidationError, match="must be smtp://") as refused:
        MailSettings()
    assert url not in str(refused.value).partition("must be")[0]
    assert "input_value" not in str(refused.value)


@pytest.mark.parametrize(
    ("sender", "good"),
    [("no-reply@example.com", True), ("Rescind <no-reply@example.com>", True), ("Rescind", False),
     ("a@b.c, d@e.f", False), ("X <a@b.c", False), ("X\r\nBcc: e@f.g <a@b.c>", False), ("a@b.c>", False)],
)  # fmt: skip
def test_the_sender_is_one_address(sender: str, good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESCIND_MAIL_URL", "smtp://localhost")
    monkeypatch.setenv("RESCIND_MAIL_FROM", sender)
    if good:
        assert MailSettings().mail_from == sender
    else:
        with pytest.raises(ValidationError):
            MailSettings()
