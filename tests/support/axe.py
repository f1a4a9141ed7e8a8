"""axe-core in a page: what it finds that keeps people out."""

import json
from pathlib import Path

from playwright.async_api import Page

_AUDIT = "async () => (await axe.run(document, {resultTypes: ['violations']})).violations"
_KEEPS_PEOPLE_OUT = ("serious", "critical")


async def violations(page: Page, npm: Path, where: str) -> list[str]:
    """What is serious or worse in the page as it is now. `npm` is where axe-core is installed."""
    await page.evaluate((npm / "axe-core" / "axe.min.js").read_text())
    found = []
    for violation in await page.evaluate(_AUDIT):
        if violation["impact"] in _KEEPS_PEOPLE_OUT:
            targets = [node["target"] for node in violation["nodes"][:3]]
            found.append(f"{where}: {violation['id']}: {violation['help']} {json.dumps(targets)}")
    return found
