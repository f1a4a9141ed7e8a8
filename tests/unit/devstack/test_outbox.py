"""`make mail`: what the embedded system would have sent, newest first, and nothing in it is markup."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from devstack.outbox import letters, show
from servicekit.mail import FolderMailer, Mail

FIRST = Mail("alice@example.com", "We have your order", "1 × tea [bold]not bold[/bold]", "<p>x</p>", "m1@x")


async def _sent(folder: Path) -> None:
    moments = iter(datetime(2026, 11, 24, 6, tzinfo=UTC) + timedelta(seconds=n) for n in range(9))
    mailer = FolderMailer(folder, "no-reply@example.com", now=lambda: next(moments))
    await mailer.send(FIRST)
    await mailer.send(replace(FIRST, to="bob@example.com", subject="Déjà vu", message_id="m2@x"))


def _shown(folder: Path, number: int | None) -> tuple[bool, str]:
    out = io.StringIO()
    return show(Console(file=out, width=100), letters(folder), number), out.getvalue()


async def test_the_newest_comes_first_and_one_can_be_read(tmp_path: Path) -> None:
    await _sent(tmp_path)
    said, listed = _shown(tmp_path, None)
    assert said
    assert listed.index("Déjà vu") < listed.index("We have your order")
    said, read = _shown(tmp_path, 2)
    assert said
    assert "alice@example.com" in read
    assert "1 × tea [bold]not bold[/bold]" in read


def test_an_empty_outbox_says_how_to_fill_it(tmp_path: Path) -> None:
    assert _shown(tmp_path / "none", None) == (
        False, "No mail yet. Place an order, or sign in, while `make run` is up.\n",
    )  # fmt: skip
    assert _shown(tmp_path, 1)[0] is False
