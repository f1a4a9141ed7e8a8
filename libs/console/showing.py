"""Tables and lines for people. Nothing here is ever a whole token."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from console.listening import Notice
from console.reading import EXPLAINED, Reading, in_words, plain
from contracts.identity.v1 import administration_pb2, keys_pb2, revocations_pb2
from rescind.messages import RevocationMessage

_FRESHNESS = {0: "unknown", 1: "[yellow]SYNCING[/]", 2: "[green]FRESH[/]", 3: "[red]STALE[/]"}
_NOTICES = {
    "unreadable": "Redis gave what identity did not sign, or left something out:",
    "new_log": "A new log has begun; nothing of the one before is accepted:",
    "stale": "Neither Redis nor identity tells anything: what is revoked now is not seen here.",
    "fresh": "Everything is seen again.",
}
_KEYS = {0: "unknown", 1: "prepared", 2: "[green]active[/]", 3: "retired", 4: "[red]revoked[/]"}


def moment(ms: int) -> str:
    """A time in ms, in UTC; a dash for none."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}" if ms else "–"


def table(*columns: str) -> Table:
    """A table without a frame."""
    return Table(*columns, box=None, pad_edge=False, header_style="bold", show_edge=False)


def token(out: Console, reading: Reading) -> None:
    """What a token says, claim by claim."""
    for title, members in (("Header", reading.header), ("Claims", reading.claims)):
        shown = table(title, "", "")
        for name, value in members.items():
            shown.add_row(escape(plain(name)), escape(in_words(name, value)), f"[dim]{EXPLAINED.get(name, '')}[/dim]")
        out.print(shown)
        out.print()


def revocation(out: Console, message: RevocationMessage) -> None:
    """One line for each entry of a revocation."""
    for entry in message.entries:
        soft = " [yellow]soft[/]" if entry.soft else ""
        generation = f" gen<{entry.gen}" if entry.gen else ""
        out.print(
            f"[bold]{message.pos:>6}[/]  {moment(message.at)}  {escape(message.cause):<20} {entry.kind:<8}"
            f" {escape(entry.id)}{generation}{soft}",
            soft_wrap=True,
            highlight=False,
        )


def notice(out: Console, told: Notice) -> None:
    """One line about the log itself."""
    out.print(f"[yellow]![/yellow] {_NOTICES[told.kind]} {escape(told.detail)}".rstrip(), highlight=False)


def receipts(out: Console, told: revocations_pb2.Receipts) -> None:
    """Who has applied a position, and who has not."""
    everybody = len(told.applied) + len(told.outstanding)
    if not everybody:
        out.print("No verifier has reported.")
        return
    slowest = max((one.delay_ms for one in told.applied if one.HasField("delay_ms")), default=None)
    tail = "" if slowest is None else f", the slowest after {slowest:.1f} ms"
    out.print(f"Applied by {len(told.applied)} of {everybody} verifiers{tail}.")
    for verifier in told.outstanding:
        out.print(f"  not by {escape(verifier.audience)} at {escape(verifier.instance)} (position {verifier.position})")


def status(out: Console, answer: revocations_pb2.GetStatusResponse, now: float) -> None:
    """Where the log stands, and who is how far. `now` in seconds."""
    shown = table("Log", "Head", "Floor", "Keys")
    shown.add_row(answer.log, str(answer.head), str(answer.floor), "\n".join(answer.kids))
    out.print(shown)
    out.print()
    if not answer.verifiers:
        out.print("No verifier has reported.")
        return
    shown = table("Verifier", "Where", "Freshness", "Position", "Behind", "Reported")
    for verifier in answer.verifiers:
        behind = answer.head - verifier.position if verifier.log == answer.log else -1
        shown.add_row(
            escape(verifier.audience),
            escape(verifier.instance),
            _FRESHNESS.get(verifier.freshness, "unknown"),
            str(verifier.position),
            "another log" if behind < 0 else str(behind),
            f"{max(0.0, now - verifier.reported_at / 1000):.1f} s ago",
        )
    out.print(shown)


def keys(out: Console, listed: Iterable[keys_pb2.Key]) -> None:
    """The keys that sign access tokens."""
    shown = table("Key", "State", "Made")
    for key in listed:
        shown.add_row(key.kid, _KEYS.get(key.status, "unknown"), moment(key.created_at))
    out.print(shown)


def users(out: Console, listed: Iterable[administration_pb2.User]) -> None:
    """People."""
    shown = table("Subject", "Address", "Name", "Roles", "Since", "State")
    for user in listed:
        state = "[red]off[/]" if user.disabled_at else "" if user.email_verified_at else "address not confirmed"
        cells = (user.subject, user.email, user.name, " ".join(user.roles))
        shown.add_row(*map(escape, cells), moment(user.created_at), state)
    out.print(shown)


def clients(out: Console, listed: Iterable[administration_pb2.Client]) -> None:
    """Clients."""
    shown = table("Client", "Name", "Kind", "Grants", "State")
    for client in listed:
        kind = ("confidential" if client.confidential else "public") + (", ours" if client.first_party else "")
        grants = ", ".join(grant.rpartition(":")[2] for grant in client.grant_types)
        shown.add_row(
            escape(client.client_id),
            escape(client.name),
            kind,
            escape(grants),
            "[red]off[/]" if client.disabled_at else "on",
        )
    out.print(shown)


def audit(out: Console, listed: Iterable[Any]) -> None:
    """What administrators did."""
    shown = table("When", "Who", "What", "Whom", "More")
    for record in listed:
        more = ", ".join(f"{name}: {value}" for name, value in sorted(record.details.items()))
        shown.add_row(moment(record.at), escape(record.by), escape(record.action), escape(record.target), escape(more))
    out.print(shown)
