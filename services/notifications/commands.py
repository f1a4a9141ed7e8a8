"""For whoever is on duty: events that could not be told, and mails that could not be sent."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import typer
from sqlalchemy import Connection

from eventlog.__main__ import letters
from notifications import mail_queue
from notifications.domain import NotificationId
from notifications.settings import Settings
from servicekit.database import Database
from servicekit.errors import ServiceError
from servicekit.settings import load

T = TypeVar("T")
_MOST = 1000
app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
mails = typer.Typer(help="Mails that are not sent.", no_args_is_help=True)
app.add_typer(letters, name="dead-letters")
app.add_typer(mails, name="mails")


@mails.command("list")
def show_list() -> None:
    """One line each, oldest first: those that wait, and those that were given up, with the reason. No address."""
    found = _in_database(lambda tx, _: mail_queue.unsent(tx, _MOST))
    for mail in found:
        since = datetime.fromtimestamp(mail.queued_at / 1000, UTC).isoformat(timespec="seconds")
        typer.echo(
            f"{mail.notification}  {since}  {mail.state.value}  {mail.reason or '-'}  after {mail.attempts}  "
            f"to {mail.person}"
        )
    typer.echo(f"{len(found)} not sent", err=True)


@mails.command()
def again(ids: Annotated[list[str], typer.Argument(help="As `list` shows them.")]) -> None:
    """Tries mails that were given up once more, for another day."""

    def work(tx: Connection, at: int) -> int:
        return sum(mail_queue.queue_again(tx, NotificationId(each), at=at) for each in ids)

    done = _in_database(work)
    typer.echo(f"{done} queued")
    if done < len(ids):
        typer.echo(f"{len(ids) - done} of those named were not given up", err=True)
        raise typer.Exit(1)


def _in_database(work: Callable[[Connection, int], T]) -> T:
    database = Database(load(Settings).database_url.get_secret_value(), pool_size=1)
    try:
        return database.run_sync(lambda tx: work(tx, database.now(tx)))
    except ServiceError as error:
        typer.echo(f"no database: {error.reason}", err=True)
        raise typer.Exit(1) from error
    finally:
        database.engine.dispose()
