"""What identity's post would send: delivered to a list, by the real postman, from the real queue."""

import re
from dataclasses import dataclass, field

from identity.app import Parts
from identity.people.letters import Printer
from identity.people.post import Postman
from servicekit.mail import Mail

_LINK = re.compile(r"https?://[^/\s]+(/\S+)")


@dataclass
class Mailbox:
    """Everybody's mail. `refuse` is raised instead of taking a mail, if there is any."""

    mails: list[Mail] = field(default_factory=list)
    refuse: Exception | None = None

    async def send(self, mail: Mail) -> None:
        """Takes it."""
        if self.refuse is not None:
            raise self.refuse
        self.mails.append(mail)

    async def empty(self, parts: Parts) -> list[Mail]:
        """What has come since the last time."""
        postman = Postman(parts.database, parts.people.post, Printer(parts.settings.issuer), self)
        while await postman.deliver_one():
            pass
        came, self.mails = self.mails, []
        return came


def link_in(mail: Mail) -> str:
    """The path of the mail's link, which stands alike in both of its forms."""
    found = _LINK.search(mail.text)
    assert found is not None, mail.subject
    assert found[0] in mail.html.replace("&amp;", "&")
    return found[1]
