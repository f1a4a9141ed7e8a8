"""What all tests share: what they may need (support.requirements), containers, servers, and worlds of session."""

from pathlib import Path

import pytest

from support.requirements import need

pytest_plugins = ["support.containers", "support.redis_servers", "support.session_fixtures"]

# `make test` runs two workers. Tests that start whole systems of processes go one after another on one of them, from
# the beginning; everything else, a file at a time, on the other, and at the end what needs a browser or Node.
TOGETHER = {"system": 0, "browser": 2, "peers": 2}
_HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Says which tests stay together, and in which order."""
    for item in items:
        folder = _folder(item)
        group = folder if folder in TOGETHER else item.path.relative_to(_HERE).as_posix()
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: TOGETHER.get(_folder(item), 1))


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(_HERE).parts[0]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.docker`, `browser`, `node`: skipped, or failed, when the machine has no such thing."""
    for requirement in ("docker", "browser", "node"):
        if item.get_closest_marker(requirement) is not None:
            need(requirement)
