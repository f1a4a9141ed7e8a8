"""Mail to one person at a time: over SMTP, or into a folder where whoever runs the system alone can read it.

    mailer = mailer_at(settings.mail_url.get_secret_value(), settings.mail_from)
    await mailer.send(Mail(to=..., subject=..., text=..., html=..., message_id="ntf_...@notifications"))

A failure steers whoever called: `MailRefused` says that this mail will never be taken, `MailUnavailable` that it may be
later. What a server refuses about *us* (greeting, TLS, login, sender) is of the second sort: somebody will mend it, and
the mail is not to blame. No error holds an address or a server's own words, which repeat addresses.

A server that took the mail and died before it said so looks like one that did not: the mail is sent again then, under
the same Message-ID (RFC 5322 section 3.6.4), by which readers recognise a repeat.
"""

import asyncio
import hashlib
import os
import re
import ssl
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path
from typing import Annotated, Protocol
from urllib.parse import unquote, urlsplit

import aiosmtplib
from pydantic import AfterValidator, Field, SecretStr

from servicekit.settings import CommonSettings

DEADLINE = 15.0  # seconds from the first packet to the server's word that it has the mail
_FAREWELL = 1.0  # seconds for QUIT: the mail is gone by then, whatever the server still says
_LONGEST_ADDRESS = 254  # characters (RFC 5321 section 4.5.3.1.3, without the angle brackets)
_LONGEST_SUBJECT = 200
# ASCII, one address, nothing quoted, no comments: less than RFC 5322 permits, and all that anybody has.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_MESSAGE_ID = re.compile(r"[A-Za-z0-9._-]{1,120}@[A-Za-z0-9.-]{1,80}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")  # RFC 3463


class _NotTaken(Exception):
    """`reason` is UPPER_SNAKE, `code` the server's (RFC 5321; 0: it was not asked). Neither names anybody."""

    def __init__(self, reason: str, code: int = 0, enhanced: str = "") -> None:
        super().__init__(" ".join(part for part in (reason, str(code or ""), enhanced) if part))
        self.reason = reason
        self.code = code


class MailRefused(_NotTaken):
    """This mail will never be taken."""


class MailUnavailable(_NotTaken):
    """The mail was not taken now, and may be later."""


@dataclass(frozen=True, slots=True, repr=False)
class Mail:
    """A mail to one person, in two forms that say the same. No header of it can be made to begin another.

    `message_id` is the part between the angle brackets; the same one for every attempt at the same mail.

    Raises:
        MailRefused: ADDRESS_INVALID, SUBJECT_INVALID, MESSAGE_ID_INVALID.
    """

    to: str
    subject: str
    text: str
    html: str
    message_id: str

    def __post_init__(self) -> None:
        if len(self.to) > _LONGEST_ADDRESS or not _ADDRESS.fullmatch(self.to) or not _is_dotted(self.to):
            raise MailRefused("ADDRESS_INVALID")
        if not 1 <= len(self.subject) <= _LONGEST_SUBJECT or _CONTROL.search(self.subject):
            raise MailRefused("SUBJECT_INVALID")
        if not _MESSAGE_ID.fullmatch(self.message_id):
            raise MailRefused("MESSAGE_ID_INVALID")

    def __repr__(self) -> str:
        """Without the address: a repr ends up in logs."""
        return f"Mail({self.message_id!r})"


class Mailer(Protocol):
    """Takes mail away."""

    async def send(self, mail: Mail) -> None:
        """Returns when somebody else has taken the responsibility for it.

        Raises:
            MailRefused: never retry.
            MailUnavailable: later.
        """


def _utc_now() -> datetime:
    return datetime.now(UTC)


def composed(mail: Mail, sender: str, at: datetime) -> EmailMessage:
    """The message (RFC 5322) with both forms; machines are told that no person wrote it (RFC 3834)."""
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = Address(addr_spec=mail.to)
    message["Subject"] = mail.subject
    message["Date"] = format_datetime(at)
    message["Message-ID"] = f"<{mail.message_id}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text)
    message.add_alternative(mail.html, subtype="html")
    return message


class SmtpMailer:
    """Hands mail to an SMTP server, on a connection of its own for each.

    `smtps://` is TLS from the first byte, `smtp://` STARTTLS: where the server offers it, and without exception when
    there is a password to protect. Certificates are verified. `deadline` is in seconds, for the whole conversation.
    """

    def __init__(
        self,
        url: str,
        sender: str,
        *,
        deadline: float = DEADLINE,
        tls: ssl.SSLContext | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls_at_once = parts.scheme == "smtps"
        self._port = parts.port or (465 if self._tls_at_once else 587 if parts.username else 25)
        self._user = unquote(parts.username or "") or None
        self._password = unquote(parts.password or "") or None
        self._sender = sender
        self._envelope = _address_of(sender)
        self._deadline = deadline
        self._tls = tls
        self._now = now

    async def send(self, mail: Mail) -> None:
        """See `Mailer`."""
        message = composed(mail, self._sender, self._now()).as_bytes()
        client = aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            username=self._user,
            password=self._password,
            local_hostname=self._envelope.partition("@")[2],  # else it asks DNS for this machine's name
            timeout=self._deadline,
            use_tls=self._tls_at_once,
            start_tls=False if self._tls_at_once else True if self._user else None,
            tls_context=self._tls,
        )
        try:
            async with asyncio.timeout(self._deadline):
                await client.connect()
                await client.sendmail(self._envelope, [mail.to], message)
            with suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await client.quit()
        # None of these is a cause for the next: their texts repeat addresses.
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _about_mail("RECIPIENT_REFUSED", error.recipients[0]) from None
        except aiosmtplib.SMTPDataError as error:
            raise _about_mail("CONTENT_REFUSED", error) from None
        except aiosmtplib.SMTPSenderRefused as error:
            raise _about_us("SENDER_REFUSED", error) from None
        except aiosmtplib.SMTPAuthenticationError as error:
            raise _about_us("LOGIN_REFUSED", error) from None
        except aiosmtplib.SMTPResponseException as error:
            raise _about_us("SERVER_REFUSED", error) from None
        except (TimeoutError, aiosmtplib.SMTPTimeoutError):
            raise MailUnavailable("NO_ANSWER_IN_TIME") from None
        except ssl.SSLError:
            raise MailUnavailable("TLS_FAILED") from None
        except (aiosmtplib.SMTPConnectError, OSError):  # a certificate that is wrong, too, is wrapped in the first
            raise MailUnavailable("NOT_CONNECTED") from None
        except aiosmtplib.SMTPException:
            raise MailUnavailable("SERVER_UNSUITABLE") from None  # without STARTTLS, or without any login we know
        finally:
            client.close()


class FolderMailer:
    """Writes each mail to a file of its own, `<when>-<which>.eml`: the outbox of a system that nobody else uses.

    A file appears whole or not at all, survives a power cut, and is for its owner alone. The same mail sent again
    replaces its file.
    """

    def __init__(self, folder: Path, sender: str, *, now: Callable[[], datetime] = _utc_now) -> None:
        self._folder = folder
        self._sender = sender
        self._now = now

    async def send(self, mail: Mail) -> None:
        """See `Mailer`. A full disk is MailUnavailable."""
        at = self._now()
        message = composed(mail, self._sender, at).as_bytes()
        # A digest: an id may be longer than a file's name.
        name = hashlib.sha256(mail.message_id.encode()).hexdigest()[:24]
        try:
            await asyncio.to_thread(self._write, f"{at:%Y%m%dT%H%M%S}{at.microsecond // 1000:03d}", name, message)
        except OSError as error:
            raise MailUnavailable(f"FOLDER_{type(error).__name__.upper()}") from None

    def _write(self, when: str, name: str, message: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        earlier = sorted(self._folder.glob(f"*-{name}.eml"))
        target = earlier[0] if earlier else self._folder / f"{when}-{name}.eml"
        handle, part = tempfile.mkstemp(dir=self._folder, prefix=".", suffix=".part")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(message)
                file.flush()
                os.fsync(file.fileno())
            Path(part).replace(target)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name, too
        finally:
            os.close(folder)


def mailer_at(url: str, sender: str) -> Mailer:
    """The mailer for a RESCIND_MAIL_URL. Connects to nothing."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return FolderMailer(Path(unquote(parts.path)), sender)
    return SmtpMailer(url, sender)


def _checked_url(url: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(url.get_secret_value())
        good = parts.port != 0  # reading it finds a port that is none
    except ValueError:
        good = False
    if good and parts.scheme == "file":
        good = not parts.netloc and len(parts.path) > 1
    elif good:
        good = parts.scheme in ("smtp", "smtps") and bool(parts.hostname) and parts.path in ("", "/")
        good = good and bool(parts.username) == bool(parts.password)
    if not good:
        raise ValueError("must be smtp://[user:password@]host[:port], smtps://... or file:///folder")
    return url


def _checked_sender(sender: str) -> str:
    _address_of(sender)
    return sender


def _address_of(sender: str) -> str:
    """The bare address in `Name <address>`, or in `address`.

    Raises:
        ValueError: there is none.
    """
    found = re.fullmatch(r'(?:[^<>@,;:"\\\x00-\x1f\x7f]*<)?([^<>\s]+)>?', sender)
    if found is None or ("<" in sender) != sender.endswith(">") or not _ADDRESS.fullmatch(found[1]):
        raise ValueError("must be an address, or a name and an address: Rescind <no-reply@example.com>")
    return found[1]


def _is_dotted(address: str) -> bool:
    """Whether no dot stands at an end of the local part or beside another dot (RFC 5321 section 4.1.2)."""
    local, _, domain = address.partition("@")
    return all(local.split(".")) and all(domain.split("."))


MailUrl = Annotated[SecretStr, AfterValidator(_checked_url)]  # may hold a password
MailFrom = Annotated[str, AfterValidator(_checked_sender)]


class MailSettings(CommonSettings):
    """Where mail goes: `class Settings(VerifierSettings, MailSettings)` for a service that sends some."""

    mail_url: Annotated[MailUrl, Field(validation_alias="RESCIND_MAIL_URL")]
    mail_from: Annotated[MailFrom, Field(validation_alias="RESCIND_MAIL_FROM")] = "Rescind <no-reply@localhost>"


def _enhanced(error: aiosmtplib.SMTPResponseException) -> str:
    """The enhanced status code (RFC 3463): of all that a server says, what names nobody."""
    found = _ENHANCED.match(error.message)
    return found[0] if found else ""


def _about_mail(reason: str, error: aiosmtplib.SMTPResponseException) -> MailRefused | MailUnavailable:
    kind = MailRefused if 500 <= error.code < 600 else MailUnavailable
    return kind(reason, error.code, _enhanced(error))


def _about_us(reason: str, error: aiosmtplib.SMTPResponseException) -> MailUnavailable:
    return MailUnavailable(reason, error.code, _enhanced(error))
