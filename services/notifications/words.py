"""What people are told, in plain words: one function for each type of event.

What a stranger can write is never repeated, only recognised (a browser's name of itself, above all): it could tell
people to ring a number or to open a link, in our name.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from contracts.identity.v1 import events_pb2 as security
from contracts.orders.v1 import events_pb2 as orders
from notifications.domain import Kind, Mailing, Person, Told, person_of

Words = Callable[[Any], Told]  # raises NotAPerson

_MOST_LINES = 5  # of an order that are named
_CLIENT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
_TRACKING = re.compile(r"[A-Za-z0-9 ./-]{1,64}")
_UNPRINTABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_BROWSERS = ("Firefox", "Edg", "OPR", "Chrome", "Safari")  # Edge and Opera say Chrome as well, Chrome says Safari
_BROWSER_NAMES = {"Edg": "Edge", "OPR": "Opera"}
_SYSTEMS = ("Android", "iPhone", "iPad", "Windows", "Mac OS X", "Linux")
# Currencies that do not have two digits behind the point (ISO 4217).
_NO_DIGITS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_THREE_DIGITS = "BHD IQD JOD KWD LYD OMR TND"
_DIGITS = {currency: digits for digits, listed in ((0, _NO_DIGITS), (3, _THREE_DIGITS)) for currency in listed.split()}


def whose(message: Any) -> Person:
    """Whom an event is about.

    Raises:
        NotAPerson: nobody who has an inbox.
    """
    return person_of(message.owner if "owner" in message.DESCRIPTOR.fields_by_name else message.subject)


def _told(message: Any, kind: Kind, title: str, body: str, about: str = "", mailing: Mailing | None = None) -> Told:
    return Told(whose(message), kind, title, body, about if _ID.fullmatch(about) else "", mailing or kind.mailing)


def _placed(message: orders.OrderPlaced) -> Told:
    lines = [f"{line.quantity} × {_plain(line.name or line.sku)}" for line in message.lines[:_MOST_LINES]]
    if len(message.lines) > _MOST_LINES:
        lines.append(f"and {len(message.lines) - _MOST_LINES} more")
    if message.HasField("total"):
        lines.append(f"Total: {_money(message.total.minor_units, message.total.currency)}")
    body = "\n".join(lines) or "We have it, and tell you when it goes on."
    return _told(message, Kind.ORDER_PLACED, "We have your order", body, message.order_id)


def _confirmed(message: orders.OrderConfirmed) -> Told:
    return _told(
        message, Kind.ORDER_CONFIRMED, "Your order is confirmed", "What you ordered is set aside.", message.order_id
    )


def _shipped(message: orders.OrderShipped) -> Told:
    number = message.tracking_number
    body = f"Tracking number: {number}" if _TRACKING.fullmatch(number) else "It is with the carrier now."
    return _told(message, Kind.ORDER_SHIPPED, "Your order is on its way", body, message.order_id)


def _delivered(message: orders.OrderDelivered) -> Told:
    return _told(message, Kind.ORDER_DELIVERED, "Your order has arrived", "We hope you like it.", message.order_id)


def _cancelled(message: orders.OrderCancelled) -> Told:
    own = message.cancelled_by == message.owner
    body = "You cancelled it." if own else "It will not be carried out. Nothing more is needed from you."
    return _told(message, Kind.ORDER_CANCELLED, "Your order is cancelled", body, message.order_id)


def _signed_in(message: security.SignedIn) -> Told:
    where = f"From {_address(message.remote_address)}, with {_device(message.user_agent)}."
    return _told(
        message, Kind.SIGNED_IN, "There was a new sign-in to your account", f"{where}{_through(message.client_id)}",
        message.session_id,
    )  # fmt: skip


def _password_changed(message: security.PasswordChanged) -> Told:
    body = "What was signed in before is signed out."
    return _told(message, Kind.PASSWORD_CHANGED, "Your password was changed", body, message.session_id)


def _refresh_reused(message: security.RefreshTokenReused) -> Told:
    body = (
        f"{_client(message.client_id)} used a key to your account that had been used up. Somebody may have copied it, "
        "so that access is ended: sign in there again."
    )
    return _told(message, Kind.REFRESH_REUSED, "We ended an access to your account", body, message.grant_id)


def _sessions_ended(message: security.SessionsEnded) -> Told:
    own = message.ended_by == message.subject
    count = len(message.session_ids)
    what = "You were signed out everywhere" if count == 0 else "You were signed out"
    body = f"{count} sessions ended." if count > 1 else "The session ended." if count else "All sessions ended."
    if not own:
        body += " It was not done from your account."
    # The mail about the password says it, a disabled account gets none, and who has just signed out knows it. All
    # sessions at once is another matter: somebody else in the account could have done it.
    signed_out = own and count > 0 and message.cause == "SIGNED_OUT"
    unsaid = signed_out or message.cause in ("PASSWORD_CHANGED", "ACCOUNT_DISABLED")
    mailing = Mailing.NEVER if unsaid else None
    about = message.session_ids[0] if count == 1 else ""
    return _told(message, Kind.SESSIONS_ENDED, what, body, about, mailing)


def _grant_given(message: security.GrantGiven) -> Told:
    body = f"{_client(message.client_id)} may now: {', '.join(_plain(scope) for scope in message.scopes[:20])}."
    if not message.scopes:
        body = f"{_client(message.client_id)} can now reach your account."
    return _told(message, Kind.GRANT_GIVEN, "You gave an app access to your account", body, message.grant_id)


def _grant_withdrawn(message: security.GrantWithdrawn) -> Told:
    body = f"{_client(message.client_id)} can no longer reach your account."
    return _told(message, Kind.GRANT_WITHDRAWN, "An app's access to your account has ended", body, message.grant_id)


def _disabled(message: security.AccountDisabled) -> Told:
    return _told(message, Kind.ACCOUNT_DISABLED, "Your account was disabled", "Nobody can sign in to it.")


def _enabled(message: security.AccountEnabled) -> Told:
    return _told(message, Kind.ACCOUNT_ENABLED, "Your account can be used again", "Sign in as before.")


ORDERS: Mapping[type[Message], Words] = {
    orders.OrderPlaced: _placed,
    orders.OrderConfirmed: _confirmed,
    orders.OrderShipped: _shipped,
    orders.OrderDelivered: _delivered,
    orders.OrderCancelled: _cancelled,
}
SECURITY: Mapping[type[Message], Words] = {
    security.SignedIn: _signed_in,
    security.PasswordChanged: _password_changed,
    security.RefreshTokenReused: _refresh_reused,
    security.SessionsEnded: _sessions_ended,
    security.GrantGiven: _grant_given,
    security.GrantWithdrawn: _grant_withdrawn,
    security.AccountDisabled: _disabled,
    security.AccountEnabled: _enabled,
}


def _address(remote: str) -> str:
    try:
        return str(ipaddress.ip_address(remote))
    except ValueError:
        return "an unknown address"


def _device(user_agent: str) -> str:
    browser = next((name for name in _BROWSERS if name in user_agent), "")
    system = next((name for name in _SYSTEMS if name in user_agent), "")
    if not browser:
        return "an app or an unknown browser"
    name = _BROWSER_NAMES.get(browser, browser)
    return f"{name} on {system.removesuffix(' OS X')}" if system else name


def _client(client_id: str) -> str:
    return f"The app “{client_id}”" if _CLIENT.fullmatch(client_id) else "An app"


def _through(client_id: str) -> str:
    return f" {_client(client_id)} asked for it." if client_id else ""


def _plain(text: str) -> str:
    return _UNPRINTABLE.sub(" ", text).strip()[:80]


def _money(minor_units: int, currency: str) -> str:
    digits = _DIGITS.get(currency, 2)
    whole, rest = divmod(abs(minor_units), 10**digits)
    sign = "-" if minor_units < 0 else ""
    return f"{sign}{whole}{f'.{rest:0{digits}}' if digits else ''} {_plain(currency)}"
