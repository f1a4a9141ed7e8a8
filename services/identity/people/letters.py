"""What identity's mails say: a subject, a few sentences, perhaps one link. Text and HTML are made of the same words.

None repeats a secret that is not its own link, and none says more about an account than its address's owner may know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from jinja2 import Environment, PackageLoader, StrictUndefined

from servicekit.mail import Mail


@dataclass(frozen=True, slots=True)
class Letter:
    """`lines` and `path` are filled in with what the mail is about; `path` begins behind the issuer."""

    subject: str
    lines: Sequence[str]
    path: str = ""
    action: str = ""
    after: Sequence[str] = ()


_NOT_YOU = "If that was not you, you need do nothing: without this link nothing happens."
LETTERS: Mapping[str, Letter] = MappingProxyType(
    {
        "signup": Letter(
            "Create your Rescind account",
            ("Somebody, hopefully you, wants to create an account with this address. The link works once, for a day.",),
            "/signup/finish?link={link}",
            "Create the account",
            (_NOT_YOU,),
        ),
        "known": Letter(
            "You have a Rescind account",
            (
                "Somebody, hopefully you, wanted to create an account with this address. There is one: simply sign in.",
                "If you do not know the password any more, choose a new one. The link works once, for an hour.",
            ),
            "/reset/finish?link={link}",
            "Choose a new password",
            (_NOT_YOU,),
        ),
        "reset": Letter(
            "Choose a new password",
            (
                "Somebody, hopefully you, wants to reset the password of your account.",
                "The link works once, for an hour.",
            ),
            "/reset/finish?link={link}",
            "Choose a new password",
            (_NOT_YOU + " Your password is still the one it was.",),
        ),
        "nobody": Letter(
            "No account with this address",
            (
                "Somebody, hopefully you, wants to reset the password of an account with this address. There is none.",
                "Perhaps you have one with another address; or create one. The link works once, for a day.",
            ),
            "/signup/finish?link={link}",
            "Create an account",
            (_NOT_YOU,),
        ),
        "disabled": Letter(
            "Your Rescind account is switched off",
            (
                "Somebody, hopefully you, asked for a link to your account. The account is switched off.",
                "Whoever runs this system can switch it on again.",
            ),
        ),
        "verify": Letter(
            "Confirm your address",
            ("Confirm that this address is the one of your account. The link works once, for a day.",),
            "/verify?link={link}",
            "Confirm the address",
            (_NOT_YOU,),
        ),
        "vouch": Letter(
            "Connect {provider} to your account",
            (
                "Somebody, hopefully you, signed in with {provider} and this address.",
                "Confirm that both are yours, and you can sign in that way from now on.",
                "The link works once, for an hour.",
            ),
            "/vouch?link={link}",
            "Connect {provider}",
            (_NOT_YOU,),
        ),
        "changed": Letter(
            "Your password was changed",
            (
                "The password of your account was changed, by a link that was sent to this address.",
                "Everything that was signed in is signed out.",
                "If that was not you, somebody else reads your mail: change that password first, then this one.",
            ),
            "/reset",
            "Reset the password",
        ),
        "new_device": Letter(
            "A sign-in from a new device",
            (
                "Somebody signed in to your account from a browser that has not been used for it before: {browser}.",
                "If that was you, all is well. If not, change your password: that signs out everybody, at once.",
            ),
            "/account",
            "Look at your account",
        ),
    }
)


@cache  # a template is compiled once in a process
def _templates() -> tuple[Environment, Environment]:
    """For text and for HTML: a `<` is a `<` in text, and none of its business in HTML."""
    loader = PackageLoader("identity")
    text = Environment(  # noqa: S701  (plain text has no markup to escape into)
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return text, Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


class Printer:
    """Makes mails of letters."""

    def __init__(self, issuer: str) -> None:
        """`issuer`: where the links lead."""
        self._issuer = issuer
        self._text, self._html = _templates()

    def mail(self, letter: str, to: str, about: Mapping[str, str], mail_id: str) -> Mail:
        """The mail that says `letter`, filled in with `about`.

        Raises:
            MailRefused: the address is none.
        """
        words = LETTERS[letter]

        def filled(text: str) -> str:
            return text.format_map(about)

        shown = {
            "subject": filled(words.subject),
            "lines": [filled(line) for line in words.lines],
            "after": [filled(line) for line in words.after],
            "link": f"{self._issuer}{filled(words.path)}" if words.path else "",
            "action": filled(words.action),
        }
        return Mail(
            to=to,
            subject=shown["subject"],  # type: ignore[arg-type]  # a string, as made above
            text=self._text.get_template("mail.txt").render(shown),
            html=self._html.get_template("mail.html").render(shown),
            message_id=f"{mail_id}@identity",
        )
