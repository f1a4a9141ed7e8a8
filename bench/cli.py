"""The one command: runs sections, shows them, and writes the page when all of them ran."""

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from bench import asking, catching_up, flowing, hopping, living, memory, pushing, streams, verifying
from bench.figures import FULL, TINY, Figure, Say, Scale
from bench.report import markdown, table
from bench.system import System, running_system

PAGE = Path("docs/benchmarks.md")
COMMAND = "make bench"
ALONE: Mapping[str, Callable[[Scale, Say], Awaitable[list[Figure]]]] = {
    "verify": verifying.verify,
    "entries": verifying.entries,
    "memory": memory.memory,
}
# In this order: each one leaves revocations behind, the last one tens of thousands.
ON_SYSTEM: Mapping[str, Callable[[System, Scale, Say], Awaitable[list[Figure]]]] = {
    "push": pushing.push,
    "streams": streams.streams,
    "asking": asking.asking,
    "events": flowing.events,
    "bff": hopping.bff,
    "live": living.live,
    "catchup": catching_up.catchup,
}
SECTIONS = [*ALONE, *ON_SYSTEM]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(width=None if os.isatty(1) else 160)


@app.command()
def main(
    sections: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(SECTIONS)}; all if none is named.")
    ] = None,
    tiny: Annotated[bool, typer.Option(help="Only see that everything runs: too small to mean anything.")] = False,
    live_seconds: Annotated[
        int, typer.Option(min=2, help="How long the live streams of the section `live` get events.")
    ] = FULL.live_seconds,
    page: Annotated[Path | None, typer.Option(help="Where the page is written.")] = None,
) -> None:
    """Measures, prints the table, and writes docs/benchmarks.md if every section ran."""
    wanted = sections or SECTIONS
    unknown = [name for name in wanted if name not in SECTIONS]
    if unknown:
        console.print(f"[red]no section {', '.join(unknown)}: there are {', '.join(SECTIONS)}[/red]")
        raise typer.Exit(2)
    load, started = os.getloadavg()[0], time.monotonic()
    scale = TINY if tiny else replace(FULL, live_seconds=live_seconds)
    found = uvloop.run(measured(wanted, scale))
    console.print(table(found))
    if page is None and not tiny and set(wanted) == set(SECTIONS):
        page = PAGE
    if page is not None:
        page.write_text(markdown(found, COMMAND, load, time.monotonic() - started))
        console.print(f"written to {page}")


async def measured(wanted: Sequence[str], scale: Scale) -> dict[str, Sequence[Figure]]:
    """The figures of each section that is wanted."""
    found: dict[str, Sequence[Figure]] = {}
    with console.status("") as status:
        for name, section in ALONE.items():
            if name in wanted:
                found[name] = await section(scale, lambda what, name=name: status.update(f"{name}: {what}"))  # type: ignore[misc]
                console.print(f"  [green]✓[/green] {name}")
        if any(name in wanted for name in ON_SYSTEM):
            status.update("starting Valkey, identity and orders")
            async with running_system() as system:
                for name, section_on in ON_SYSTEM.items():
                    if name in wanted:
                        found[name] = await section_on(
                            system,
                            scale,
                            lambda what, name=name: status.update(f"{name}: {what}"),  # type: ignore[misc]
                        )
                        console.print(f"  [green]✓[/green] {name}")
    return found
