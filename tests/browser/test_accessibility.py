"""The pages for everybody: axe-core finds nothing serious, nothing overflows, the scripts' types are right."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from playwright.async_api import expect

from devstack.seeds import ADMIN
from support.browsers import NewWindow, Web, opened, sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
NODE = Path(__file__).parent / "node"
SCRIPTS = Path(__file__).parents[2] / "services/session/web/js"
PAGES = {"shop": "Shop", "devices": "Devices", "lab": "Token lab", "orders": "Orders", "control": "Control room"}
PAGES |= {"preferences": "Preferences"}
_AUDIT = "async () => (await axe.run(document, {resultTypes: ['violations']})).violations"


@pytest.fixture(scope="session")
def npm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the checks' packages are, installed from their lock file."""
    folder = tmp_path_factory.mktemp("web-checks")
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(NODE / name, folder / name)
    command = ["npm", "ci", "--no-progress", "--ignore-scripts"]
    installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110, check=False)
    if installed.returncode:
        missing = f"npm cannot install the checks: {installed.stderr.strip()[-500:]}"
        (pytest.fail if "node" in os.environ.get("RESCIND_REQUIRE", "") else pytest.skip)(missing)
    return folder / "node_modules"


@pytest.mark.node
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
async def test_axe_finds_nothing_serious_and_nothing_overflows(
    new_window: NewWindow, npm: Path, scheme: str, width: int
) -> None:
    mine = await new_window(color_scheme=scheme, viewport={"width": width, "height": 844}, reduced_motion="reduce")
    page, found = mine.page, []
    audit = (npm / "axe-core" / "axe.min.js").read_text()

    async def look(where: str) -> None:
        await page.evaluate(audit)
        for violation in await page.evaluate(_AUDIT):
            if violation["impact"] in ("serious", "critical"):
                targets = [node["target"] for node in violation["nodes"][:3]]
                found.append(f"{where}: {violation['id']}: {violation['help']} {json.dumps(targets)}")
        if await page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found.append(f"{where}: wider than the window")

    await opened(page, "/")
    await look("landing")
    await sign_in(page, ADMIN)
    for path, title in PAGES.items():
        await opened(page, f"/#/{path}")
        await expect(page.get_by_role("heading", name=title, level=1)).to_be_visible()
        await expect(page.locator(".loading")).to_have_count(0)
        await look(path)
    await page.get_by_role("button", name="Account of").click()
    await look("account menu")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Inbox,").click()
    await look("inbox")
    assert found == []


async def test_everything_is_reached_by_keyboard(new_window: NewWindow) -> None:
    mine = await new_window()
    await sign_in(mine.page, ADMIN)
    await opened(mine.page, "/#/devices")
    await mine.page.keyboard.press("Tab")
    await expect(mine.page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await mine.page.keyboard.press("Enter")
    await expect(mine.page.get_by_role("main")).to_be_focused()
    await mine.page.keyboard.press("Tab")
    await mine.page.keyboard.press("Tab")
    await expect(mine.page.get_by_role("button", name="Sign out everywhere")).to_be_focused()
    await mine.page.keyboard.press("Enter")
    dialog = mine.page.get_by_role("dialog")
    await expect(dialog).to_be_visible()
    await mine.page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(mine.page.get_by_role("button", name="Sign out everywhere")).to_be_focused()


@pytest.mark.requirement(35)
async def test_nothing_comes_from_elsewhere_and_nothing_is_inline(new_window: NewWindow, web: Web) -> None:
    mine = await new_window()
    complaints: list[str] = []
    mine.page.on(
        "console", lambda said: complaints.append(said.text) if "Content Security Policy" in said.text else None
    )
    asked: list[str] = []
    mine.page.on("request", lambda request: asked.append(request.url))
    await sign_in(mine.page, ADMIN)
    for path in PAGES:
        await opened(mine.page, f"/#/{path}")
    known = (web.url + "/", web.stack.addresses.issuer + "/", "about:blank")
    assert [url for url in asked if not url.startswith(known)] == []
    assert complaints == []


@pytest.mark.node
def test_the_scripts_types_are_right(npm: Path, tmp_path: Path) -> None:
    options = {"checkJs": True, "allowJs": True, "noEmit": True, "strict": True, "target": "es2023", "module": "es2022"}
    options |= {"moduleResolution": "bundler", "lib": ["es2023", "dom", "dom.iterable"], "types": []}
    options |= {"noUnusedLocals": True, "noUnusedParameters": True, "noUncheckedIndexedAccess": True}
    settings = tmp_path / "tsconfig.json"
    settings.write_text(json.dumps({"compilerOptions": options, "include": [f"{SCRIPTS}/**/*.js"]}))
    command = ["node", str(npm / "typescript" / "bin" / "tsc"), "--project", str(settings)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert checked.returncode == 0, checked.stdout
