"""The `rescind` command line against the running embedded system: each command as somebody types it."""

import asyncio
import contextlib
import json
import os
import re
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from devstack.flow import Browser, OAuthClient
from devstack.seeds import ADMIN, ALICE, ORDERS, PASSWORD
from devstack.stack import Stack
from support.system import a_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")
_TOKEN = re.compile(r"eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}")


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    text: str
    code: int


@dataclass(frozen=True)
class Terminal:
    """Somebody's terminal. `secret`: as the back office, not as a person."""

    stack: Stack
    folder: Path
    secret: bool = False

    def environment(self) -> dict[str, str]:
        addresses = self.stack.addresses
        added = {
            "RESCIND_ISSUER": addresses.issuer,
            "RESCIND_IDENTITY_GRPC": addresses.identity_grpc,
            "RESCIND_CONSOLE_FOLDER": str(self.folder),
        }
        if self.secret:
            added |= {"RESCIND_CLIENT_ID": "backoffice", "RESCIND_CLIENT_SECRET": "backoffice-secret"}
        return {**os.environ, **added}

    async def start(self, *arguments: str, **added: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "console",
            *arguments,
            env=self.environment() | added,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def type(self, *arguments: str, sent: str = "") -> Said:
        process = await self.start(*arguments)
        async with asyncio.timeout(60):
            out, _ = await process.communicate(sent.encode())
        text = out.decode()
        assert "Traceback" not in text, text
        assert _TOKEN.search(text) is None, "a whole token was printed"
        return Said(text, process.returncode or 0)

    async def done(self, *arguments: str, sent: str = "") -> str:
        said = await self.type(*arguments, sent=sent)
        assert said.code == 0, said.text
        return said.text


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with a_stack(tmp_path_factory.mktemp("console")) as stack:
        yield stack


@pytest.fixture
def office(stack: Stack, tmp_path: Path) -> Terminal:
    return Terminal(stack, tmp_path / "kept", secret=True)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the administrator's tokens are."""
    return tmp_path_factory.mktemp("console") / "kept"


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def mobile_token(stack: Stack, email: str = ALICE) -> str:
    issuer = stack.addresses.issuer
    async with httpx2.AsyncClient(timeout=30) as http:
        client = OAuthClient(http, issuer, "mobile", redirect_uri="http://127.0.0.1:7777/callback")
        tokens = await client.sign_in(Browser(http, issuer), email, PASSWORD, scope="orders:read", resource=ORDERS)
    return tokens.access_token


async def signed_in_by_device(terminal: Terminal, email: str) -> str:
    """Signs in as a person does, the code typed into a browser; what the terminal said at the end."""
    return await let_in(terminal, email, "sign-in")


async def let_in(terminal: Terminal, email: str, *command: str) -> str:
    """Lets a command in that waits for somebody to sign in; what it said at the end."""
    process = await terminal.start(*command)
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(60):
        while (found := re.search(r"/device\?user_code=(\S+)", said)) is None:
            line = (await process.stdout.readline()).decode()
            assert line, said
            said += line
    issuer = terminal.stack.addresses.issuer
    async with httpx2.AsyncClient(timeout=30) as http:
        browser = Browser(http, issuer)
        page = await browser.open(f"{issuer}/device?user_code={found[1]}")
        page = await browser.submit(page, "/login", email=email, password=PASSWORD)  # type: ignore[assignment]
        page = await browser.submit(page, "/device")  # type: ignore[assignment]
        await browser.submit(page, "/device", decision="allow")
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def test_an_administrator_signs_in_by_device_and_the_tokens_are_theirs_alone(stack: Stack, kept: Path) -> None:
    terminal = Terminal(stack, kept)
    refused = await terminal.type("status")
    assert (refused.code, "rescind sign-in" in refused.text) == (1, True)
    said = await signed_in_by_device(terminal, ADMIN)
    assert "identity:admin" in said
    (file,) = files_in(kept)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "Log" in await terminal.done("status")
    file.chmod(0o644)
    assert "can be read by others" in (await terminal.type("status")).text
    file.chmod(0o600)


async def test_what_is_dangerous_has_the_person_sign_in_again_and_goes_on(stack: Stack, kept: Path) -> None:
    """Their grant is made an old one, and the token that says otherwise forgotten."""
    path = stack.environment("identity")["IDENTITY_DATABASE_URL"].removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as database, database:
        changed = database.execute("UPDATE grants SET auth_time = auth_time - 601000 WHERE client_id = 'cli'")
        assert changed.rowcount
    (file,) = files_in(kept)
    before = json.loads(file.read_text())
    file.write_text(json.dumps(before | {"expires_at": 0}))
    terminal = Terminal(stack, kept)
    await terminal.done("users", "list")  # looking is let be
    said = await let_in(terminal, ADMIN, "clients", "enable", "partner")
    assert "partner is switched on" in said
    assert "partner is switched on" in await terminal.done("clients", "enable", "partner")
    (file,) = files_in(kept)
    assert json.loads(file.read_text())["refresh_token"] != before["refresh_token"]


async def test_a_person_without_the_role_is_told_so_and_refused(stack: Stack, tmp_path: Path) -> None:
    terminal = Terminal(stack, tmp_path / "alice")
    assert "You are no administrator" in await signed_in_by_device(terminal, ALICE)
    refused = await terminal.type("users", "list")
    assert (refused.code, "INSUFFICIENT_SCOPE" in refused.text) == (1, True)
    assert "Signed out." in await terminal.done("sign-out")
    assert files_in(tmp_path / "alice") == []
    assert "Nobody was signed in" in await terminal.done("sign-out")


async def test_a_token_is_taken_apart_verified_and_never_shown_whole(office: Terminal, stack: Stack) -> None:
    token = await mobile_token(stack)
    text = await office.done("token", "inspect", "--ask", sent=token)
    for told in (
        "urn:rescind:orders",
        "the login session it hangs on",
        "UTC)",
        "signature is the issuer's",
        "good right",
    ):
        assert told in text
    jti = re.search(r"jti\s+(\S+)", text)
    assert jti is not None
    await office.done("revoke", "token", jti[1], "--cause", "TESTED")
    refused = await office.type("token", "inspect", "--ask", sent=f"Bearer {token}\n")
    assert (refused.code, "TOKEN_REVOKED" in refused.text) == (1, True)
    head, payload, signature = token.split(".")
    for wrong, why in (
        (f"{head}.{payload}.{signature[:-8]}AAAAAAAA", "Not to be believed"),
        ("opaque-as-a-refresh-token", "It is opaque"),
        (f"{head}.{payload}", "2 segments"),
        ("", "nothing to read"),
        ("e30.e30.e30", "Not to be believed"),
    ):
        said = await office.type("token", "inspect", sent=wrong)
        assert (said.code, why in said.text) == (1, True), said.text


@pytest.mark.parametrize(("kind", "claim"), [("session", "sid"), ("grant", "gid"), ("subject", "sub")])
async def test_each_kind_is_taken_back_and_seen_in_the_log(
    office: Terminal, stack: Stack, kind: str, claim: str
) -> None:
    token = await mobile_token(stack)
    found = re.search(rf"\b{claim}\s+(\S+)", await office.done("token", "inspect", sent=token))
    assert found is not None
    said = await office.done("revoke", kind, found[1], "--wait", "--cause", f"TESTED_{kind.upper()}")
    position = re.search(r"position (\d+)", said)
    assert position is not None
    assert (await office.type("token", "inspect", "--ask", sent=token)).code == 1
    (line,) = [line for line in (await office.done("watch", "--once")).splitlines() if f"TESTED_{kind.upper()}" in line]
    assert line.split()[0] == position[1]
    assert found[1] in line
    assert "nothing to take back" in await office.done(
        "revoke", kind if kind != "subject" else "grant", found[1][:-1] + "x"
    )


async def test_what_is_no_target_is_refused_in_words(office: Terminal) -> None:
    said = await office.type("revoke", "subject", "svc_x")
    assert (said.code, "BAD_TARGET" in said.text) == (1, True)
    said = await office.type("revoke", "session", "x", "--soft")
    assert (said.code, "SOFT_NOT_POSSIBLE" in said.text) == (1, True)
    for begins_with_a_dash in ("-o6ipiGhh_OdmgKT", "--6ipiGhh_OdmgKT"):
        assert "nothing to take back" in await office.done("revoke", "grant", begins_with_a_dash, "--cause", "TESTED")
    assert (await office.type("revoke", "token", "x", "--sofft")).code == 2


async def test_the_log_is_watched_live(office: Terminal, stack: Stack) -> None:
    """By asking identity again and again, and by listening to Redis."""
    processes = [
        await office.start("watch", "--receipts"),
        await office.start("watch", "--receipts", RESCIND_REDIS_URL=stack.redis_url),
    ]
    try:
        token = await mobile_token(stack)
        found = re.search(r"\bsid\s+(\S+)", await office.done("token", "inspect", sent=token))
        assert found is not None
        await office.done("revoke", "session", found[1], "--cause", "SEEN_LIVE")
        async with asyncio.timeout(30):
            for process in processes:
                assert process.stdout is not None
                while b"SEEN_LIVE" not in (line := await process.stdout.readline()):
                    assert line
                assert b"Applied by" in await process.stdout.readline()
    finally:
        for process in processes:
            process.kill()
            await process.wait()


async def test_people_clients_and_keys_are_looked_after(stack: Stack, kept: Path, office: Terminal) -> None:
    listed = await office.done("users", "list", "alice")
    assert "Alice Example" in listed
    assert ADMIN not in listed
    subject = re.search(r"usr_\S+", listed)
    assert subject is not None
    token = await mobile_token(stack)
    for command, good in (("sign-out", False), ("disable", False), ("enable", True)):
        await office.done("users", command, subject[0])
        assert (await office.type("token", "inspect", "--ask", sent=token)).code == 1
        if good:
            assert await mobile_token(stack)
    await office.done("users", "roles", subject[0], "admin")
    assert "admin" in (await office.done("users", "list", "alice")).split()
    await office.done("users", "roles", subject[0])
    assert "partner" in await office.done("clients", "list")
    await office.done("clients", "disable", "partner")
    assert "off" in await office.done("clients", "list")
    await office.done("clients", "enable", "partner")
    assert len((await office.done("clients", "rotate-secret", "partner")).strip()) == 43
    assert "active" in await office.done("keys", "list")
    await office.done("keys", "rotate")
    retired = re.search(r"(\S+)\s+retired", await office.done("keys", "list"))
    assert retired is not None
    await office.done("revoke", "key", retired[1])
    assert "revoked" in await office.done("keys", "list")
    text = await office.done("audit")
    for action in ("ACCOUNT_DISABLED", "CLIENT_SECRET_ROTATED", "KEYS_ROTATED", "KEY_REVOKED", "ROLES_CHANGED"):
        assert action in text
    assert "svc_backoffice" in text
    # The administrator's kept token was signed with the key that is refused now: it is refreshed by itself.
    assert "Log" in await Terminal(stack, kept).done("status")


async def test_a_wrong_secret_and_nobody_there_are_said_in_one_line(office: Terminal) -> None:
    env = {**office.environment(), "RESCIND_CLIENT_SECRET": "wrong"}
    for changed, said in (
        (env, "its secret is wrong"),
        ({**env, "RESCIND_ISSUER": "http://localhost:1"}, "does not answer"),
    ):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "console", "status", env=changed, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode == 1
        assert said in out.decode()
