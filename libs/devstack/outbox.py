"""The mail that the embedded system would have sent: it lies in a folder, and this shows it."""

from dataclasses import dataclass
from datetime import datetime
from email import message_from_bytes
from email.policy import default
from pathlib import Path

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

FOLDER = "outbox"  # in the stack's own


@dataclass(frozen=True, slots=True)
class Letter:
    """One mail as it would have arrived."""

    to: str
    subject: str
    at: datetime
    text: str


def letters(folder: Path) -> list[Letter]:
    """Every mail in `folder`, newest first; none where there is no such folder."""
    # Names begin with the moment, so they sort as the mails were written.
    return [_read(file) for file in sorted(folder.glob("*.eml"), reverse=True)]


def _read(file: Path) -> Letter:
    message = message_from_bytes(file.read_bytes(), policy=default)
    body = message.get_body(("plain",))
    text = "" if body is None else str(body.get_content())
    return Letter(str(message["To"]), str(message["Subject"]), message["Date"].datetime, text.strip())


def show(console: Console, found: list[Letter], number: int | None) -> bool:
    """Prints the list, or with `number` (1 is the newest) that one; whether there was anything to print."""
    if number is None:
        if not found:
            console.print("No mail yet. Place an order, or sign in, while `make run` is up.")
            return False
        table = Table(box=None, header_style="bold")
        for name in ("#", "when", "to", "subject"):
            table.add_column(name, justify="right" if name == "#" else "left")
        for place, letter in enumerate(found, start=1):
            moment = letter.at.astimezone().strftime("%H:%M:%S")
            table.add_row(str(place), moment, Text(letter.to), Text(letter.subject))
        console.print(table)
        console.print("\n[dim]One of them: make mail N=1[/dim]")
        return True
    if not 1 <= number <= len(found):
        console.print(f"There is no mail {number}: {len(found)} in the outbox.")
        return False
    letter = found[number - 1]
    head = Text.assemble(("to ", "dim"), letter.to, ("   at ", "dim"), f"{letter.at.astimezone():%Y-%m-%d %H:%M:%S}")
    console.print(
        Panel(Group(head, Text(), Text(letter.text)), title=Text(letter.subject), title_align="left", width=88)
    )
    return True
