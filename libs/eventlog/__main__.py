"""`python -m eventlog dead-letters list|show|redrive|discard`: for whoever is on duty."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import typer

from eventlog.deadletters import all_letters, described, redrive_all
from eventlog.redis_stream import RedisStream
from eventlog.stream import Group, StreamUnavailable

T = TypeVar("T")
app = typer.Typer(help="Events that were told, and what became of them.", no_args_is_help=True)
letters = typer.Typer(help="Events that a group of readers has given up.", no_args_is_help=True)
app.add_typer(letters, name="dead-letters")

Stream = Annotated[str, typer.Option(help="The stream: orders.events, identity.events.")]
Readers = Annotated[str, typer.Option("--group", help="The group that gave up.")]
Url = Annotated[str, typer.Option("--redis-url", envvar="RESCIND_REDIS_URL", help="Where the stream is.")]
Ids = Annotated[list[str] | None, typer.Argument(help="As `list` shows them.")]
HERE = "redis://localhost:6379/0"


def _at(url: str, stream: str, group: str, work: Callable[[Group], Awaitable[T]]) -> T:
    async def run() -> T:
        try:
            redis = RedisStream(url, stream)
        except ValueError:  # its text may hold half of a password
            raise typer.BadParameter("not a URL of a Redis", param_hint="--redis-url") from None
        try:
            return await work(redis.group(group))
        finally:
            await redis.aclose()

    try:
        return asyncio.run(run())
    except StreamUnavailable as error:
        typer.echo(f"no stream: {error}", err=True)
        raise typer.Exit(1) from error


@letters.command("list")
def show_list(stream: Stream = "orders.events", group: Readers = "notifications", redis_url: Url = HERE) -> None:
    """One line each, oldest first."""

    async def work(readers: Group) -> int:
        count = 0
        async for letter in all_letters(readers):
            known = described(letter)
            when = datetime.fromtimestamp(letter.buried_at / 1000, UTC).isoformat(timespec="seconds")
            what = f"{known.event.type} of {known.event.aggregate}" if known.event else "unreadable"
            typer.echo(f"{letter.id}  {when}  {letter.reason}  after {letter.attempts}  {what}  {letter.detail}")
            count += 1
        return count

    count = _at(redis_url, stream, group, work)
    typer.echo(f"{count} dead letter{'' if count == 1 else 's'} of {group} on {stream}", err=True)


@letters.command()
def show(
    number: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
    stream: Stream = "orders.events",
    group: Readers = "notifications",
    redis_url: Url = HERE,
) -> None:
    """All that is known of one, as JSON."""

    async def work(readers: Group) -> dict[str, object] | None:
        async for letter in all_letters(readers):
            if letter.id == number:
                known = described(letter)
                event = known.event
                return {
                    "id": letter.id,
                    "position": letter.position,
                    "reason": letter.reason,
                    "detail": letter.detail,
                    "attempts": letter.attempts,
                    "event": event
                    and {
                        "id": event.id,
                        "type": event.type,
                        "version": event.version,
                        "aggregate": event.aggregate,
                        "sequence": event.sequence,
                        "occurred_at": event.occurred_at,
                        "traceparent": event.traceparent,
                    },
                    "content": known.content,
                    "bytes": letter.payload.hex() if known.content is None else None,
                }
        return None

    found = _at(redis_url, stream, group, work)
    if found is None:
        typer.echo(f"there is no dead letter {number}", err=True)
        raise typer.Exit(1)
    typer.echo(json.dumps(found, indent=2))


@letters.command()
def redrive(
    ids: Ids = None,
    everything: Annotated[bool, typer.Option("--all", help="All there are.")] = False,
    stream: Stream = "orders.events",
    group: Readers = "notifications",
    redis_url: Url = HERE,
) -> None:
    """Delivers them again, to this group alone. One that had its effect after all has it only once."""
    wanted = _wanted(ids, everything)
    moved = _at(redis_url, stream, group, lambda readers: readers.redrive(wanted) if wanted else redrive_all(readers))
    _report(moved, len(wanted), "delivered again")


@letters.command()
def discard(
    ids: Annotated[list[str], typer.Argument(help="As `list` shows them.")],
    stream: Stream = "orders.events",
    group: Readers = "notifications",
    redis_url: Url = HERE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Drops them for good: this group will never have handled them."""
    if not yes:
        typer.confirm(f"Drop {len(ids)} for good?", abort=True)
    _report(_at(redis_url, stream, group, lambda readers: readers.discard(ids)), len(ids), "dropped")


def _wanted(ids: list[str] | None, everything: bool) -> list[str]:
    if bool(ids) == everything:
        raise typer.BadParameter("name them, or say --all")
    return ids or []


def _report(done: int, wanted: int, what: str) -> None:
    typer.echo(f"{done} {what}")
    if done < wanted:
        typer.echo(f"{wanted - done} of those named are no dead letters", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
