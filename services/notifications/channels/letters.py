"""Writes the mail about a notification, as text and as HTML that say the same."""

import re
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from notifications.channels.contacts import Contact
from notifications.domain import Category, Kind, Notification, message_id
from servicekit.mail import Mail

TEMPLATES = Path(__file__).parents[1] / "templates"
_LONGEST_NAME = 60
_SPACES = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# After these, somebody who did nothing should do something.
_SUSPICIOUS = frozenset({Kind.SIGNED_IN, Kind.PASSWORD_CHANGED, Kind.REFRESH_REUSED, Kind.GRANT_GIVEN})


class Letters:
    """The templates, read once. `app_url` is where people see their inbox and change what they are mailed."""

    def __init__(self, app_url: str) -> None:
        environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self._text = environment.get_template("notification.txt")
        self._html = environment.get_template("notification.html")
        self._app_url = app_url

    def write(self, notification: Notification, contact: Contact) -> Mail:
        """The mail, the same for every attempt.

        Raises:
            MailRefused: the address is none.
        """
        values = {
            "name": _one_line(contact.name)[:_LONGEST_NAME],
            "title": notification.title,
            "lines": notification.body.split("\n"),
            "when": _when(notification.created_at),
            "security": notification.category is Category.SECURITY,
            "suspicious": notification.kind in {kind.value for kind in _SUSPICIOUS},
            "app_url": self._app_url,
        }
        return Mail(
            to=contact.email,
            subject=_one_line(notification.title),
            text=self._text.render(values),
            html=self._html.render(values),
            message_id=message_id(notification.id),
        )


def _one_line(text: str) -> str:
    return _SPACES.sub(" ", text).strip()


def _when(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"
