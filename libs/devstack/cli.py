"""The two commands: run everything and stay up; tell the story and end."""

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from devstack.compose import Compose
from devstack.control import RunningStack, controlled
from devstack.flow import FlowFailed
from devstack.outbox import FOLDER as OUTBOX
from devstack.outbox import letters, show
from devstack.seeds import ADMIN, ALICE, BOB, PASSWORD
from devstack.stack import Ports, Stack
from devstack.story import ACTS, Unexpected, opened, table
from devstack.target import Addresses, StackError, Target

# The data of `run`. They are of the addresses that they were made for (issuer, redirect URIs): what runs at free ports
# begins anew each time, in a folder of its own.
KEPT = Path(".rescind/run")
ANEW = Path(".rescind/free")
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
# In a pipe there is no width to ask for; the table needs this much.
console = Console(width=None if sys.stdout.isatty() else 132)
_COLOURS = {"redis": "magenta", "identity": "cyan", "orders": "yellow", "notifications": "green", "session": "blue"}


class Where(StrEnum):
    """Which stack the story is told against."""

    auto = "auto"
    embedded = "embedded"
    compose = "compose"


@app.command()
def run(
    quiet: Annotated[bool, typer.Option(help="Do not show the services' logs.")] = False,
    free_ports: Annotated[
        bool, typer.Option(help="Take ports that are free, not the documented ones, and begin without data.")
    ] = False,
) -> None:
    """Starts the whole system on this machine and keeps it up until Ctrl-C."""
    try:
        asyncio.run(_run(quiet, ANEW, Ports.free()) if free_ports else _run(quiet, KEPT, Ports.fixed()))
    except StackError as error:
        console.print(f"[red]{escape(str(error))}[/red]")
        raise typer.Exit(1) from None


@app.command()
def demo(target: Annotated[Where, typer.Option(help="Where to tell the story.")] = Where.auto) -> None:
    """Tells the story and exits non-zero if a step does not go as it should."""
    try:
        asyncio.run(_demo(target))
    except (StackError, Unexpected, FlowFailed) as error:
        console.print(f"[red]✗ {escape(str(error))}[/red]")
        raise typer.Exit(1) from None


@app.command()
def mail(number: Annotated[int | None, typer.Argument(help="Which one; 1 is the newest.")] = None) -> None:
    """Shows the mail that the embedded system has sent to nobody but you."""
    folder = ANEW if asyncio.run(RunningStack.found(ANEW)) else KEPT
    if not show(console, letters(folder / OUTBOX), number) and number is not None:
        raise typer.Exit(1)


async def _run(quiet: bool, folder: Path, ports: Ports) -> None:
    if folder == ANEW:
        if await RunningStack.found(ANEW):
            raise StackError("a stack at free ports runs here already")
        shutil.rmtree(ANEW, ignore_errors=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    started = time.monotonic()
    with console.status("starting Valkey and the services"):
        stack = Stack(folder, ports, lambda *_: None if quiet else _show(*_))
        await stack.__aenter__()
    try:
        async with controlled(stack, folder):
            _welcome(time.monotonic() - started, stack.addresses, stack.redis_url)
            ended = asyncio.create_task(stack.watch())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            ended.cancel()
            if not stop.is_set():
                raise StackError(ended.result())
    finally:
        with console.status("stopping"):
            await stack.stop()


def _welcome(seconds: float, at: Addresses, redis_url: str) -> None:
    console.print(f"[bold]Rescind is up[/bold] after {seconds:.1f} s. Ctrl-C stops it.\n")
    if at.session:
        console.print(f"  [bold]open this    {at.session}[/bold]\n")
    console.print(f"  sign in      {at.issuer}/login   (then your account: change password, sign out)")
    console.print(f"  people       {ALICE}  {BOB}  {ADMIN}   password: {PASSWORD}")
    console.print(f"  orders       {at.orders}/docs    gRPC {at.orders_grpc}")
    if at.notifications:
        console.print(f"  notified     {at.notifications}/docs    gRPC {at.notifications_grpc}    mail: make mail")
    console.print(f"  revocations  {redis_url}    (for a service of your own: libs/rescind/README.md)")
    console.print(f"  discovery    {at.issuer}/.well-known/openid-configuration")
    console.print("  the story    make demo   (in another terminal; it breaks this stack on purpose, and mends it)\n")


def _show(name: str, line: str) -> None:
    colour = _COLOURS.get(name, "white")
    with contextlib.suppress(ValueError):
        fields = json.loads(line)
        if isinstance(fields, dict) and "event" in fields:
            if fields.get("route") in _ROUTINE or fields.get("method") in _ROUTINE:
                return
            shown = {k: v for k, v in fields.items() if k not in _HIDDEN and v is not None}
            rest = " ".join(f"{key}={value}" for key, value in shown.items())
            clock = str(fields.get("timestamp", ""))[11:23]
            line = f"{clock} {fields['event']} {rest}"
    console.print(f"[{colour}]{name:>13}[/{colour}] {escape(line)}", soft_wrap=True, highlight=False)


# Every second or so, from every process: nothing else could be read.
_ROUTINE = {"/readyz", "/livez", "/contracts.identity.v1.RevocationsService/Report"}
_HIDDEN = {"event", "timestamp", "service", "level", "logger", "request_id", "trace_id"}


async def _demo(where: Where) -> None:
    async with _target(where) as target, opened(target) as scene:
        console.print(f"Telling the story against the {target.name} stack at {target.addresses.issuer}\n")
        scene.on_step = lambda step: console.print(f"  [green]✓[/green] {escape(step.what)}", highlight=False)
        started = time.monotonic()
        try:
            for act in ACTS:
                with console.status(str(act.__doc__).splitlines()[0]):
                    await act(scene)
        finally:
            console.print()
            console.print(table(scene.steps))
        console.print(
            "ms: from the acknowledged revocation to the refusal seen on both wires, calling in a tight loop; or to "
            "the end of a stream; or from what the last column says."
        )
        console.print(f"[bold green]{len(scene.steps)} steps, all as they should be[/bold green], "
                      f"{time.monotonic() - started:.0f} s")  # fmt: skip


@contextlib.asynccontextmanager
async def _target(where: Where) -> AsyncIterator[Target]:
    compose = await Compose.found(Path.cwd()) if where is not Where.embedded else None
    if compose is not None:
        yield compose
        return
    if where is Where.compose:
        raise StackError("no compose stack runs here: `make up` first")
    for of_run in (KEPT, ANEW) if where is Where.auto else ():
        held = await RunningStack.found(of_run)
        if held is not None:
            yield held
            return
    with tempfile.TemporaryDirectory(prefix="rescind-") as folder:
        lines: list[str] = []
        with console.status("starting Valkey and the services"):
            stack = Stack(Path(folder), Ports.free(), lambda name, line: lines.append(f"{name}: {line}"))
            await stack.__aenter__()
        try:
            yield stack
        except (StackError, Unexpected, FlowFailed):
            console.print("[dim]" + escape("\n".join(lines[-15:])) + "[/dim]")
            raise
        finally:
            await stack.stop()
