"""`rescind`: the commands. Each says in its help what it does, and ends with 1 when it did not."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from console import showing
from console.following import Follower
from console.listening import Notice, listener
from console.reading import Unreadable, read, verified
from console.signin import ConsoleError, SignIn
from console.tokens import TokenFile
from console.wire import Identity, opened
from contracts.identity.v1 import accounts_pb2, administration_pb2, keys_pb2, revocations_pb2, tokens_pb2
from rescind.keys import RemoteKeySet, http_fetch
from rescind.messages import Heartbeat, RevocationMessage

app = typer.Typer(
    name="rescind", help="Take tokens back, and see that they are.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip
token_app = typer.Typer(help="Look at tokens.", no_args_is_help=True)
users_app = typer.Typer(help="Look after people.", no_args_is_help=True)
clients_app = typer.Typer(help="Look after clients.", no_args_is_help=True)
keys_app = typer.Typer(help="Look after the keys that sign access tokens.", no_args_is_help=True)
for name, group in (("token", token_app), ("users", users_app), ("clients", clients_app), ("keys", keys_app)):
    app.add_typer(group, name=name)


_FOLDER = Path(typer.get_app_dir("rescind"))


class Kind(StrEnum):
    """What can be taken back."""

    token = "token"  # noqa: S105  (a word)
    session = "session"
    grant = "grant"
    subject = "subject"
    client = "client"
    key = "key"


@dataclass(frozen=True, slots=True)
class Place:
    """Which identity, and as whom."""

    issuer: str
    grpc: str
    sign_in: SignIn
    out: Console

    def show(self, uri: str, code: str, whole: str) -> None:
        """Tells a person how to let this device in."""
        self.out.print(f"Open [bold]{escape(uri)}[/bold] and enter the code [bold]{escape(code)}[/bold]")
        self.out.print(f"or open {escape(whole)}", soft_wrap=True)

    async def sign_in_again(self, max_auth_age: int) -> None:
        """Has the person sign in anew, as identity asks where something is dangerous."""
        self.out.print("This needs a new sign-in: yours is too long ago.")
        await self.sign_in.device(self.show, max_auth_age=max_auth_age)


@app.callback()
def place(
    context: typer.Context,
    issuer: Annotated[str, typer.Option(envvar="RESCIND_ISSUER")] = "http://localhost:8001",
    grpc: Annotated[str, typer.Option(envvar="RESCIND_IDENTITY_GRPC", help="host:port")] = "localhost:9001",
    client_id: Annotated[str, typer.Option(envvar="RESCIND_CLIENT_ID")] = "cli",
    client_secret: Annotated[
        str, typer.Option(envvar="RESCIND_CLIENT_SECRET", help="Act as this client, not as a person.")
    ] = "",
    folder: Annotated[Path, typer.Option(envvar="RESCIND_CONSOLE_FOLDER", help="Where tokens are kept.")] = _FOLDER,
) -> None:
    """Take tokens back, and see that they are."""
    issuer = issuer.rstrip("/")
    sign_in = SignIn(issuer, client_id, client_secret, TokenFile(folder, issuer, client_id))
    # In a pipe there is no width to ask for; ids must not be cut.
    out = Console(width=None if sys.stdout.isatty() else 200)
    context.obj = Place(issuer, grpc, sign_in, out)


@app.command("sign-in")
def sign_in(context: typer.Context) -> None:
    """Sign in with a browser, here or on another device."""
    at = _place(context)
    kept = _run(at, at.sign_in.device(at.show))
    at.out.print(f"[green]Signed in.[/green] You may: {escape(kept.scope)}")
    if "identity:admin" not in kept.scope.split():
        at.out.print("[yellow]You are no administrator: most commands will be refused.[/yellow]")


@app.command("sign-out")
def sign_out(context: typer.Context) -> None:
    """Give the tokens back, and forget them."""
    at = _place(context)
    at.out.print("Signed out." if _run(at, at.sign_in.end()) else "Nobody was signed in here.")


@token_app.command("inspect")
def inspect(
    context: typer.Context,
    ask: Annotated[bool, typer.Option(help="Also ask identity whether it is good right now.")] = False,
) -> None:
    """Take a token apart, explain it, and verify its signature. It is read from standard input, never an argument."""
    at = _place(context)
    text = typer.prompt("Token", hide_input=True) if sys.stdin.isatty() else sys.stdin.read()
    token = text.strip().removeprefix("Bearer ")
    try:
        reading = read(token)
    except Unreadable as error:
        raise _failed(at, str(error)) from None
    showing.token(at.out, reading)
    why = _run(at, verified(token, RemoteKeySet(http_fetch(f"{at.issuer}/jwks.json"))))
    wrong_issuer = reading.claims.get("iss") != at.issuer
    if why or wrong_issuer:
        raise _failed(at, f"Not to be believed: {why or 'it says another issuer'}.")
    at.out.print("[green]✓[/green] The signature is the issuer's.")
    ends = reading.claims.get("exp")
    if isinstance(ends, int) and ends < time.time():
        raise _failed(at, "It has expired.")
    if ask:
        answer = _with(at, lambda to: to.call(to.tokens.Introspect, tokens_pb2.IntrospectRequest(token=token)))
        if not answer.active:
            raise _failed(at, f"It is refused: {answer.reason or 'not active'}.")
        at.out.print("[green]✓[/green] It is good right now.")


@app.command(context_settings={"ignore_unknown_options": True})  # a jti or kid may begin with a dash
def revoke(
    context: typer.Context,
    kind: Kind,
    target: Annotated[str, typer.Argument(help="jti, sid, gid, usr_…, client id or kid")],
    soft: Annotated[bool, typer.Option(help="Only raise the generation: holders refresh and go on.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until every verifier has applied it.")] = False,
    cause: Annotated[str, typer.Option(help="Why, in UPPER_SNAKE.")] = "",
) -> None:
    """Refuse something everywhere, from now on."""
    at = _place(context)
    request = revocations_pb2.RevokeRequest(soft=soft, cause=cause)
    setattr(request, kind.value, target)
    if wait:
        request.wait = revocations_pb2.WAIT_APPLIED
    answer = _with(at, lambda to: to.call(to.revocations.Revoke, request))
    if answer.position:
        at.out.print(f"[green]✓[/green] {kind.value} {escape(target)}: position {answer.position} of {answer.log}")
    elif kind is Kind.key:
        at.out.print(f"[green]✓[/green] key {escape(target)} is accepted nowhere any more")
    else:
        at.out.print("Nothing alive matched: there was nothing to take back.")
    if wait and answer.position:
        showing.receipts(at.out, answer.receipts)


@app.command()
def watch(
    context: typer.Context,
    once: Annotated[bool, typer.Option(help="Show what is alive now, and end.")] = False,
    receipts: Annotated[bool, typer.Option(help="Also tell who has applied each position.")] = False,
    redis_url: Annotated[
        str, typer.Option(envvar="RESCIND_REDIS_URL", help="Listen there; without, identity is asked twice a second.")
    ] = "",
) -> None:
    """Show the revocation log live, each message verified."""
    at = _place(context)
    keys = RemoteKeySet(http_fetch(f"{at.issuer}/revocations/jwks.json"))

    async def show(to: Identity, messages: AsyncIterator[RevocationMessage | Heartbeat | Notice]) -> None:
        async with contextlib.aclosing(messages):  # type: ignore[type-var]  # generators all; the type says less
            async for message in messages:
                if isinstance(message, Notice):
                    showing.notice(at.out, message)
                if not isinstance(message, RevocationMessage):
                    continue
                showing.revocation(at.out, message)
                if receipts:
                    request = revocations_pb2.GetStatusRequest(position=message.pos)
                    showing.receipts(at.out, (await to.call(to.revocations.GetStatus, request)).receipts)

    async def work(to: Identity) -> None:
        follower = Follower(to, keys, at.issuer)
        await show(to, follower.follow(once=once or bool(redis_url)))
        if once or not redis_url:
            return
        async with listener(follower, redis_url) as listening:
            await show(to, listening.listen())

    _with(at, work)


@app.command()
def status(context: typer.Context) -> None:
    """Where the log stands, and how far each verifier is."""
    at = _place(context)
    answer = _with(at, lambda to: to.call(to.revocations.GetStatus, revocations_pb2.GetStatusRequest()))
    showing.status(at.out, answer, time.time())


@app.command()
def audit(context: typer.Context, about: Annotated[str, typer.Option(help="Only what concerns this id.")] = "") -> None:
    """The last things that administrators did."""
    at = _place(context)
    request = administration_pb2.ListAuditRecordsRequest(about=about)
    showing.audit(at.out, _with(at, lambda to: to.call(to.administration.ListAuditRecords, request)).records)


@keys_app.command("list")
def list_keys(context: typer.Context) -> None:
    """Every key there ever was, oldest first."""
    at = _place(context)
    showing.keys(at.out, _with(at, lambda to: to.call(to.keys.ListKeys, keys_pb2.ListKeysRequest())).keys)


@keys_app.command("rotate")
def rotate_keys(context: typer.Context) -> None:
    """Let the prepared key sign from now on. Nothing is refused for it."""
    at = _place(context)
    answer = _with(at, lambda to: to.call(to.keys.RotateKeys, keys_pb2.RotateKeysRequest()))
    at.out.print(f"[green]✓[/green] {answer.active_kid} signs from now on")


@users_app.command("list")
def list_users(
    context: typer.Context, search: Annotated[str, typer.Argument(help="Part of an address or a name.")] = ""
) -> None:
    """People, by address."""
    at = _place(context)

    async def work(to: Identity) -> list[administration_pb2.User]:
        found: list[administration_pb2.User] = []
        request = administration_pb2.ListUsersRequest(search=search, page_size=100)
        while True:
            answer = await to.call(to.administration.ListUsers, request)
            found += answer.users
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    showing.users(at.out, _with(at, work))


@users_app.command("disable")
def disable_user(context: typer.Context, subject: str) -> None:
    """Switch an account off, and end everything it holds."""
    request = accounts_pb2.DisableAccountRequest(subject=subject)
    _done(context, lambda to: to.call(to.accounts.DisableAccount, request), f"{subject} is switched off")


@users_app.command("enable")
def enable_user(context: typer.Context, subject: str) -> None:
    """Switch an account on again. What was ended stays ended."""
    request = accounts_pb2.EnableAccountRequest(subject=subject)
    _done(context, lambda to: to.call(to.accounts.EnableAccount, request), f"{subject} is switched on")


@users_app.command("sign-out")
def end_user(context: typer.Context, subject: str) -> None:
    """Sign a person out everywhere."""
    request = administration_pb2.EndUserSessionsRequest(subject=subject)
    _done(
        context, lambda to: to.call(to.administration.EndUserSessions, request), f"{subject} is signed out everywhere"
    )


@users_app.command("roles")
def set_roles(
    context: typer.Context, subject: str, roles: Annotated[list[str] | None, typer.Argument()] = None
) -> None:
    """Set a person's roles: `admin`, or none."""
    request = accounts_pb2.SetRolesRequest(subject=subject, roles=roles or ())
    _done(
        context, lambda to: to.call(to.accounts.SetRoles, request), f"{subject}: {' '.join(roles or ()) or 'no roles'}"
    )


@clients_app.command("list")
def list_clients(context: typer.Context) -> None:
    """Every client there is."""
    at = _place(context)
    request = administration_pb2.ListClientsRequest()
    showing.clients(at.out, _with(at, lambda to: to.call(to.administration.ListClients, request)).clients)


@clients_app.command("disable")
def disable_client(context: typer.Context, client_id: str) -> None:
    """Switch a client off, and end everything it holds."""
    request = accounts_pb2.DisableClientRequest(client_id=client_id)
    _done(context, lambda to: to.call(to.accounts.DisableClient, request), f"{client_id} is switched off")


@clients_app.command("enable")
def enable_client(context: typer.Context, client_id: str) -> None:
    """Switch a client on again."""
    request = accounts_pb2.EnableClientRequest(client_id=client_id)
    _done(context, lambda to: to.call(to.accounts.EnableClient, request), f"{client_id} is switched on")


@clients_app.command("rotate-secret")
def rotate_secret(context: typer.Context, client_id: str) -> None:
    """Give a client a new secret, and show it this once. The old one is dead at once."""
    at = _place(context)
    request = administration_pb2.RotateClientSecretRequest(client_id=client_id)
    answer = _with(at, lambda to: to.call(to.administration.RotateClientSecret, request))
    at.out.print(answer.client_secret, highlight=False)


def _place(context: typer.Context) -> Place:
    at: Place = context.obj
    return at


def _done(context: typer.Context, work: Callable[[Identity], Awaitable[Any]], said: str) -> None:
    at = _place(context)
    _with(at, work)
    at.out.print(f"[green]✓[/green] {escape(said)}", highlight=False)


def _with(at: Place, work: Callable[[Identity], Awaitable[Any]]) -> Any:
    async def connected() -> Any:
        async with opened(at.grpc, at.sign_in, at.sign_in_again) as identity:
            return await work(identity)

    return _run(at, connected())


def _run(at: Place, work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return asyncio.run(work)
    except (ConsoleError, OSError) as error:
        raise _failed(at, str(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _failed(at: Place, why: str) -> typer.Exit:
    at.out.print(f"[red]✗[/red] {escape(why)}", highlight=False)
    return typer.Exit(1)
