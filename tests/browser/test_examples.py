"""The example clients as people start them, each against the real system, in a real browser."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from playwright.async_api import expect

from devstack.seeds import ALICE, BOB
from devstack.stack import free_port
from support.browsers import JWS, NewWindow, Web, enter_password, go, sign_in
from support.eventually import eventually

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
EXAMPLES = Path(__file__).parents[2] / "examples"
START = 30.0  # seconds


@contextlib.asynccontextmanager
async def started(name: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """An example as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()


@contextlib.asynccontextmanager
async def serving(name: str, own: str, *arguments: str) -> AsyncIterator[None]:
    """An example that serves at `own`, once it does."""
    async with started(name, "--own", own, *arguments) as process, httpx2.AsyncClient(trust_env=False) as http:

        async def answers() -> bool:
            assert process.returncode is None, f"{name} ended with {process.returncode}"
            with contextlib.suppress(httpx2.HTTPError):
                return (await http.get(own)).status_code < 500
            return False

        await eventually(answers, within=START)
        yield


async def test_a_server_rendered_app_holds_the_cookie_and_nothing_else(web: Web, new_window: NewWindow) -> None:
    at, own = web.stack.addresses, f"http://localhost:{free_port()}"
    peers = ("--session", at.session, "--session-grpc", at.session_grpc, "--issuer", at.issuer, "--orders", at.orders)
    async with serving("server_rendered.py", own, *peers):
        mine = await new_window(java_script_enabled=True)
        page = await mine.witness.context.new_page()
        await page.goto(own)
        await expect(page.get_by_text("Nobody is signed in.")).to_be_visible()
        await sign_in(mine.page, BOB)
        await page.goto(own)
        await expect(page.get_by_text("signed in as")).to_contain_text("usr_")
        before = await page.get_by_role("listitem").filter(has_text="ord_").count()
        await page.get_by_role("button", name="Order one").click()
        await expect(page.get_by_role("listitem").filter(has_text="ord_")).to_have_count(before + 1)
        await page.get_by_label("Product").fill("no-such-thing")
        await page.get_by_role("button", name="Order one").click()
        await expect(page.get_by_role("alert")).not_to_be_empty()
        await mine.page.evaluate(
            "fetch('/auth/logout', {method: 'POST', headers: {'X-Rescind-Request': '1'}}).then(answer => answer.text())"
        )
        async with page.expect_response("**/orders") as sent:  # the form that is still open
            await page.get_by_role("button", name="Order one").click()
        assert (await sent.value).status == 401
        await expect(page.get_by_role("alert")).to_contain_text("Your session has ended")
        await expect(page.get_by_role("link", name="Sign in")).to_have_attribute("href", f"{at.session}/auth/login")
        await page.goto(own)
        await expect(page.get_by_text("Nobody is signed in.")).to_be_visible()
        assert await mine.witness.tokens() == []


@pytest.mark.requirement(56)
@pytest.mark.requirement(61)
async def test_a_third_party_is_allowed_and_taken_back_under_devices(web: Web, new_window: NewWindow) -> None:
    at, own = web.stack.addresses, f"http://127.0.0.1:{free_port()}"
    async with serving("single_page.py", own, "--issuer", at.issuer, "--orders", at.orders):
        mine = await new_window()
        await sign_in(mine.page, ALICE)
        partner = await mine.witness.context.new_page()
        await mine.witness.watch(partner)
        await partner.goto(own)
        await partner.get_by_role("button", name="Connect with Rescind").click()
        await partner.get_by_role("button", name="Allow").click()  # signed in at identity already: consent is all
        await expect(partner.get_by_role("status")).to_contain_text("orders")

        await go(mine.page, "Devices")
        offline = mine.page.get_by_role("region", name="Apps with offline access")
        await offline.get_by_role("button", name="Take back: Partner Analytics").first.click()
        await mine.page.get_by_role("dialog").get_by_role("button", name="Take it back").click()
        await expect(mine.page.get_by_role("region", name="News")).to_contain_text("Its access is taken back")
        await partner.get_by_role("button", name="Look again").click()
        await expect(partner.get_by_role("status")).to_contain_text("withdrawn")
        assert await mine.witness.tokens() == []


async def test_a_native_app_signs_in_by_the_systems_browser(web: Web, new_window: NewWindow) -> None:
    at = web.stack.addresses
    async with started("native.py", "--no-browser", "--issuer", at.issuer, "--orders", at.orders) as process:
        assert process.stderr is not None
        async with asyncio.timeout(START):
            line = (await process.stderr.readline()).decode()
        url = line.removeprefix("Sign in here: ").strip()
        mine = await new_window()
        await mine.page.goto(url)
        await enter_password(mine.page, ALICE)
        await expect(mine.page.get_by_text("You can close this window")).to_be_visible()
        async with asyncio.timeout(START):
            said, problems = await process.communicate()
        assert process.returncode == 0, problems.decode()
        assert "access for" in said.decode()
        assert not JWS.search(said.decode())
