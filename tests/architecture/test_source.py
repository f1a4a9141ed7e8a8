"""What the folders promise about their files, and import-linter cannot say."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = ("libs/contracts/", "libs/rescind/_wire/")
LONGEST = 400
# Longer, and why nothing is gained by cutting them.
LONGER = {
    "libs/devstack/flow.py": "a whole OAuth client, to be read and copied in one piece",
    "services/identity/issuing.py": "the issuing rules, of which none may be overlooked",
    "tests/integration/test_signin.py": "the door, attempt by attempt, on one fixture",
}
# Reads the environment beside settings.py, and why.
ENVIRONMENT = {
    "bench/__main__.py": "sets what gRPC reads at import",
    "libs/devstack/process.py": "hands its own environment on to the processes that it starts",
    "libs/servicekit/settings.py": "tells a variable that is missing from one that is wrong",
}


def sources(*folders: str) -> list[Path]:
    """Every Python file of ours below these folders."""
    found = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return [path for path in found if not name(path).startswith(GENERATED) and "node_modules" not in path.parts]


def name(path: Path) -> str:
    """The path from the root."""
    return path.relative_to(ROOT).as_posix()


def calls_and_names(path: Path) -> Iterator[ast.AST]:
    """Every node of a file."""
    return ast.walk(ast.parse(path.read_text(), name(path)))


def test_files_are_short_or_say_why_not() -> None:
    long = {name(path) for path in sources("libs", "services", "tests", "tools", "bench") if _lines(path) > LONGEST}
    assert long == set(LONGER)


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("path", sorted((ROOT / "services").glob("*/domain.py")), ids=name)
def test_domain_imports_only_the_standard_library(path: Path) -> None:
    imported = {
        module.partition(".")[0]
        for node in calls_and_names(path)
        for module in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or f"{'.' * node.level}"]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported
    assert imported <= sys.stdlib_module_names


def test_the_environment_is_read_in_settings_only() -> None:
    readers = {
        name(path)
        for path in sources("libs", "services", "bench")
        if any(
            (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"))
            or (isinstance(node, ast.ImportFrom) and node.module == "os")
            for node in calls_and_names(path)
        )
    }
    assert readers == set(ENVIRONMENT)


@pytest.mark.parametrize("path", sorted((ROOT / "services").glob("*/__main__.py")), ids=name)
def test_a_main_can_be_read_in_one_breath(path: Path) -> None:
    assert _lines(path) <= 25


@pytest.mark.parametrize("path", sorted((ROOT / "services").glob("*/__init__.py")), ids=name)
def test_a_service_introduces_itself(path: Path) -> None:
    charter = ast.get_docstring(ast.parse(path.read_text())) or ""
    for word in ("Owns", "Publishes", "Consumes", "Never"):
        assert re.search(rf"\b{word}\b", charter), word


def test_no_test_sleeps_outside_the_tests_of_whole_systems() -> None:
    """`sleep(0)` lets others have their turn; a pause inside a loop that has a deadline is `eventually`."""
    sleepers = {
        f"{name(path)}:{node.lineno}"
        for path in sources("tests")
        if not name(path).startswith("tests/system/") and name(path) != "tests/support/eventually.py"
        for node in calls_and_names(path)
        if isinstance(node, ast.Call)
        and "sleep" in ast.unparse(node.func).rpartition(".")[2]
        and not (node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0)
    }
    assert sleepers == set()


def test_nothing_but_loopback_and_examples_is_named_in_lock_files() -> None:
    locks = sorted((ROOT / "locks").glob("*.lock"))
    assert locks
    for lock in locks:
        text = lock.read_text()
        assert "--hash=sha256:" in text
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links|--trusted-host", text), name(lock)


def test_no_path_of_a_machine_is_in_the_source() -> None:
    machine = re.compile(r"/(work|root|home)/\w")
    named = {
        name(path)
        for path in [*sources("libs", "services", "tests", "tools", "bench"), *sorted((ROOT / "docs").rglob("*.md"))]
        if path != Path(__file__) and machine.search(path.read_text())
    }
    assert named == set()


def test_generated_code_is_what_the_protos_say() -> None:
    checked = subprocess.run([sys.executable, "tools/proto.py", "--check"], cwd=ROOT, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr.decode()


def test_imports_keep_their_contracts() -> None:
    checked = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout.decode()
