"""The web app's scripts: their JSDoc types hold, checked by TypeScript."""

import json
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "services/session/web/js"


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
